"""The barrier over several nodes on one store: none admits by another pointer than the others, whoever dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bgproxy import tasks
from bgproxy.errors import BadInput, FlipAbandoned, FlipOpen, KeyReused, NotReady, Split, StoreUnavailable
from bgproxy.rollout import barrier as module
from bgproxy.rollout.barrier import Barrier, FlipOptions
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.restore import Contradiction, Verdict, restored
from bgproxy.store.base import Held, Holding, NodeReport, Store, StoreOptions, open_store
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import Done, Once
from tests.clocks import Clock

FLIP = Move("flip", "green", "ada", "why")


class Node:
    """One process: what it admits by, and its part of the barrier."""

    def __init__(self, name: str, store: Store, log: list[tuple[str, str]], clock: Clock) -> None:
        self.name = name
        self.log = log  # what every node admitted by, in the order in which it happened
        self.held = self.is_early = False
        self.mirror = Mirror(store, read_interval=0.02)
        self.ledger = Ledger(store, self.mirror, lambda: 1.0)
        self.store = store
        self.fenced: dict[str, int] = {}  # what this node knows of others
        self.barrier = Barrier(
            *(self.ledger, self.mirror, store, name, FlipOptions(), self),
            fenced=self.fenced_among,
            clock=lambda: clock.now,
        )
        self.mirror.listen(self.apply)
        self.mirror.listen(self.barrier.apply)
        self.watching: asyncio.Task[None] | None = None

    def apply(self, state: FleetState) -> None:
        self.held = state.is_held or self.is_early

    @property
    def is_shut(self) -> bool:
        return self.held

    def shut(self) -> None:
        self.held = self.is_early = True

    def settle(self) -> None:
        self.is_early = False
        self.apply(self.state)

    async def fenced_among(self, nodes: Sequence[str], _: bool) -> dict[str, int]:
        return {node: serial for node, serial in self.fenced.items() if node in nodes}

    def admit(self) -> None:
        if not self.held and self.mirror.state is not None:
            self.log.append((self.name, self.mirror.state.pointer.active))

    async def start(self) -> None:
        await self.store.beat(NodeReport(self.name, "host", 1, "0", 1))
        await self.mirror.start()

    async def die(self) -> None:
        """As by a kill: nothing of it runs on, and the store is told nothing."""
        await self.barrier.stop()
        await self.mirror.stop()

    @property
    def idle(self) -> str:
        return "green" if self.state.pointer.active == "blue" else "blue"

    @property
    def state(self) -> FleetState:
        assert self.mirror.state is not None
        return self.mirror.state


class Fleet:
    def __init__(self, store: Store, nodes: list[Node], log: list[tuple[str, str]], clock: Clock) -> None:
        self.clock = clock
        self.store = store
        self.nodes = nodes
        self.log = log

    async def agree(self, active: str, epoch: int) -> None:
        """Every node comes to route by this, and holds nothing."""
        wanted = (active, epoch, False)
        await self.come(
            lambda: all((n.state.pointer.active, n.state.pointer.epoch, n.held) == wanted for n in self.nodes)
        )

    async def come(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():  # noqa: ASYNC110 - what is waited for happens in other tasks of several nodes
                await asyncio.sleep(0)

    async def time_is_up(self, *silent: str, more: float = 0.0) -> None:
        """As soon as all hold but these."""
        async with asyncio.timeout(5):
            while True:
                state = await self.store.read()
                hold = state and (state.pending or state.pause)
                if hold and await self.store.asleep(Held(hold.revision)) == list(silent):
                    break
                await asyncio.sleep(0)
        self.clock.now += FlipOptions().hold_timeout + more

    async def verbs(self) -> list[str]:
        return [entry.verb for entry in reversed(await self.store.audit(limit=100))][1:]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.02)
    monkeypatch.setattr(module, "_AGAIN", 0.02)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    store = open_store(StoreOptions())
    log: list[tuple[str, str]] = []
    clock = Clock(100.0)
    nodes = [Node(name, store, log, clock) for name in ("n1", "n2", "n3")]
    releases = {
        color: Release(label, ("http://127.0.0.1:1",), phase=Phase.READY)
        for color, label in (("blue", "v1"), ("green", "v2"))
    }
    await nodes[0].ledger.bootstrap(("blue", "green"), "blue", releases, actor="test")
    for node in nodes:
        await node.start()
    yield Fleet(store, nodes, log, clock)
    for node in nodes:
        await node.die()


async def test_every_node_has_moved_and_the_record_says_how(fleet: Fleet) -> None:
    outcome = await fleet.nodes[1].barrier.move(FLIP)
    assert (outcome.changed, outcome.state.pointer.active, outcome.state.pointer.actor) == (True, "green", "ada")
    await fleet.agree("green", 2)
    assert await fleet.verbs() == ["prepare", "flip"]
    back = await fleet.nodes[2].barrier.move(Move("rollback", "", "bob", "bad"))
    assert back.state.pointer.active == "blue"
    await fleet.agree("blue", 3)
    assert await fleet.verbs() == ["prepare", "flip", "prepare", "rollback"]


async def test_no_node_admits_to_the_old_color_once_one_does_to_the_new(fleet: Fleet) -> None:
    over = False

    async def traffic(node: Node) -> None:
        while not over:
            node.admit()
            await asyncio.sleep(0)

    running = [tasks.spawn(traffic(node), "traffic") for node in fleet.nodes]
    flips = 30
    for number in range(flips):
        to = ("green", "blue")[number % 2]
        await fleet.nodes[number % 3].barrier.move(Move("flip", to, "ada", ""))
        for _ in range(5):
            await asyncio.sleep(0)
    over = True
    await asyncio.gather(*running)
    changes = sum(one[1] != two[1] for one, two in zip(fleet.log, fleet.log[1:], strict=False))
    assert changes <= flips, "each flip changes where all admit to, once"
    assert {name for name, _ in fleet.log} == {"n1", "n2", "n3"}


async def test_a_node_that_is_silent_makes_it_be_given_up_and_is_named(fleet: Fleet) -> None:
    await fleet.nodes[2].die()
    up = tasks.spawn(fleet.time_is_up("n3"), "time")
    with pytest.raises(FlipAbandoned, match=r"blue stays active: 1 of the nodes did not say in time.*: n3;") as refused:
        await fleet.nodes[0].barrier.move(FLIP)
    await up
    assert refused.value.extra["nodes"] == ["n3"]
    fleet.nodes.pop()
    await fleet.agree("blue", 1)
    assert await fleet.verbs() == ["prepare", "abandon"]
    [entry] = await fleet.store.audit(limit=1)
    assert (entry.facts["silent"], entry.facts["asked_by"]) == (["n3"], "ada")
    # It is left behind when that is asked for, and from then on by nobody who has not.
    outcome = await fleet.nodes[0].barrier.move(FLIP, exclude=("n3",))
    assert outcome.entry is not None
    assert outcome.entry.facts["left_behind"] == ["n3"]
    await fleet.agree("green", 2)
    up = tasks.spawn(fleet.time_is_up("n3"), "time")
    with pytest.raises(FlipAbandoned):
        await fleet.nodes[1].barrier.move(Move("flip", "blue", "ada", ""))
    await up
    await fleet.store.leave("n3")
    await fleet.nodes[1].barrier.move(Move("flip", "blue", "ada", ""))
    await fleet.agree("blue", 3)


async def test_where_not_every_node_is_known_nobody_is_held_up_for_long(fleet: Fleet) -> None:
    found = fleet.nodes[0].state
    lost = replace(found, revision=found.revision + 1)
    await fleet.store.commit(restored(Contradiction(Verdict.BEHIND, lost, found), actor="bgproxy", reason="lost"))
    await fleet.come(lambda: all(node.state.revision == 3 for node in fleet.nodes))
    with pytest.raises(FlipAbandoned, match=r"blue stays active: the store had lost its data, .* flip again"):
        await fleet.nodes[0].barrier.move(FLIP)
    assert await fleet.verbs() == ["restore", "prepare", "abandon"]
    await fleet.agree("blue", 1)


async def test_one_that_has_fenced_itself_is_left_behind(fleet: Fleet) -> None:
    await fleet.nodes.pop().die()
    first = fleet.nodes[0]
    first.fenced = {"n3": 0}
    outcome = await first.barrier.move(FLIP)
    assert outcome.entry is not None
    assert outcome.entry.facts["left_behind"] == ["n3"]


async def test_but_not_where_it_has_beaten_since_that_was_judged(fleet: Fleet) -> None:
    await fleet.nodes.pop().die()
    first = fleet.nodes[0]
    asked: list[Sequence[str]] = []

    async def judged(nodes: Sequence[str], _: bool) -> dict[str, int]:
        """It comes back before the flip is made, and from then on nobody takes it for fenced."""
        asked.append(nodes)
        if len(asked) > 1:
            return {}
        await fleet.store.beat(NodeReport("n3", "host", 1, "0", 1, serial=1))
        return {"n3": 0}

    first.barrier._fenced = judged
    up = tasks.spawn(fleet.time_is_up("n3"), "time")
    with pytest.raises(FlipAbandoned, match="n3;"):
        await first.barrier.move(FLIP)
    await up
    assert len(asked) > 1


async def test_a_stranger_cannot_be_left_behind(fleet: Fleet) -> None:
    with pytest.raises(BadInput, match="there is no node 'n7'; registered are n1, n2, n3"):
        await fleet.nodes[0].barrier.move(FLIP, exclude=("n7", "n1"))
    assert await fleet.verbs() == []


@pytest.mark.parametrize("step", ["prepared", "all hold", "made"])
async def test_its_coordinator_dies_between_two_steps(fleet: Fleet, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it had done, the others end what it left, once, and a retry under its key is told of it."""
    first, key = fleet.nodes[0], Once("a key", "asked")
    straight, dead = first.barrier._complete, asyncio.Event()

    async def until_it_dies(*given: Any) -> Outcome:
        if step == "all hold":
            held = Held(given[0].revision, frozenset(("n1",)))
            while await fleet.store.asleep(held):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
        elif step == "made":
            await straight(*given)
        dead.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(first.barrier, "_complete", until_it_dies)
    move = tasks.spawn(first.barrier.move(FLIP, key), "coordinator")
    await dead.wait()
    await tasks.stop(move)
    await first.die()
    fleet.nodes.pop(0)
    await fleet.store.leave("n1")
    await fleet.agree("green", 2)
    assert await fleet.verbs() == ["prepare", "flip"]
    again = await fleet.nodes[0].barrier.move(FLIP, key)
    assert again.replay is not None
    assert (again.replay.active, again.replay.epoch, again.changed) == ("green", 2, True)
    assert await fleet.verbs() == ["prepare", "flip"]


