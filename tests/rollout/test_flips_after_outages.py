"""The store was away, and lacks what was done last: who does not know that lets those come first who do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import FlipAbandoned, StoreUnavailable
from bgproxy.rollout import barrier as module
from bgproxy.rollout.barrier import Barrier, FlipOptions
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.validate import Validator
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import NodeReport, StoreOptions, open_store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.nodes import Heartbeat
from tests.clocks import Clock
from tests.rollout.near import Near, begun

FLIP = Move("flip", "green", "ada", "why")
TERMS: Any = {"actor": "ada", "reason": "why", "if_epoch": None, "force": False}


class Node:
    """It reads the store when the test says so. `admitted`: the colors by which it would have, one after the other."""

    def __init__(self, name: str, store: Any, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.store = store
        self.clock = Clock(100.0)
        self.mirror = Mirror(store, clock=self.clock)
        self.ledger = Ledger(store, self.mirror, lambda: 1.0)
        options = FlipOptions(hold_timeout=1.0)
        self.barrier = Barrier(self.ledger, self.mirror, store, name, options, self, clock=self.clock, sleep=sleep)
        validator = Validator(self.ledger, self.mirror, _is_well)
        self.switch = Switch(self.ledger, self.mirror, _is_well, validator, _nothing, self.barrier, sleep=sleep)
        self.admitted: list[str] = []
        self.mirror.listen(self.apply)

    def apply(self, state: FleetState) -> None:
        if not state.is_held and self.admitted[-1:] != [state.pointer.active]:
            self.admitted.append(state.pointer.active)

    @property
    def is_shut(self) -> bool:
        assert self.mirror.state is not None
        return self.mirror.state.is_held

    def shut(self) -> None: ...

    def settle(self) -> None: ...

    async def restore(self) -> None:
        await self.ledger.restore(actor="bgproxy", reason="")

    async def loses_the_store(self) -> None:
        """And finds it again."""
        straight = self.store.read

        async def away() -> FleetState | None:
            raise StoreUnavailable("away")

        self.store.read = away
        await self.mirror.look()
        self.store.read = straight
        await self.mirror.look()


async def _is_well(_: str) -> str:
    return ""


async def _nothing() -> None:
    pass


async def _for_ever(_: float) -> None:
    await asyncio.Event().wait()


async def turns() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.fixture
async def store() -> Any:
    store: Any = open_store(StoreOptions())
    store.shared = True
    releases = {color: Release(color, ("http://127.0.0.1:1",), phase=Phase.READY) for color in ("blue", "green")}
    mirror = Mirror(store)
    await Ledger(store, mirror, lambda: 1.0).bootstrap(("blue", "green"), "blue", releases, actor="test")
    for name in ("n1", "n2"):
        await store.beat(NodeReport(name, "host", 1, "0", 1))
    return store


@pytest.mark.parametrize("came", ["made", "given up"])
async def test_what_came_of_a_flip_is_for_those_to_say_who_know(
    store: Any, monkeypatch: pytest.MonkeyPatch, came: str
) -> None:
    """A failover has lost it, and this node had not heard of it: to the store and to it the flip is still to be made.

    Would it give up at once what was made, it would admit to blue while others do to green; and the other way round.
    """
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    waited, is_over = list[float](), asyncio.Event()

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)
        if seconds > module._AGAIN * 2:
            waited.append(seconds)
            await is_over.wait()

    knows, does_not = Node("n1", store, sleep), Node("n2", store, sleep)
    await knows.mirror.look()
    await does_not.mirror.look()
    does_not.mirror.listen(does_not.barrier.apply)
    terms: Any = {"exclude": (), "hold_timeout": 1.0, "key": "k", "request": "r", "node": "n1"}
    await knows.ledger.make(lambda state: barrier.prepare(state, FLIP, at=1.0, **terms))
    prepared = await store.read()
    await does_not.loses_the_store()
    for name in ("n1", "n2"):
        await store.hold(name, prepared.revision)
    if came == "made":
        await knows.ledger.make(lambda state: barrier.complete(state, prepared.revision, at=1.0))
        store._nodes._held.clear()
    else:
        await knows.ledger.make(lambda state: barrier.abandon(state, prepared.revision, actor="n1", why=""))
    store._state = prepared
    does_not.clock.now += 1.0  # the time in which it was to be made is over
    await turns()
    assert (await store.read(), does_not.is_shut, waited) == (prepared, True, [0.5])

    await knows.restore()
    does_not.clock.now += 0.5
    is_over.set()
    await does_not.mirror.look()
    await turns()
    expected = ("green", 2) if came == "made" else ("blue", 1)
    stands = await store.read()
    assert (stands.pointer.active, stands.pointer.epoch, stands.pending) == (*expected, None)
    assert [node.admitted[-1] for node in (knows, does_not)] == [expected[0]] * 2
    assert does_not.admitted == ["blue", *(["green"] if came == "made" else [])]
    await does_not.barrier.stop()


async def test_a_flip_that_is_asked_for_just_after_an_outage_is_made_on_what_others_know(store: Any) -> None:
    """Else there would be two pointers of one epoch, between which only an operator can decide."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        assert (await store.read()).pointer.epoch == 1
        await knows.restore()
        does_not.clock.now += seconds

    knows, does_not = Node("n1", store, sleep), Node("n2", store, sleep)
    await knows.mirror.look()
    await does_not.loses_the_store()
    before = await store.read()
    await knows.ledger.move(FLIP)
    store._state = before
    outcome = await does_not.switch.flip("green", **TERMS)
    assert (outcome.changed, outcome.state.pointer.epoch, waited) == (False, 2, [1.5])
    outcome = await does_not.switch.flip("blue", **TERMS, strategy="swap")
    assert (outcome.changed, outcome.state.pointer.epoch, waited) == (True, 3, [1.5]), "once it is settled, at once"


