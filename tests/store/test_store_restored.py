"""A store that has lost what nodes hold: it is put right, once and by whoever holds most, or an operator is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import Split, StoreForeign, StoreUnavailable
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import Store, StoreOptions, open_store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import Once
from bgproxy.store.pinning import Want
from bgproxy.store.restorer import Restorer
from bgproxy.store.trail import verify
from tests.redis_servers import RedisServer

Until = Callable[..., Awaitable[float]]
Opened = Callable[..., Awaitable[Store]]
WHO = {"actor": "ada", "reason": "why"}


class Node:
    """A node on the store that looks again and again, and writes back what is lost."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.mirror = Mirror(store, read_interval=0.05)
        self.ledger = Ledger(store, self.mirror, clock=lambda: 0.0)
        self.epochs: list[int] = []
        self.mirror.listen(lambda state: self.epochs.append(state.pointer.epoch))
        self.restorer: Restorer | None = None

    @property
    def state(self) -> FleetState:
        assert self.mirror.state is not None
        return self.mirror.state

    async def start(self, until: Until, *, restores: bool = True) -> Node:
        if restores:
            self.restorer = Restorer(self.ledger, self.mirror)
        await self.mirror.start()
        await until(lambda: self.mirror.subscribed)
        return self

    async def stop(self) -> None:
        if self.restorer is not None:
            await self.restorer.stop()
        await self.mirror.stop()


Joined = Callable[..., Awaitable[Node]]


@pytest.fixture
async def joined(opened: Opened, redis_server: RedisServer, until: Until) -> AsyncIterator[Joined]:
    nodes: list[Node] = []

    async def join(*, restores: bool = True) -> Node:
        nodes.append(Node(await opened(redis_server.url)))
        return await nodes[-1].start(until, restores=restores)

    yield join
    for node in nodes:
        await node.stop()


class Hand:
    """Does to the fleet's keys what an outage, an operator or another fleet would."""

    def __init__(self, server: RedisServer, fleet: str) -> None:
        self._server = server
        self._key = f"bgproxy:{{{fleet}}}:"

    def copies(self) -> None:
        """Keep what stands."""
        for name in ("state", "audit", "flips"):
            self._server.command("COPY", self._key + name, f"{self._key}copy:{name}", "REPLACE")

    def puts_back(self) -> None:
        """In one step, as a replica that was behind becomes the primary."""
        names = [f"'{name}'" for name in ("state", "audit", "flips")]
        self._server.command(
            "EVAL",
            f"for _, name in ipairs({{{','.join(names)}}}) do redis.call('COPY', KEYS[1] .. 'copy:' .. name, "
            "KEYS[1] .. name, 'REPLACE') end",
            "1",
            self._key,
        )

    def empties(self, *names: str) -> None:
        self._server.command("DEL", *(self._key + name for name in names or ("state", "audit", "flips")))

    def writes(self, *fields: str) -> None:
        self._server.command("HSET", f"{self._key}state", *fields)

    def sees(self) -> list[bytes]:
        return sorted(self._server.command("HGETALL", f"{self._key}state").split(b"\r\n"))


@pytest.fixture
def hand(redis_server: RedisServer, fleet_name: str) -> Hand:
    return Hand(redis_server, fleet_name)


pytestmark = pytest.mark.redis


async def begun(node: Node, flips: Any) -> FleetState:
    """Blue, then green: epoch 2."""
    await node.store.commit(flips.first(), create=True)
    await node.mirror.refresh()
    return (await node.ledger.flip("green", **WHO)).state


async def agreed(nodes: list[Node], until: Until) -> None:
    """They all hold the same."""
    await until(lambda: all(node.mirror.state == nodes[0].mirror.state for node in nodes))


async def test_of_many_who_hold_different_things_the_highest_is_what_stands(
    joined: Joined, hand: Hand, flips: Any, until: Until, fleet_name: str
) -> None:
    nodes = [await joined(restores=False) for _ in range(6)]
    await begun(nodes[0], flips)
    hand.copies()  # epoch 2
    following = nodes
    for to in ("blue", "green"):
        await agreed(following, until)
        for node in following[:2]:  # they never hear of it
            await node.mirror.stop()
        following = following[2:]
        await following[0].ledger.flip(to, **WHO)
    await agreed(following, until)
    assert [node.state.pointer.epoch for node in nodes] == [2, 2, 3, 3, 4, 4]
    hand.puts_back()
    for node in nodes:
        await node.mirror.stop()
        await node.start(lambda _: asyncio.sleep(0))
    await until(lambda: all(node.state.pointer.epoch == 4 and not node.mirror.contradiction for node in nodes))
    standing = await nodes[0].store.read()
    assert standing is not None
    assert (standing.pointer.epoch, standing.pointer.active) == (4, "green")
    await until(lambda: all(node.state == standing for node in nodes))
    assert all(node.epochs == sorted(node.epochs) for node in nodes)  # nobody ever went back
    verbs = [entry.verb for entry in await nodes[0].store.audit(limit=50)]
    assert 1 <= verbs.count("restore") <= 2  # the lower one may have been first
    assert (await verify(nodes[0].store)).fault is None


