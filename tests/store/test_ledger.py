"""The only door: decide, commit, apply; lose a race and decide anew; fail fast when the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import (
    NotReady,
    Refused,
    StaleEpoch,
    StoreBroken,
    StoreForeign,
    StoreUnavailable,
    UnknownColor,
    UnknownSession,
)
from bgproxy.rules.by_hand import MOST_ORDERS
from bgproxy.rules.release import Event, Phase, Release
from bgproxy.store.base import Conflict, NodeReport, Store
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import Mirror
from bgproxy.store.pinning import Want

Opened = Callable[..., Awaitable[Store]]
WHO: dict[str, Any] = {"actor": "ada", "reason": "because"}
RELEASES = {
    "blue": Release("v1", ("http://127.0.0.1:1",), phase=Phase.READY, origin="config"),
    "green": Release("v2", ("http://127.0.0.1:2",), phase=Phase.READY, origin="config"),
}


class Node:
    """A mirror and a ledger on a store, as each process has them; its loops do not run here."""

    def __init__(self, store: Store, timeout: float = 5.0) -> None:
        self.store = store
        self.mirror = Mirror(store)
        self.ledger = Ledger(store, self.mirror, clock=lambda: 5.0, timeout=timeout)

    async def begin(self) -> Outcome:
        return await self.ledger.bootstrap(("blue", "green"), "blue", RELEASES, actor="config")


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("redis_server").url)


@pytest.fixture
async def store(url: str, opened: Opened) -> Store:
    return await opened(url)


@pytest.fixture
async def node(store: Store) -> Node:
    node = Node(store)
    await node.begin()
    return node


async def test_the_node_that_flips_has_flipped_when_the_call_returns(node: Node) -> None:
    heard: list[tuple[str, int]] = []
    node.mirror.listen(lambda state: heard.append((state.pointer.active, state.pointer.epoch)))
    outcome = await node.ledger.flip("green", **WHO)
    assert heard == [("green", 2)]
    assert node.mirror.state == outcome.state == await node.store.read()
    assert outcome.changed
    assert outcome.entry is not None
    assert (outcome.entry.verb, outcome.entry.epoch, outcome.entry.actor) == ("flip", 2, "ada")


async def test_there_and_back_with_all_verbs(node: Node) -> None:
    await node.ledger.flip("green", bake=True, **WHO)
    await node.ledger.step("green", "v2", Event.SETTLE, evidence={"errors": 0}, **WHO)
    await node.ledger.rollback(**WHO)
    await node.ledger.stage("green", Release("v3", ("http://127.0.0.1:3",)), force=True, **WHO)
    await node.ledger.step("green", "v3", Event.VALIDATE, **WHO)
    await node.ledger.step("green", "v3", Event.PASSED, **WHO)
    outcome = await node.ledger.flip("green", if_epoch=3, **WHO)
    assert outcome.state.pointer.epoch == 4
    verbs = [entry.verb for entry in await node.ledger.audit(limit=20)]
    assert verbs == ["flip", "phase", "phase", "stage", "rollback", "phase", "flip", "bootstrap"]
    assert node.mirror.alarms == 0


async def test_what_changes_nothing_writes_nothing(node: Node) -> None:
    before = await node.store.read()
    for outcome in (
        await node.ledger.flip("blue", **WHO),
        await node.ledger.step("green", "v9", Event.PASSED, **WHO),
        await node.ledger.reconfigure(("blue", "green"), RELEASES, **WHO),
        await node.begin(),
    ):
        assert (outcome.state, outcome.changed, outcome.entry) == (before, False, None)
    assert len(await node.ledger.audit(limit=10)) == 1


async def test_refusals_come_through_and_write_nothing(node: Node) -> None:
    before = await node.store.read()
    with pytest.raises(UnknownColor):
        await node.ledger.flip("pink", **WHO)
    with pytest.raises(StaleEpoch):
        await node.ledger.flip("green", if_epoch=9, **WHO)
    with pytest.raises(NotReady):
        await node.ledger.flip("green", problem="no healthy upstream", **WHO)
    with pytest.raises(Refused):
        await node.ledger.rollback(**WHO)
    with pytest.raises(Refused):
        await node.ledger.stage("blue", RELEASES["green"], **WHO)
    assert await node.store.read() == before


async def test_it_decides_on_what_stands_in_the_store_not_on_an_old_copy(store: Store, node: Node) -> None:
    other = Node(store)
    await other.ledger.flip("green", **WHO)
    assert node.mirror.state is not None
    assert node.mirror.state.pointer.epoch == 1
    with pytest.raises(StaleEpoch):
        await node.ledger.flip("green", if_epoch=1, **WHO)
    assert (await node.ledger.flip("green", **WHO)).changed is False
    assert node.mirror.state.pointer.epoch == 2


async def test_many_at_once_and_each_epoch_is_one_flip(store: Store, node: Node) -> None:
    nodes = [Node(store) for _ in range(6)]
    heard: list[list[int]] = [[] for _ in nodes]
    for one, epochs in zip(nodes, heard, strict=True):
        one.mirror.listen(lambda state, epochs=epochs: epochs.append(state.pointer.epoch))  # type: ignore[misc]
    flips = [one.ledger.flip(color, **WHO) for one in nodes for color in ("green", "blue")]
    outcomes = await asyncio.gather(*flips, return_exceptions=True)
    changed = [outcome for outcome in outcomes if isinstance(outcome, Outcome) and outcome.changed]
    assert all(isinstance(outcome, Outcome | Refused) for outcome in outcomes)
    epochs = sorted(outcome.state.pointer.epoch for outcome in changed)
    assert epochs == list(range(2, 2 + len(changed)))
    state = await store.read()
    assert state is not None
    assert state.pointer.epoch == 1 + len(changed)
    records = [entry for entry in await node.ledger.audit(limit=100) if entry.verb == "flip"]
    assert [record.epoch for record in records] == epochs[::-1]
    assert all(seen == sorted(set(seen)) for seen in heard)
    assert [one.mirror.alarms for one in nodes] == [0] * 6


async def test_of_many_with_the_same_expectation_one_wins(store: Store, node: Node) -> None:
    nodes = [Node(store) for _ in range(10)]
    outcomes = await asyncio.gather(
        *(one.ledger.flip("green", if_epoch=1, **WHO) for one in nodes), return_exceptions=True
    )
    assert sum(isinstance(outcome, Outcome) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StaleEpoch) for outcome in outcomes) == 9


async def test_of_many_that_begin_one_begins(store: Store) -> None:
    nodes = [Node(store) for _ in range(8)]
    outcomes = await asyncio.gather(*(one.begin() for one in nodes))
    assert sum(outcome.changed for outcome in outcomes) == 1
    assert len({outcome.state.pointer.at for outcome in outcomes}) == 1
    assert all(one.mirror.state == outcomes[0].state for one in nodes)


async def test_always_losing_ends(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def lose(change: Any, **_: Any) -> Any:
        tries.append(change)
        raise Conflict(node.mirror.state)

    monkeypatch.setattr(node.store, "commit", lose)
    with pytest.raises(Refused, match="8 other changes came first"):
        await node.ledger.flip("green", **WHO)
    assert len(tries) == 8


async def test_a_store_that_hangs_is_given_up_in_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    impatient = Ledger(node.store, node.mirror, clock=lambda: 5.0, timeout=0.05)
    monkeypatch.setattr(node.store, "commit", hang)
    with pytest.raises(StoreUnavailable, match="is not known"):
        await impatient.flip("green", **WHO)
    assert node.mirror.state is not None
    assert node.mirror.state.pointer.active == "blue"
    monkeypatch.setattr(node.store, "audit", hang)
    with pytest.raises(StoreUnavailable):
        await impatient.audit(limit=1)


async def test_no_verb_works_while_the_store_is_away(fake_store: Any, flips: Any) -> None:
    node = Node(fake_store)
    node.mirror.apply(flips.first().state)
    fake_store.failure = StoreUnavailable("away")
    for call in (
        node.ledger.flip("green", **WHO),
        node.ledger.flip("blue", **WHO),
        node.ledger.rollback(**WHO),
        node.ledger.stage("green", RELEASES["green"], **WHO),
        node.ledger.step("green", "v2", Event.FAILED, **WHO),
        node.ledger.reconfigure(("blue",), {}, **WHO),
        node.begin(),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    assert node.mirror.state == flips.first().state


async def test_a_fleet_that_never_began(store: Store) -> None:
    with pytest.raises(StoreBroken, match="no state of this fleet yet"):
        await Node(store).ledger.flip("green", **WHO)


async def test_a_flip_writes_a_lost_state_anew(store: Store, node: Node, opened: Opened, url: str) -> None:
    await node.ledger.flip("green", **WHO)
    held = node.mirror.state
    assert held is not None
    empty = Node(await opened(url, fleet="came-back-empty"))
    empty.mirror.apply(held)
    outcome = await empty.ledger.rollback(**WHO)
    assert (outcome.state.pointer.active, outcome.state.pointer.epoch) == ("blue", 3)
    assert outcome.state.revision == held.revision + 2
    entries = await empty.ledger.audit(limit=5)
    assert [entry.verb for entry in entries] == ["rollback", "restore"]
    assert entries[1].facts == {"found": None, "restored": {"revision": 2, "epoch": 2, "active": "green"}}
    assert await empty.store.read() == outcome.state == empty.mirror.state


async def test_beginning_on_an_empty_store_with_a_known_state_keeps_the_pointer(
    store: Store, node: Node, opened: Opened, url: str
) -> None:
    await node.ledger.flip("green", **WHO)
    held = node.mirror.state
    assert held is not None
    restarted = Node(await opened(url, fleet="came-back-empty-too"))
    restarted.mirror.apply(held)
    outcome = await restarted.begin()
    assert outcome.changed
    assert outcome.state.pointer == held.pointer
    assert outcome.state.releases == held.releases
    assert outcome.state.revision == held.revision + 1
    assert restarted.mirror.state == await restarted.store.read()


async def test_new_upstreams_from_the_configuration(node: Node) -> None:
    moved = {"blue": Release("v1", ("http://127.0.0.1:7",), phase=Phase.READY, origin="config")}
    outcome = await node.ledger.reconfigure(("blue", "green", "red"), moved, **WHO)
    assert outcome.changed
    assert outcome.state.releases["blue"].upstreams == ("http://127.0.0.1:7",)
    assert outcome.state.releases["blue"].phase is Phase.ACTIVE
    assert outcome.state.colors == ("blue", "green", "red")


async def test_another_fleet_is_recognised_by_its_colors(node: Node) -> None:
    before = await node.store.read()
    with pytest.raises(StoreForeign, match="another fleet's, with the colors blue, green; configured are red, black"):
        await node.ledger.recognise(("red", "black"))
    await node.ledger.recognise(("red", "green"))  # one that was added, and one that is left out
    assert await node.store.read() == before


async def test_where_no_fleet_began_none_is_foreign(store: Store) -> None:
    await Node(store).ledger.recognise(("red",))


# Sessions by hand

KEY, ALIAS = b"0123456789abcdef", b"fedcba9876543210"


async def session(node: Node) -> Any:
    [found] = await node.store.pins.resolve([Want((KEY, ALIAS), "chat", "mcp", 600.0)])
    return found.pin


async def record(node: Node) -> list[tuple[str, Any]]:
    return [(entry.verb, dict(entry.facts)) for entry in await node.ledger.audit(limit=20)][:-1]


async def test_a_session_moved_by_hand_is_an_order_on_record(node: Node) -> None:
    pin = await session(node)
    before = node.mirror.state
    standing, outcome = await node.ledger.move_session(ALIAS, "green", **WHO)
    assert (standing, outcome.changed) == (pin, True)
    assert await node.store.pins.find(KEY) == pin  # carrying it out is not the ledger's business
    facts = {"ordered": "move", "id": KEY.hex(), "from": "blue", "left": "v1", "to": "green", "release": "v2"}
    assert await record(node) == [("session", facts)]
    assert node.mirror.state == await node.store.read()
    assert node.mirror.state is not None
    assert before is not None
    assert (node.mirror.state.pointer, node.mirror.state.releases) == (before.pointer, before.releases)
    order = node.mirror.state.orders[KEY]
    assert (order.goal, order.revision) == (("green", "v2"), node.mirror.state.revision)
    assert (await node.ledger.move_session(KEY, "green", **WHO))[1].changed is False
    moved = await node.store.pins.move(ALIAS)
    assert moved is not None
    assert (moved.color, moved.release, moved.moved) == ("green", "v2", 1)


async def test_orders_that_are_over_make_room(node: Node) -> None:
    keys = [bytes([number]) * 16 for number in range(MOST_ORDERS + 1)]
    await node.store.pins.resolve([Want((key,), "chat", "mcp", 600.0) for key in keys])
    for key in keys[:-1]:
        await node.ledger.move_session(key, "green", **WHO)
    with pytest.raises(Refused, match="64 sessions are to be moved already"):
        await node.ledger.move_session(keys[-1], "green", **WHO)
    await node.store.pins.move(keys[3])
    await node.store.pins.end([keys[5]])
    _, outcome = await node.ledger.move_session(keys[-1], "green", **WHO)
    assert {*keys} - {*outcome.state.orders} == {keys[3], keys[5]}


async def test_a_move_to_where_it_lives_is_none(node: Node) -> None:
    pin = await session(node)
    assert await node.ledger.move_session(KEY, "blue", **WHO) == (
        pin,
        Outcome(node.mirror.state, changed=False, entry=None),  # type: ignore[arg-type]
    )
    assert await record(node) == []


async def test_a_session_forgotten_by_hand_is_on_record(node: Node) -> None:
    pin = await session(node)
    was, outcome = await node.ledger.forget_session(ALIAS, **WHO)
    assert (was, outcome.changed) == (pin, True)
    assert [await node.store.pins.find(key) for key in (KEY, ALIAS)] == [None, None]
    assert await record(node) == [
        ("session", {"ordered": "forget", "id": KEY.hex(), "from": "blue", "left": "v1"}),
    ]


async def test_what_is_refused_of_a_session_is_not_on_record(node: Node) -> None:
    with pytest.raises(UnknownSession, match=KEY.hex()):
        await node.ledger.move_session(KEY, "green", **WHO)
    with pytest.raises(UnknownSession, match=KEY.hex()):
        await node.ledger.forget_session(KEY, **WHO)
    pin = await session(node)
    with pytest.raises(UnknownColor):
        await node.ledger.move_session(KEY, "red", **WHO)
    assert await node.store.pins.find(KEY) == pin
    assert await record(node) == []


async def test_without_its_record_nothing_is_done_to_a_session(node: Node, monkeypatch: Any) -> None:
    pin = await session(node)

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(node.store, "commit", away)
    with pytest.raises(StoreUnavailable):
        await node.ledger.move_session(KEY, "green", **WHO)
    with pytest.raises(StoreUnavailable):
        await node.ledger.forget_session(KEY, **WHO)
    assert await node.store.pins.find(KEY) == pin


async def test_a_session_that_could_not_be_forgotten_is_told_to_live_still(node: Node, monkeypatch: Any) -> None:
    pin = await session(node)

    async def away(keys: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(node.store.pins, "end", away)
    with pytest.raises(
        StoreUnavailable, match="away; that the session is to be forgotten is on record, but it may live"
    ):
        await node.ledger.forget_session(KEY, **WHO)
    assert await node.store.pins.find(KEY) == pin
    assert [facts["ordered"] for _, facts in await record(node)] == ["forget"]


async def test_a_node_that_was_taken_off_is_on_record(node: Node) -> None:
    gone = NodeReport("n-1", "there", 7, "0.1", 1, {"blue": 2}, {"blue": 0}, age=3600.0004, live=False, serial=5)
    outcome = await node.ledger.record_forgotten(gone, actor="bgproxy", reason="silent")
    assert outcome.entry is not None
    assert (outcome.entry.verb, outcome.entry.actor, outcome.entry.reason) == ("forget", "bgproxy", "silent")
    last = {"host": "there", "pid": 7, "version": "0.1", "epoch": 1, "serial": 5, "in_flight": {"blue": 2}}
    assert dict(outcome.entry.facts) == {"node": "n-1", **last, "silent": 3600.0}