async def test_a_dead_coordinator_that_is_still_registered_holds_nobody_for_ever(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fleet.nodes.pop(0)
    monkeypatch.setattr(first.barrier, "_say_so", lambda *_: asyncio.sleep(0))
    monkeypatch.setattr(first.barrier, "_complete", lambda *_: asyncio.Event().wait())
    move = tasks.spawn(first.barrier.move(FLIP), "coordinator")
    await fleet.come(lambda: first.state.pending is not None)
    await tasks.stop(move)
    await first.die()
    await fleet.time_is_up("n1", more=module._AGAIN)
    await fleet.agree("blue", 1)
    assert await fleet.verbs() == ["prepare", "abandon"]


async def test_who_commits_does_not_wait_for_itself(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    straight, with_reading = fleet.store.hold, fleet.store.hold_and_read

    async def hold(node: str, revision: int) -> int:
        said.append(node)
        return await straight(node, revision)

    async def hold_and_read(node: str, *given: Any) -> Any:
        said.append(node)
        return await with_reading(node, *given)

    monkeypatch.setattr(fleet.store, "hold", hold)
    monkeypatch.setattr(fleet.store, "hold_and_read", hold_and_read)
    monkeypatch.setattr(module, "_PATIENCE", 60.0)  # by then another has to commit
    for _ in range(2):
        said.clear()
        await fleet.nodes[0].barrier.move(Move("flip", fleet.nodes[0].idle, "ada", ""))
        assert set(said) == {"n2", "n3"}


async def test_two_operators_at_once(fleet: Fleet) -> None:
    asked = [node.barrier.move(Move("flip", "green", node.name, "", if_epoch=1)) for node in fleet.nodes]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    won = [one for one in outcomes if isinstance(one, Outcome)]
    lost = [one for one in outcomes if isinstance(one, FlipOpen)]
    assert (len(won), len(lost)) == (1, 2)
    assert {one.extra["flip"]["actor"] for one in lost} == {won[0].state.pointer.actor}
    await fleet.agree("green", 2)


async def test_twins_under_one_key_are_one_flip(fleet: Fleet) -> None:
    key = Once("a key", "asked")
    outcomes = await asyncio.gather(*(node.barrier.move(FLIP, key) for node in fleet.nodes))
    assert {(one.changed, one.state.pointer.epoch) for one in outcomes} == {(True, 2)}
    assert await fleet.verbs() == ["prepare", "flip"]


async def test_a_key_that_an_open_flip_has_for_something_else(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = fleet.nodes
    monkeypatch.setattr(first.barrier, "_complete", lambda *_: asyncio.Event().wait())
    move = tasks.spawn(first.barrier.move(FLIP, Once("a key", "asked")), "coordinator")
    await fleet.come(lambda: second.state.pending is not None)
    with pytest.raises(KeyReused):
        await second.barrier.move(Move("flip", "green", "bob", ""), Once("a key", "something else"))
    await tasks.stop(move)


@pytest.mark.parametrize("asked", ["asked", "something else"])
async def test_a_key_that_is_used_up_while_a_flip_is_open_holds_nobody_for_ever(fleet: Fleet, asked: str) -> None:
    """What its key tells did not come of this flip: nobody can make it any more, so whoever looks gives it up."""
    first, second, third = fleet.nodes
    await third.die()
    move = tasks.spawn(first.barrier.move(FLIP, Once("a key", "asked")), "coordinator")
    await fleet.come(lambda: second.state.pending is not None)
    await fleet.store.keep(Once("a key", asked).key, Done.of(asked, second.state, changed=False))
    await fleet.store.leave("n3")
    fleet.nodes.pop()
    with pytest.raises(FlipAbandoned, match="blue stays active"):
        await move
    await fleet.agree("blue", 1)
    assert await fleet.verbs() == ["prepare", "abandon"]
    [entry] = await fleet.store.audit(limit=1)
    assert entry.reason.startswith("the idempotency key of this flip was used for something else")


async def test_a_target_that_falls_while_all_hold(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fleet.nodes[0]
    straight = first.barrier._complete

    async def after_a_fall(*given: Any) -> Outcome:
        def fall(state: FleetState) -> Any:
            rotten = module.barrier.replace(state.releases["green"], phase=Phase.REJECTED)
            return module.barrier.changed(state, {"green": rotten}, "phase", {}, "test", "")

        await first.ledger.make(fall)
        return await straight(*given)

    monkeypatch.setattr(first.barrier, "_complete", after_a_fall)
    with pytest.raises(FlipAbandoned, match="blue stays active: green holds v2, which is rejected"):
        await first.barrier.move(FLIP)
    await fleet.agree("blue", 1)


async def test_what_would_be_refused_makes_nobody_hold(fleet: Fleet) -> None:
    with pytest.raises(NotReady):
        await fleet.nodes[0].barrier.move(Move("flip", "green", "ada", "", problem="down"))
    unchanged = await fleet.nodes[0].barrier.move(Move("flip", "blue", "ada", ""))
    assert not unchanged.changed
    assert await fleet.verbs() == []


async def test_a_store_that_is_away_for_a_moment(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes hold, and cannot say so: they do when the store is back, and the flip goes on."""
    straight, failures = fleet.store.hold, iter(range(4))

    async def hold(node: str, revision: int) -> int:
        if next(failures, None) is not None:
            raise StoreUnavailable("away")
        return await straight(node, revision)

    monkeypatch.setattr(fleet.store, "hold", hold)
    assert (await fleet.nodes[0].barrier.move(FLIP)).changed
    await fleet.agree("green", 2)


async def test_who_rings_for_nothing_holds_nobody_up_but_once_in_a_while(fleet: Fleet) -> None:
    first = fleet.nodes[0]
    shut, straight = list[float](), first.shut
    first.shut = lambda: (shut.append(fleet.clock.now), straight())[1]  # type: ignore[method-assign]
    for _ in range(50):
        await first.mirror.rung_to_hold(Holding(999))
        assert not first.held
        fleet.clock.now += 0.1
    assert 3 <= len(shut) <= 5
    assert (await first.barrier.move(FLIP)).changed
    await fleet.agree("green", 2)


async def test_one_whose_word_may_have_counted_holds_on_where_the_store_has_lost_the_flip(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its word the flip may have been made, and others may route by it."""
    third = fleet.nodes[2]

    async def lost(*_: Any) -> Any:
        raise StoreUnavailable("the answer was lost")

    monkeypatch.setattr(fleet.store, "hold_and_read", lost)
    await third.mirror.rung_to_hold(Holding(third.state.revision + 1))
    for seconds in (0.0, 1.4):
        fleet.clock.now += seconds
        await asyncio.sleep(5 * module._AGAIN)
        assert third.held
    fleet.clock.now += 0.2
    await fleet.agree("blue", 1)


async def test_a_pause_returns_when_all_hold_and_ends_by_itself(fleet: Fleet) -> None:
    outcome = await fleet.nodes[0].barrier.pause(0.1, actor="ada", reason="quiet")
    assert outcome.state.pause is not None
    assert [node.held for node in fleet.nodes] == [True, True, True]
    await fleet.agree("blue", 1)
    assert await fleet.verbs() == ["pause", "resume"]
    [entry] = await fleet.store.audit(limit=1)
    assert (entry.actor, entry.reason) == ("bgproxy", "max_hold is over")


async def test_a_pause_ends_by_itself_though_its_end_is_refused_at_first(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the store and a node are at odds, until an operator has decided."""
    refusals = iter(range(9))
    for node in fleet.nodes:
        straight = node.ledger.make

        async def make(decide: Any, straight: Any = straight, **given: Any) -> Outcome:
            if next(refusals, None) is not None:
                raise Split("two pointers of one epoch")
            made: Outcome = await straight(decide, **given)
            return made

        monkeypatch.setattr(node.ledger, "make", make)
    await fleet.nodes[0].ledger._settle(lambda state: module.barrier.pause(state, max_hold=0.01, actor="", reason=""))
    await fleet.come(lambda: all(node.held for node in fleet.nodes))
    await fleet.agree("blue", 1)
    assert await fleet.verbs() == ["pause", "resume"]


async def test_a_flip_under_a_pause_lets_nobody_go(fleet: Fleet) -> None:
    first, second, _ = fleet.nodes
    await first.barrier.pause(30.0, actor="ada", reason="quiet")
    await second.barrier.move(FLIP)
    assert all(node.held for node in fleet.nodes)
    resumed = await second.barrier.resume(actor="ada", reason="")
    assert resumed.changed
    await fleet.agree("green", 2)
    assert not (await second.barrier.resume(actor="ada", reason="")).changed


async def test_a_pause_that_not_all_keep_is_none(fleet: Fleet) -> None:
    await fleet.nodes.pop().die()
    up = tasks.spawn(fleet.time_is_up("n3"), "time")
    with pytest.raises(FlipAbandoned, match=r"nothing is paused: 1 of the nodes .* n3;"):
        await fleet.nodes[0].barrier.pause(30.0, actor="ada", reason="quiet")
    await up
    await fleet.agree("blue", 1)
    assert await fleet.verbs() == ["pause", "resume"]