async def test_what_is_on_record_says_what_was_found_and_what_was_written(
    joined: Joined, hand: Hand, flips: Any, until: Until
) -> None:
    node = await joined()
    await begun(node, flips)
    hand.copies()
    held = (await node.ledger.flip("blue", **WHO)).state
    hand.puts_back()
    await until(lambda: node.state.revision > held.revision)
    [entry, *_] = await node.store.audit(limit=1)
    assert (entry.verb, entry.actor, entry.epoch) == ("restore", "bgproxy", 3)
    assert entry.facts == {
        "found": {"revision": 2, "epoch": 2, "active": "green"},
        "restored": {"revision": 3, "epoch": 3, "active": "blue"},
    }
    assert "revision 2, epoch 2, active green (ada)" in entry.reason
    assert node.state.releases == held.releases
    assert (await verify(node.store)).fault is None
    assert node.mirror.alarm == ""


@pytest.mark.parametrize("lost", [(), ("state",)])
async def test_an_emptied_store_is_written_back(
    joined: Joined, hand: Hand, flips: Any, until: Until, lost: tuple[str, ...]
) -> None:
    node = await joined()
    held = await begun(node, flips)
    before = await node.store.head()
    hand.empties(*lost)
    await until(lambda: node.state.revision > held.revision)
    assert node.state.pointer == held.pointer
    [entry] = await node.store.audit(limit=1)
    assert entry.verb == "restore"
    assert before is not None
    report = await verify(node.store, before.hash)  # an auditor who kept the hash sees whether the record was lost too
    assert (report.fault is None) is (lost == ("state",))
    assert (await verify(node.store)).fault is None