async def test_a_node_that_a_failover_forgot_is_registered_again_before_a_flip_is_made(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It joined just before. Until its next beat nobody would wait for it, and it would go on admitting to blue."""
    registered: list[list[str]] = []

    async def sleep(seconds: float) -> None:
        if seconds > 1:
            await forgotten.loses_the_store()
            await turns()
        flips.clock.now += seconds

    async def commit(*args: Any, **named: Any) -> Any:
        registered.append([node.id for node in await store.nodes()])
        flips.clock.now += 0.6
        return await straight(*args, **named)

    flips, forgotten = Node("n1", store, sleep), Node("n2", store, sleep)
    heart = Heartbeat(store, lambda: NodeReport("n2", "host", 1, "0", 1), forgotten.mirror.refresh, sleep=_for_ever)
    heart.start()
    await turns()
    forgotten.mirror.came_back = heart.again
    straight = store.commit
    monkeypatch.setattr(store, "commit", commit)
    await store.leave("n2")
    await flips.loses_the_store()
    with pytest.raises(FlipAbandoned):  # n2 does not hold: no bell reaches it here
        await flips.switch.flip("green", **TERMS, strategy="barrier")
    assert set(map(tuple, registered)) == {("n1", "n2")}
    await heart.stop()


async def test_where_the_line_breaks_again_and_again_a_flip_is_refused(store: Any) -> None:
    async def sleep(_: float) -> None:
        await node.loses_the_store()

    node = Node("n1", store, sleep)
    await node.loses_the_store()
    with pytest.raises(StoreUnavailable, match="flip again once it stands"):
        await node.switch.flip("green", **TERMS)
    assert (await store.read()).revision == 1


async def test_where_it_is_away_still_the_reason_is_told_at_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> None:
        raise StoreUnavailable("nobody listens")

    node = Node("n1", store, lambda _: pytest.fail("it waits"))
    monkeypatch.setattr(store, "read", away)
    await node.mirror.look()
    with pytest.raises(StoreUnavailable, match="nobody listens"):
        await node.switch.flip("green", **TERMS)


async def test_a_store_that_no_other_node_stands_on_has_nobody_to_wait_for(store: Any) -> None:
    store.shared = False
    node = Node("n1", store, lambda _: pytest.fail("it waits"))
    await node.loses_the_store()
    assert (await node.switch.flip("green", **TERMS)).changed


@pytest.fixture
async def holding(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Near]:
    """It holds for a flip to green, and has just found the store again. It sleeps until the test is over."""
    [node] = await begun("n1")
    change = barrier.prepare(node.state, FLIP, at=1.0, exclude=(), hold_timeout=60.0, key="k" * 64, request="")
    assert change is not None
    for part in (node.barrier, node.promises):
        monkeypatch.setattr(part, "_sleep", lambda _: asyncio.Event().wait())
    node.mirror.learn((await node.store.commit(change))[0])
    assert node.doors == [False, True]
    monkeypatch.setattr(Mirror, "unsettled", 1.5)
    yield node
    await node.stop()


def without(state: FleetState, **more: Any) -> FleetState:
    """As it was before the flip, written anew."""
    return replace(state, revision=state.revision + 1, pending=None, **more)


async def test_behind_an_outage_a_flip_that_is_not_there_any_more_may_have_been_made(holding: Near) -> None:
    """What a failover has left is written anew by a node that never heard of the flip, before it is by one that did."""
    holding.mirror.learn(without(holding.state))
    for _ in range(2):
        await asyncio.sleep(0)
        assert holding.is_shut, "others may admit to green"
        holding.mirror.learn(without(holding.state))
    pointer = replace(holding.state.pointer, active="green", previous="blue", epoch=2)
    holding.mirror.learn(without(holding.state, pointer=pointer))
    assert not holding.is_shut


async def test_and_otherwise_it_is_over_when_those_who_know_have_had_their_time(
    holding: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        assert (seconds, holding.is_shut) == (1.5, True)
        monkeypatch.setattr(Mirror, "unsettled", 0.0)

    monkeypatch.setattr(holding.promises, "_sleep", sleep)
    holding.mirror.learn(without(holding.state))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not holding.is_shut


async def test_while_the_store_is_there_a_flip_that_is_given_up_is_over(
    holding: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mirror, "unsettled", 0.0)
    holding.mirror.learn(without(holding.state))
    assert holding.doors == [False, True, False], "at once"