async def test_one_that_holds_for_a_flip_that_was_lost_lets_those_who_know_more_come_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The flip may have been made, and others route by it: who gave it up at once would admit to the old color."""
    store, now, by = open_store(StoreOptions()), [0.0], list[int]()
    mirror = Mirror(store, clock=lambda: now[0])
    ledger = Ledger(store, mirror, clock=lambda: 0.0)
    releases = {color: Release("v1", ("http://127.0.0.1:1",), phase=Phase.READY) for color in ("blue", "green")}
    await ledger.bootstrap(("blue", "green"), "blue", releases, actor="test")
    assert mirror.state is not None
    monkeypatch.setattr(store, "routes_by", by.append)
    terms: dict[str, Any] = {"at": 0.0, "exclude": (), "hold_timeout": 1.0, "key": "k", "request": "r"}
    prepared = barrier.prepare(mirror.state, Move("flip", "green", "ada", "why"), **terms)
    assert prepared is not None
    mirror.apply(prepared.state)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="has lost a flip that was being made"):
            await ledger.restore(**WHO)
        now[0] += 1.4
    assert (mirror.state.pending is not None, by[-1]) == (True, 2), "no session begins by the pointer before it"
    outcome = await ledger.restore(**WHO)
    assert (outcome.changed, outcome.state.pending, outcome.state.revision, by[-1]) == (True, None, 3, 1)


async def test_a_verb_that_finds_the_store_behind_puts_it_right_first(joined: Joined, hand: Hand, flips: Any) -> None:
    node = await joined(restores=False)
    await begun(node, flips)
    hand.copies()
    await node.ledger.flip("blue", **WHO)
    hand.puts_back()
    outcome = await node.ledger.flip("green", **WHO)
    assert (outcome.state.pointer.epoch, outcome.state.revision) == (4, 5)
    assert [entry.verb for entry in await node.store.audit(limit=2)] == ["flip", "restore"]


class TestSplit:
    @pytest.fixture
    async def node(self, joined: Joined, flips: Any, until: Until) -> Node:
        node = await joined()
        held = await begun(node, flips)
        phases = {"blue": Phase.ACTIVE, "green": Phase.STANDBY}
        releases = {color: replace(held.releases[color], phase=phase) for color, phase in phases.items()}
        pointer = replace(held.pointer, active="blue", previous="green", actor="bob")
        elsewhere = Change(
            replace(held, pointer=pointer, releases=releases), "flip", {}, "bob", "", whole=True, base=held
        )
        await node.store.commit(elsewhere)
        await until(lambda: node.mirror.alarms > 2)
        return node

    async def test_nothing_is_overwritten_and_nothing_else_is_done(self, node: Node, hand: Hand, until: Until) -> None:
        before, alarms = hand.sees(), node.mirror.alarms
        for verb in (
            node.ledger.flip("blue", **WHO),
            node.ledger.rollback(**WHO),
            node.ledger.reconfigure(("blue", "green", "red"), {}, **WHO),
            node.ledger.restore(**WHO),
        ):
            with pytest.raises(Split, match=r"overwritten\. Decide: `bgproxy flip green --force`") as refused:
                await verb
            sides = [refused.value.extra[side]["active"] for side in ("held", "found")]
            assert sides == ["green", "blue"]
        await until(lambda: node.mirror.alarms > alarms + 3)
        assert hand.sees() == before
        assert (node.state.pointer.active, node.state.pointer.epoch) == ("green", 2)

    async def test_a_forced_flip_decides_it_once(self, node: Node, joined: Joined, until: Until) -> None:
        other = await joined()  # it has only ever seen the other side
        assert other.state.pointer.actor == "bob"
        once = Once("job", "flip blue")
        move = Move("flip", "blue", "ada", "decided", force=True)
        outcome = await node.ledger.decide_split(move, once=once)
        assert outcome is not None
        assert (outcome.state.pointer.active, outcome.state.pointer.epoch) == ("blue", 3)
        await until(lambda: node.state == other.state == outcome.state)
        assert node.mirror.contradiction is None
        assert await node.ledger.decide_split(move, once=once) is None
        known = await node.ledger.recall(once)
        assert known is not None
        assert known.replay is not None
        [entry] = await node.store.audit(limit=1)
        assert (entry.verb, entry.facts["forced"]) == ("flip", ["a split"])
        assert (await verify(node.store)).fault is None

    async def test_whoever_holds_the_other_side_just_flips(self, node: Node, joined: Joined, until: Until) -> None:
        other = await joined()
        state = (await other.ledger.flip("green", **WHO)).state
        await until(lambda: node.mirror.contradiction is None and node.state.pointer == state.pointer)


async def test_another_fleet_s_data_are_left_alone_and_named(
    joined: Joined, hand: Hand, flips: Any, until: Until
) -> None:
    node = await joined()
    held = await begun(node, flips)
    pointer = '{"active":"red","previous":null,"epoch":9,"actor":"x","reason":"","at":1.5}'
    hand.writes("pointer", pointer, "colors", '["red"]', "revision", "77")
    for color in held.releases:
        node_key = f"release:{color}"
        hand._server.command("HDEL", f"{hand._key}state", node_key)
    await until(lambda: node.mirror.alarms > 2)
    before = hand.sees()
    with pytest.raises(StoreForeign, match="colors red its data are another fleet's"):
        await node.ledger.flip("blue", **WHO)
    assert hand.sees() == before
    assert node.state == held


async def test_what_cannot_be_understood_is_left_alone_and_named(
    joined: Joined, hand: Hand, flips: Any, until: Until, fleet_name: str
) -> None:
    node = await joined()
    held = await begun(node, flips)
    hand.writes("pointer", '{"epoch":1}')
    await until(lambda: f"bgproxy:{{{fleet_name}}}:state, pointer cannot be understood" in node.mirror.problem)
    before = hand.sees()
    with pytest.raises(StoreUnavailable, match="cannot be understood"):
        await node.ledger.flip("blue", **WHO)
    assert hand.sees() == before
    assert node.state == held


async def test_no_session_is_pinned_by_a_pointer_that_has_lost_a_flip(
    joined: Joined, hand: Hand, flips: Any, until: Until
) -> None:
    node = await joined(restores=False)
    await begun(node, flips)
    known, new = (Want((name * 16,), "chat", "mcp", 60.0) for name in (b"k", b"n"))
    [pinned] = await node.store.pins.resolve([known])
    assert pinned is not None
    hand.copies()
    await node.ledger.flip("blue", **WHO)
    hand.puts_back()
    assert [one and one.pin for one in await node.store.pins.resolve([known])] == [pinned.pin]
    with pytest.raises(StoreUnavailable, match="has lost the one of epoch 3"):
        await node.store.pins.resolve([known, new])
    assert await node.store.pins.find(b"n" * 16) is None
    await node.ledger.restore(**WHO)
    [found] = await node.store.pins.resolve([new])
    assert found is not None
    assert (found.pin.color, found.pin.epoch) == ("blue", 3)


async def test_what_fails_is_told_and_tried_again(
    fake_store: Any, flips: Any, settle: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async def at_once(_: float) -> None: ...

    states = flips.states(3)
    mirror = Mirror(fake_store)
    restorer = Restorer(Ledger(fake_store, mirror, clock=lambda: 0.0), mirror, sleep=at_once)
    mirror.apply(states[2])
    fake_store.state = states[1]
    for tries in (1, 2):
        await mirror.refresh()
        await settle()
        told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert told == ["what the store has lost was not written back: the fake store takes no changes"] * tries
    await restorer.stop()
    assert mirror.state is states[2]
