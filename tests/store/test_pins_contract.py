"""The promises of `store/pinning.py`, kept by all stores alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from bgproxy.errors import BadInput, StoreUnavailable
from bgproxy.rules import fleet, gate, running
from bgproxy.rules.canary import LISTED
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Pin, bucket_seconds
from bgproxy.rules.plan import Canary, Plan
from bgproxy.rules.release import Release
from bgproxy.rules.restore import Contradiction, Verdict, restored
from bgproxy.store.base import NodeReport, Store
from bgproxy.store.pinning import KEPT_ALIASES, Learned, PinStore, Resolved, Turn, Want

Opened = Callable[..., Awaitable[Store]]
stores = ("memory", "snapshot", "handed", "redis", "sentinel", "cluster")
TTL = 600.0


def key(name: str) -> bytes:
    return name.encode().rjust(16, b"\t")  # raw bytes, and such as part the fields of a pin


def want(*names: str, **more: Any) -> Want:
    return Want(tuple(map(key, names)), **{"route": "chat", "preset": "header:X-Id", "ttl": TTL, **more})


def learned(*names: str, pin: bytes | None = None, **more: Any) -> Learned:
    place = {"color": "blue", "release": "v1", "upstream": "http://127.0.0.1:1", "epoch": 1}
    return Learned(tuple(map(key, names)), pin, **{**place, "route": "chat", "preset": "mcp", "ttl": TTL, **more})


async def ask(pins: PinStore, *names: str, **more: Any) -> Resolved:
    [found] = await pins.resolve([want(*names, **more)])
    return found


async def tell(pins: PinStore, *names: str, **more: Any) -> Resolved:
    [found] = await pins.learn([learned(*names, **more)])
    return found


def bells(pins: PinStore) -> AsyncGenerator[tuple[bytes, ...], None]:
    return cast("AsyncGenerator[tuple[bytes, ...], None]", pins.watch())


@pytest.fixture
def pins(store: Any) -> PinStore:
    return cast("PinStore", store.pins)


@pytest.fixture
async def nodes(store: Any, pins: PinStore) -> tuple[str, str]:
    """Two nodes that have applied the first state."""
    for name in ("one", "two"):
        await store.beat(NodeReport(name, "host", 1, "0.1", 1))
        await pins.applied(name, 1, 1, [])
    return "one", "two"


async def flip(store: Any, flips: Any) -> int:
    state, _ = await store.commit(flips.flip(await store.read()))
    return int(state.pointer.epoch)


async def canary_on(store: Any, flips: Any, **section: Any) -> FleetState:
    """v3 is brought out on green, and its canary is on."""
    plan, release = Plan(canary=Canary(max_error_rate=0.1)), Release("v3", ("http://127.0.0.1:9",))
    change = running.begin(
        await store.read(), "green", release, plan, {"canary": section}, leader="n", actor="ada", reason="", at=5.0
    )
    state, _ = await store.commit(change)
    while state.run.next != "canary":
        done = running.record(
            state, state.run.id, "n", state.run.next, gate.Finding(gate.Verdict.PASS, ""), at=6.0, took=0.1
        )
        state, _ = await store.commit(done)
    return cast("FleetState", state)


async def order(store: Any, flips: Any, pin: Pin, to: str) -> int:
    """An operator wants a session elsewhere; the revision of that order."""
    state, _ = await store.commit(flips.order(await store.read(), pin, to))
    return int(state.revision)


async def everything(pins: PinStore, limit: int = 100, color: str | None = None) -> dict[bytes, tuple[Pin, float]]:
    found: dict[bytes, tuple[Pin, float]] = {}
    cursor, first = "", True
    while cursor or first:
        page, cursor = await pins.page(cursor, limit, color)
        found |= {pin.id: (pin, expires) for pin, expires in page}
        first = False
    return found


async def live(pins: PinStore) -> dict[tuple[str, str], int]:
    return {place: count.live for place, count in (await pins.counts()).items()}


def test_it_keeps_the_protocol(pins: PinStore) -> None:
    assert isinstance(pins, PinStore)


class TestResolve:
    async def test_a_new_session_is_pinned_to_the_active_release(self, pins: PinStore) -> None:
        before = time.time()
        found = await ask(pins, "a")
        assert (found.created, found.aliases, found.conflicts) == (True, 0, 0)
        assert before - 1 < found.now < time.time() + 1
        created = pytest.approx(found.now, abs=0.001)
        assert found.pin == Pin(key("a"), "blue", "v1", "", 1, created, "header:X-Id", "chat", 0, TTL)
        assert await pins.find(key("a")) == found.pin
        pin, expires = await pins.look(key("a"))
        assert pin == found.pin
        assert found.now + TTL <= expires <= found.now + TTL + 2 * bucket_seconds(TTL)
        assert (await pins.counts())["blue", "v1"].live == 1

    async def test_one_that_wishes_for_a_color_begins_there_and_a_known_one_stays(
        self, store: Any, pins: PinStore, flips: Any
    ) -> None:
        found = await ask(pins, "a", wish="green", offer=("green", "http://127.0.0.1:9"))
        assert (found.pin.color, found.pin.release, found.pin.epoch) == ("green", "v2", 1)
        assert found.pin.upstream == "http://127.0.0.1:9"
        assert (await ask(pins, "a", wish="blue")).pin == found.pin
        assert (await ask(pins, "b", wish="mauve")).pin.color == "blue"  # which holds no release
        assert await live(pins) == {("green", "v2"): 1, ("blue", "v1"): 1}
        await flip(store, flips)
        assert (await ask(pins, "c", wish="blue")).pin.epoch == 2

    @pytest.mark.parametrize(("share", "placed"), [(0.0, "bbbb"), (0.25, "gbbb"), (0.5, "ggbb"), (1.0, "gggg")])
    async def test_a_share_of_new_ones_begins_on_the_canary_while_it_is_on(
        self, store: Any, pins: PinStore, flips: Any, share: float, placed: str
    ) -> None:
        state = await canary_on(store, flips, share=share)
        keys = [bytes([first]) + bytes(14) + b"k" for first in (0x00, 0x40, 0x80, 0xFF)]
        found = await pins.resolve([Want((one, key(str(one))), "chat", "mcp", TTL) for one in keys])
        assert "".join(one.pin.color[0] for one in found) == placed
        assert {(one.pin.release, one.pin.epoch) for one in found} <= {("v1", 1), ("v3", 1)}
        assert (await ask(pins, "listed", wish=LISTED)).pin.color == "green"
        assert (await ask(pins, "asked", wish="blue")).pin.color == "blue"
        state, _ = await store.commit(running.abort(state, actor="ada", reason="", at=7.0))
        late = await pins.resolve([Want((b"\0" * 15 + b"l",), "chat", "mcp", TTL)])
        assert (late[0].pin.color, late[0].pin.epoch) == ("blue", state.pointer.epoch)
        assert (await ask(pins, "late", wish=LISTED)).pin.color == "blue"
        again = await pins.resolve([Want((one,), "chat", "mcp", TTL) for one in keys])
        assert [one.pin for one in again] == [one.pin for one in found]

    async def test_what_the_canary_took_moves_when_it_ends_badly_and_no_turn_is_under_way(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        state = await canary_on(store, flips, share=1.0)
        pin = (await ask(pins, "a")).pin
        assert pin.color == "green"
        assert await pins.migrate("one", [Turn(pin.id, 1)]) == [pin]  # it is on
        state, _ = await store.commit(running.abort(state, actor="ada", reason="", at=7.0))
        epoch = state.pointer.epoch
        await pins.applied("one", epoch, state.revision, [Turn(pin.id, 1)])
        await pins.applied("two", epoch, state.revision, [])
        assert [one.color for one in await pins.migrate("two", [Turn(pin.id, 1)])] == ["green"]
        await pins.idle("one", [Turn(pin.id, 1)])
        await pins.idle("two", [Turn(pin.id, 1)])
        [moved] = await pins.migrate("two", [Turn(pin.id, 2)])
        assert (moved.color, moved.release, moved.epoch, moved.moved) == ("blue", "v1", epoch, 1)
        [record] = await store.flips([epoch])
        assert (record.verb, record.origin, record.to, record.counted, record.moved) == (
            "canary",
            "green",
            "blue",
            1,
            1,
        )

    async def test_a_flip_by_hand_ends_the_canary_at_once(self, store: Any, pins: PinStore, flips: Any) -> None:
        state = await canary_on(store, flips, share=1.0)
        change = fleet.flip(state, "green", actor="ada", reason="", at=7.0, force=True)
        state, _ = await store.commit(change)
        back, _ = await store.commit(fleet.rollback(state, actor="ada", reason="", at=8.0))
        assert ((await ask(pins, "a")).pin.color, back.pointer.active) == ("blue", "blue")

    async def test_a_known_one_stays_where_it_is(self, store: Any, pins: PinStore, flips: Any) -> None:
        first = await ask(pins, "a")
        assert await flip(store, flips) == 2
        again = await ask(pins, "a", preset="mcp")
        assert (again.pin, again.created) == (first.pin, False)
        new = await ask(pins, "b")
        assert (new.pin.color, new.pin.release, new.pin.epoch) == ("green", "v2", 2)
        assert await live(pins) == {("blue", "v1"): 1, ("green", "v2"): 1}

    async def test_many_in_one_go_and_in_order(self, pins: PinStore) -> None:
        found = await pins.resolve([want("a"), want("b"), want("b", "a"), want("c", "a")])
        assert [one.pin.id for one in found] == [key("a"), key("b"), key("b"), key("a")]
        assert [one.created for one in found] == [True, True, False, False]
        assert await pins.resolve([]) == []

    async def test_two_that_meet_one_session_at_once_get_one_pin(self, pins: PinStore) -> None:
        found = await asyncio.gather(*(ask(pins, "a", "b") for _ in range(30)))
        assert sum(one.created for one in found) == 1
        assert len({one.pin for one in found}) == 1
        assert await live(pins) == {("blue", "v1"): 1}

    async def test_missing_keys_become_aliases(self, pins: PinStore) -> None:
        first = await ask(pins, "task", "context")
        assert (first.pin.id, first.aliases) == (key("task"), 1)
        assert (await ask(pins, "context")).pin == first.pin
        other = await ask(pins, "task-2", "context")
        assert (other.pin, other.created, other.aliases, other.conflicts) == (first.pin, False, 1, 0)
        assert await pins.find(key("task-2")) == first.pin
        assert (await pins.look(key("task-2")))[0] == first.pin
        assert await live(pins) == {("blue", "v1"): 1}

    async def test_the_more_specific_wins_and_the_other_is_left(self, store: Any, pins: PinStore, flips: Any) -> None:
        context = (await ask(pins, "context")).pin
        await flip(store, flips)
        task = (await ask(pins, "task")).pin
        found = await ask(pins, "new", "task", "context")
        assert (found.pin, found.aliases, found.conflicts) == (task, 1, 1)
        assert await pins.find(key("context")) == context

    async def test_an_offer_counts_on_its_color_only(self, pins: PinStore) -> None:
        assert (await ask(pins, "a", offer=("blue", "http://h:1"))).pin.upstream == "http://h:1"
        assert (await ask(pins, "a", offer=("blue", "http://h:2"))).pin.upstream == "http://h:1"
        assert (await ask(pins, "b", offer=("green", "http://h:1"))).pin.upstream == ""

    async def test_what_a_node_has_known_is_written_again(self, store: Any, pins: PinStore, flips: Any) -> None:
        known = replace((await ask(pins, "a", "b")).pin, upstream="http://h:1", moved=2)
        await pins.end([key("a")])
        await flip(store, flips)
        again = await ask(pins, "b", "a", was=known)
        assert (again.pin, again.created) == (known, True)
        assert (await ask(pins, "b")).pin == known
        elsewhere = replace(known, color="green", release="v2")
        assert (await ask(pins, "a", was=elsewhere)).pin == known  # the first writer wins
        assert await live(pins) == {("blue", "v1"): 1}

    async def test_what_was_known_under_another_key(self, pins: PinStore) -> None:
        known = replace((await ask(pins, "a")).pin, id=key("first"))
        found = await ask(pins, "b", was=known)
        assert found.pin == replace(known, id=key("b"))
        assert await pins.find(key("b")) == found.pin

    async def test_what_is_too_old_is_not_written_again(self, store: Any, pins: PinStore, flips: Any) -> None:
        known = replace((await ask(pins, "a")).pin, created=time.time() - 5_000)
        await flip(store, flips)
        found = await ask(pins, "b", max_age=1_000.0, was=known)
        assert (found.pin.color, found.pin.id) == ("green", key("b"))

    async def test_without_a_pointer_nothing_is_pinned(self, url: str, opened: Opened) -> None:
        pins = cast("Any", await opened(url)).pins
        with pytest.raises(StoreUnavailable, match="holds no pointer"):
            await ask(pins, "a")
        assert await pins.find(key("a")) is None
        assert await pins.counts() == {}

    async def test_a_color_without_a_release(self, url: str, opened: Opened, flips: Any) -> None:
        store = await opened(url)
        change = flips.first()
        state = replace(change.state, releases={"green": change.state.releases["green"]})
        await store.commit(replace(change, state=state), create=True)
        found = await ask(cast("Any", store).pins, "a")
        assert (found.pin.color, found.pin.release) == ("blue", "")
        assert await live(cast("Any", store).pins) == {("blue", ""): 1}


class TestLearn:
    async def test_an_exchange_without_a_pin_gets_one_where_it_ran(
        self, store: Any, pins: PinStore, flips: Any
    ) -> None:
        await flip(store, flips)  # the agent on blue answers an exchange that was admitted before
        found = await tell(pins, "session", "other")
        assert (found.created, found.aliases, found.conflicts) == (True, 1, 0)
        created = pytest.approx(found.now, abs=0.001)
        expected = Pin(key("session"), "blue", "v1", "http://127.0.0.1:1", 1, created, "mcp", "chat", 0, TTL)
        assert found.pin == expected
        assert (await ask(pins, "session")).pin == found.pin
        assert (await ask(pins, "other")).pin == found.pin

    async def test_new_keys_lead_to_the_pin_of_their_exchange(self, pins: PinStore) -> None:
        first = await ask(pins, "response-1", "conversation")
        for number in range(2, 30):
            found = await tell(pins, f"response-{number}", pin=key("conversation"))
            assert (found.pin, found.created, found.aliases) == (first.pin, False, 1)
        assert await pins.find(key("response-29")) == first.pin
        assert await pins.find(key("response-5")) == first.pin
        assert await live(pins) == {("blue", "v1"): 1}

    async def test_somebody_elses_key_is_left_with_them(self, store: Any, pins: PinStore, flips: Any) -> None:
        victim = (await ask(pins, "victim")).pin
        await flip(store, flips)
        mine = (await ask(pins, "mine")).pin
        found = await tell(pins, "victim", "new", pin=key("mine"), color="green", release="v2")
        assert (found.pin, found.aliases, found.conflicts) == (mine, 1, 1)
        found = await tell(pins, "victim", "newer", color="green", release="v2")
        assert (found.pin.id, found.pin.color, found.conflicts) == (key("newer"), "green", 1)
        found = await tell(pins, "victim", color="green", release="v2")
        assert (found.pin, found.created, found.conflicts) == (victim, False, 1)
        assert await pins.find(key("victim")) == victim

    async def test_a_key_at_the_same_place_is_as_good(self, pins: PinStore) -> None:
        first = (await tell(pins, "conversation")).pin
        found = await tell(pins, "response", "conversation")
        assert (found.pin, found.created, found.conflicts) == (first, False, 0)

    async def test_a_pin_that_is_gone_is_written_again(self, pins: PinStore) -> None:
        found = await tell(pins, "new", pin=key("lost"), color="green", release="v2", epoch=7)
        assert (found.pin.id, found.pin.color, found.pin.epoch, found.created) == (key("lost"), "green", 7, True)
        assert await pins.find(key("new")) == found.pin

    async def test_learning_twice_is_learning_once(self, pins: PinStore) -> None:
        first = await tell(pins, "a", "b")
        again = await tell(pins, "a", "b")
        assert (again.pin, again.created, again.aliases, again.conflicts) == (first.pin, False, 0, 0)
        assert await live(pins) == {("blue", "v1"): 1}


class TestLife:
    stores = ("memory", "snapshot", "handed", "redis")  # it waits, for the clock that every Redis has

    async def test_an_expiry_is_the_end_of_a_bucket(self, pins: PinStore) -> None:
        found = await ask(pins, "a")
        [(pin, expires)] = (await everything(pins)).values()
        assert pin == found.pin
        assert expires % bucket_seconds(TTL) == 0
        assert found.now + TTL <= expires <= found.now + TTL + bucket_seconds(TTL)
        assert (await pins.counts())["blue", "v1"].last == expires

    async def test_use_prolongs(self, pins: PinStore) -> None:
        await ask(pins, "a", "b", ttl=120.0)
        [(_, before)] = (await everything(pins)).values()
        await ask(pins, "b", ttl=1_200.0)  # a ttl that was changed counts from the next use on
        [(pin, after)] = (await everything(pins)).values()
        assert after >= before + 1_000
        assert pin.ttl == 1_200.0
        assert await live(pins) == {("blue", "v1"): 1}

    async def test_what_is_not_used_is_gone(self, pins: PinStore) -> None:
        await ask(pins, "a", "b", ttl=0.2)
        await ask(pins, "stays")
        await asyncio.sleep(1.25)
        assert await pins.find(key("a")) is None
        assert await pins.find(key("b")) is None
        assert await pins.look(key("b")) is None
        assert await live(pins) == {("blue", "v1"): 1}
        assert (await pins.refresh([key("a"), key("stays"), key("b")])) == [key("a"), key("b")]
        assert (await ask(pins, "b", "a")).created

    async def test_what_is_refreshed_by_any_of_its_keys_stays_with_its_aliases(self, pins: PinStore) -> None:
        names = [f"alias-{number}" for number in range(KEPT_ALIASES)]
        await ask(pins, "a", *names, ttl=1.2)
        await ask(pins, "b", "of-b", ttl=1.2)
        for _ in range(5):
            assert await pins.refresh([key("a"), key("of-b")]) == []
            await asyncio.sleep(0.5)
        for name in ("a", *names, "b"):
            assert (await pins.find(key(name))) is not None
        assert await live(pins) == {("blue", "v1"): 2}

    async def test_a_pin_ends_at_its_age_however_it_is_used(self, pins: PinStore) -> None:
        found = await ask(pins, "a", max_age=0.2)
        assert found.pin.max_age == 0.2
        [(_, expires)] = (await everything(pins)).values()
        assert found.pin.created + 0.2 <= expires <= found.pin.created + 0.2 + bucket_seconds(TTL)
        assert await pins.refresh([key("a")]) == []
        [(_, again)] = (await everything(pins)).values()
        assert again == expires

    async def test_an_end_takes_the_aliases_with_it(self, pins: PinStore) -> None:
        await ask(pins, "a", "b")
        await ask(pins, "c")
        assert await pins.end([key("b"), key("nobody"), key("a")]) == [True, False, False]
        assert await pins.end([key("a")]) == [False]
        assert await pins.end([]) == []
        assert [await pins.find(key(name)) is None for name in "abc"] == [True, True, False]
        assert await live(pins) == {("blue", "v1"): 1}
        assert (await ask(pins, "b")).pin.id == key("b")

    async def test_an_alias_of_an_ended_pin_may_begin_anew(self, pins: PinStore) -> None:
        names = [f"n{number}" for number in range(KEPT_ALIASES + 4)]
        await ask(pins, "a", *names)
        await pins.end([key("a")])
        assert await pins.find(key("n0")) is None  # not among the newest, so it outlived the end
        found = await ask(pins, "n0", "n1")
        assert (found.created, found.pin.id, found.aliases) == (True, key("n0"), 1)
        assert (await ask(pins, "n1")).pin == found.pin


class TestCounts:
    async def test_they_are_exact_through_everything(self, store: Any, pins: PinStore, flips: Any) -> None:
        await pins.resolve([want(f"s{n}", ttl=float(60 + n)) for n in range(40)])
        assert await live(pins) == {("blue", "v1"): 40}
        await pins.refresh([key(f"s{n}") for n in range(40)])
        await pins.end([key(f"s{n}") for n in range(5)])
        await pins.end([key(f"s{n}") for n in range(8)])
        assert await live(pins) == {("blue", "v1"): 32}
        await flip(store, flips)
        for n in range(8, 18):
            await order(store, flips, cast("Pin", await pins.find(key(f"s{n}"))), "green")
            await pins.move(key(f"s{n}"))
        await pins.resolve([want(f"s{n}", ttl=300.0) for n in range(10, 50)])
        assert await live(pins) == {("blue", "v1"): 22, ("green", "v2"): 20}
        found = await everything(pins)
        assert len(found) == 42
        counts = await pins.counts()
        for place, count in counts.items():
            expiries = [expires for pin, expires in found.values() if (pin.color, pin.release) == place]
            assert (count.live, count.last) == (len(expiries), max(expiries))

    async def test_pages_meet_every_pin_and_no_alias(self, pins: PinStore) -> None:
        await pins.resolve([want(f"s{n}", f"alias-{n}") for n in range(57)])
        assert set(await everything(pins, 10)) == {key(f"s{n}") for n in range(57)}
        assert set(await everything(pins, 10, "blue")) == {key(f"s{n}") for n in range(57)}
        assert await everything(pins, 10, "green") == {}

    @pytest.mark.parametrize("cursor", ["x", "-1", "٣", "0x", " 1", "1" * 65])
    async def test_a_cursor_that_is_none(self, pins: PinStore, cursor: str) -> None:
        with pytest.raises(BadInput, match="cursor"):
            await pins.page(cursor, 10)


class TestPlace:
    async def test_the_first_of_two_wins(self, pins: PinStore) -> None:
        pin = (await ask(pins, "a")).pin
        first = await pins.place(pin, "http://h:1")
        second = await pins.place(pin, "http://h:2")
        assert first == second == replace(pin, upstream="http://h:1") == await pins.find(key("a"))
        assert first is not None
        third = await pins.place(first, "http://h:2")
        assert third == replace(pin, upstream="http://h:2")

    async def test_not_once_it_has_moved(self, store: Any, pins: PinStore, flips: Any) -> None:
        pin = (await ask(pins, "a")).pin
        await order(store, flips, pin, "green")
        moved = await pins.move(key("a"))
        assert moved != pin
        assert await pins.place(pin, "http://h:1") == moved
        await pins.end([pin.id])
        assert await pins.place(pin, "http://h:1") is None


class TestOrders:
    """Moves by hand: one order, which the nodes carry out between two turns."""

    async def test_a_session_that_rests_moves_once_all_nodes_know(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a", "b", offer=("blue", "http://h:1"))).pin
        assert await pins.move(key("a")) == pin  # without an order nothing is done
        revision = await order(store, flips, pin, "green")
        assert await pins.move(key("b")) == pin
        await pins.applied("one", 1, revision, [])
        assert await pins.move(key("b")) == pin
        await pins.applied("two", 1, revision, [], anew=False)
        moved = replace(pin, color="green", release="v2", upstream="", moved=1)
        assert await pins.move(key("b")) == moved == await pins.find(key("a"))
        assert await pins.move(key("b")) == moved
        assert await live(pins) == {("green", "v2"): 1}
        assert await pins.move(key("nobody")) is None

    async def test_one_that_is_busy_moves_at_its_next_turn(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        revision = await order(store, flips, pin, "green")
        await pins.applied("one", 1, revision, [Turn(pin.id, 1)])
        await pins.applied("two", 1, revision, [])
        assert await pins.move(pin.id) == pin
        assert await pins.migrate("two", [Turn(pin.id, 1)]) == [pin]  # this turn holds it too
        await pins.idle("one", [Turn(pin.id, 1)])
        assert await pins.move(pin.id) == pin
        await pins.idle("two", [Turn(pin.id, 1)])
        moved = replace(pin, color="green", release="v2", moved=1)
        assert await pins.migrate("two", [Turn(pin.id, 2)]) == [moved]
        assert await pins.migrate("one", [Turn(pin.id, 2)]) == [moved]  # and once only

    async def test_a_node_that_has_yet_to_apply_holds_it(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        revision = await order(store, flips, pin, "green")
        await pins.applied("one", 1, revision, [])
        assert await pins.migrate("one", [Turn(pin.id, 1)]) == [pin]
        await pins.idle("one", [Turn(pin.id, 1)])
        await store.leave("two")
        assert cast("Pin", await pins.move(pin.id)).color == "green"

    async def test_a_node_that_comes_later_holds_it_until_it_has_said_something(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        revision = await order(store, flips, pin, "green")
        for name in nodes:
            await pins.applied(name, 1, revision, [])
        await store.beat(NodeReport("three", "host", 1, "0.1", 1))
        assert await pins.move(pin.id) == pin
        await pins.applied("three", 1, revision, [])
        assert cast("Pin", await pins.move(pin.id)).color == "green"

    async def test_a_flip_makes_it_void(self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]) -> None:
        pin = (await ask(pins, "a")).pin
        await order(store, flips, pin, "green")
        await flip(store, flips)
        epoch = await flip(store, flips)
        for name in nodes:
            await pins.applied(name, epoch, 99, [])
        assert await pins.move(pin.id) == pin

    async def test_another_order_takes_its_place(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        await order(store, flips, pin, "green")
        revision = await order(store, flips, pin, "blue")
        for name in nodes:
            await pins.applied(name, 1, revision, [])
        assert await pins.move(pin.id) == pin

    async def test_a_release_that_stands_there_no_more_is_no_goal(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        await order(store, flips, pin, "green")
        await store.commit(flips.stage(await store.read(), "green", "v3"))
        for name in nodes:
            await pins.applied(name, 1, 99, [])
        assert await pins.move(pin.id) == pin

    async def test_a_session_that_begins_anew_under_its_key_is_not_meant(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        revision = await order(store, flips, pin, "green")
        await pins.end([pin.id])
        await asyncio.sleep(0.002)
        again = (await ask(pins, "a")).pin
        for name in nodes:
            await pins.applied(name, 1, revision, [])
        assert await pins.move(pin.id) == again
        assert (again.id, again.color) == (pin.id, "blue")

    async def test_what_the_session_leaves_need_not_stand_any_more(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await tell(pins, "a", color="green", release="v0")).pin
        await order(store, flips, pin, "green")
        [moved] = await pins.migrate("one", [Turn(pin.id, 1)])
        assert (cast("Pin", moved).color, cast("Pin", moved).release) == ("green", "v2")


class TestApplied:
    async def test_a_node_is_told_whether_it_was_known(self, store: Any, pins: PinStore) -> None:
        await store.beat(NodeReport("one", "host", 1, "0.1", 1))
        assert not await pins.applied("one", 1, 1, [], anew=False)
        assert not await pins.applied("one", 1, 1, [], anew=False)  # it has not said all that it knows
        assert not await pins.applied("one", 1, 1, [])
        assert await pins.applied("one", 1, 1, [], anew=False)
        assert await pins.applied("one", 1, 1, [])

    async def test_what_comes_on_top_takes_nothing_away(self, store: Any, pins: PinStore, flips: Any) -> None:
        await store.beat(NodeReport("one", "host", 1, "0.1", 1))
        a, b = [found.pin for found in await pins.resolve([want("a"), want("b")])]
        revision = 1
        for pin in (a, b):
            revision = await order(store, flips, pin, "green")
        await pins.applied("one", 0, 0, [Turn(a.id, 1)])
        await pins.applied("one", 1, revision, [Turn(b.id, 2)], anew=False)
        assert await pins.move(a.id) == a
        assert await pins.move(b.id) == b
        await pins.applied("one", 1, revision, [])
        assert [cast("Pin", await pins.move(pin.id)).color for pin in (a, b)] == ["green", "green"]

    async def test_an_earlier_turn_that_is_told_of_late_does_not_stand_for_the_later_one(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        epoch = await flip(store, flips)
        assert await pins.migrate("one", [Turn(pin.id, 2)]) == [pin]
        await pins.applied("one", epoch, epoch, [Turn(pin.id, 1)], anew=False)
        await pins.idle("one", [Turn(pin.id, 1)])
        await pins.applied("two", epoch, epoch, [])
        assert await pins.migrate("two", [Turn(pin.id, 1)]) == [pin]  # the second turn on one goes on
        await pins.idle("two", [Turn(pin.id, 1)])
        await pins.idle("one", [Turn(pin.id, 2)])
        assert [cast("Pin", moved).color for moved in await pins.migrate("two", [Turn(pin.id, 2)])] == ["green"]

    async def test_what_comes_after_all_was_said_anew_counts_no_more(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        a, b = [found.pin for found in await pins.resolve([want("a"), want("b")])]
        epoch = await flip(store, flips)
        await pins.applied("two", epoch, epoch, [], serial=3)
        await pins.applied("one", 0, 0, [Turn(a.id, 2)], serial=3)
        await pins.applied("one", 0, 0, [], serial=2)  # said before, and late
        await pins.applied("one", epoch, epoch, [Turn(b.id, 1)], anew=False, serial=2)
        assert await pins.migrate("one", [Turn(b.id, 2)]) == [b]  # it has not applied that, and this turn is over
        await pins.applied("one", epoch, epoch, [], anew=False, serial=3)
        stays, moves = await pins.migrate("two", [Turn(a.id, 1), Turn(b.id, 2)])
        assert stays == a
        assert cast("Pin", moves).color == "green"

    async def test_a_node_that_is_not_listed_any_more_is_forgotten(
        self, store: Any, pins: PinStore, nodes: tuple[str, str]
    ) -> None:
        await store.leave("two")
        await pins.applied("one", 1, 1, [])
        assert not await pins.applied("two", 1, 1, [], anew=False)


class TestMigrate:
    async def test_when_all_have_applied_and_none_is_busy(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a", offer=("blue", "http://h:1"))).pin
        assert await pins.migrate("one", [Turn(pin.id, 1)]) == [pin]  # nothing to do, so nothing is under way
        epoch = await flip(store, flips)
        await pins.applied("one", epoch, epoch, [])
        assert await pins.migrate("one", [Turn(pin.id, 2)]) == [pin]
        await pins.applied("two", epoch, epoch, [])
        assert await pins.migrate("two", [Turn(pin.id, 1)]) == [pin]  # the turn on one goes on
        await pins.idle("one", [Turn(pin.id, 1)])  # an older turn's end is not this one's
        await pins.idle("two", [Turn(pin.id, 1)])
        assert await pins.migrate("two", [Turn(pin.id, 2)]) == [pin]
        await pins.idle("one", [Turn(pin.id, 2)])
        await pins.idle("two", [Turn(pin.id, 2)])
        moved = replace(pin, color="green", release="v2", upstream="", epoch=epoch, moved=1)
        assert await pins.migrate("two", [Turn(pin.id, 3)]) == [moved]
        assert await pins.migrate("one", [Turn(pin.id, 3)]) == [moved]
        assert await live(pins) == {("green", "v2"): 1}

    async def test_turns_that_began_before_the_flip(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        a, b = await pins.resolve([want("a"), want("b")])
        epoch = await flip(store, flips)
        await pins.applied("two", epoch, epoch, [Turn(a.pin.id, 1)])
        await pins.applied("one", epoch, epoch, [])
        stayed, moved = await pins.migrate("one", [Turn(a.pin.id, 1), Turn(b.pin.id, 2)])
        assert stayed == a.pin
        assert moved is not None
        assert (moved.color, moved.epoch) == ("green", epoch)

    async def test_what_a_node_says_anew_replaces_what_it_said(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        epoch = await flip(store, flips)
        await pins.applied("two", epoch, epoch, [Turn(pin.id, 1)])
        await pins.applied("two", epoch, epoch, [])
        await pins.applied("one", epoch, epoch, [])
        [moved] = await pins.migrate("one", [Turn(pin.id, 1)])
        assert moved is not None
        assert moved.color == "green"

    async def test_a_node_that_has_left_is_not_waited_for(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        await pins.applied("two", 1, 1, [Turn(pin.id, 1)])
        epoch = await flip(store, flips)
        await pins.applied("one", epoch, epoch, [])
        assert await pins.migrate("one", [Turn(pin.id, 1)]) == [pin]
        await pins.idle("one", [Turn(pin.id, 1)])
        await store.leave("two")
        [moved] = await pins.migrate("one", [Turn(pin.id, 2)])
        assert moved is not None
        assert moved.color == "green"

    async def test_of_a_key_that_leads_to_another_pin_by_now_that_one_is_told_and_nothing_begins(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        """Whoever asks knows the turn under the old id, and would say of that one only that it is over."""
        old = (await ask(pins, "a")).pin
        await pins.end([old.id])
        other = (await ask(pins, "b", "a")).pin
        assert other.id != old.id
        epoch = await flip(store, flips)
        assert await pins.migrate("one", [Turn(old.id, 1)]) == [other]
        for name in nodes:
            await pins.applied(name, epoch, epoch, [])
        assert await pins.migrate("one", [Turn(old.id, 2)]) == [other]
        [moved] = await pins.migrate("two", [Turn(other.id, 1)])
        assert moved == replace(other, color="green", release="v2", epoch=epoch, moved=1)

    async def test_a_silent_node_is_waited_for_and_one_that_is_taken_off_the_list_is_not(
        self, opened: Any, url: str, flips: Any
    ) -> None:
        """It may still serve somewhere, and knows the session where it was."""
        store = await opened(url, node_ttl=0.02)
        await store.commit(flips.first(), create=True)
        for name in ("one", "two"):
            await store.beat(NodeReport(name, "host", 1, "0.1", 1))
            await store.pins.applied(name, 1, 1, [])
        pin = (await ask(store.pins, "a")).pin
        epoch = await flip(store, flips)
        await asyncio.sleep(0.04)
        await store.beat(NodeReport("one", "host", 1, "0.1", 1))
        assert [node.live for node in await store.nodes()] == [True, False]
        await store.pins.applied("one", epoch, epoch, [])
        assert await store.pins.migrate("one", [Turn(pin.id, 1)]) == [pin]
        await store.pins.idle("one", [Turn(pin.id, 1)])
        await store.leave("two")
        [moved] = await store.pins.migrate("one", [Turn(pin.id, 2)])
        assert cast("Pin", moved).color == "green"

    async def test_nothing_moves_while_nodes_may_be_missing_from_the_list(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        epoch = await flip(store, flips)
        found = await store.read()
        held = replace(found, revision=found.revision + 1)
        await store.commit(restored(Contradiction(Verdict.BEHIND, held, found), actor="bgproxy", reason="lost"))
        for node in nodes:
            await pins.applied(node, epoch, held.revision + 1, [])
        assert await pins.migrate("one", [Turn(pin.id, 1)]) == [pin]

    async def test_a_node_that_has_not_applied_moves_nothing(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        epoch = await flip(store, flips)
        await pins.applied("one", epoch, epoch, [])
        await pins.applied("two", epoch, epoch, [])
        assert await pins.migrate("new", [Turn(pin.id, 1)]) == [pin]

    async def test_a_release_that_is_gone_keeps_nobody(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        epoch = await flip(store, flips)
        await store.commit(flips.stage(await store.read(), "blue", "v3"))
        [moved] = await pins.migrate("one", [Turn(pin.id, 1)])
        assert moved == replace(pin, color="green", release="v2", epoch=epoch, moved=1)

    async def test_the_pointer_has_come_back(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        pin = (await ask(pins, "a")).pin
        await flip(store, flips)
        epoch = await flip(store, flips)
        assert await pins.migrate("one", [Turn(pin.id, 1)]) == [replace(pin, epoch=epoch)]
        assert await pins.find(pin.id) == replace(pin, epoch=epoch)

    async def test_a_node_that_knows_an_older_pin_is_told_of_the_newer_and_decides_anew(
        self, store: Any, pins: PinStore, flips: Any, nodes: tuple[str, str]
    ) -> None:
        """After a rollback a node found the session where it belongs. At the flip after that it need not ask, so the
        store knows of no turn. A node that has slept through all this wants to move it for the rollback."""
        pin = (await ask(pins, "a")).pin
        await flip(store, flips)
        back = await flip(store, flips)
        [standing] = await pins.migrate("one", [Turn(pin.id, 1, pin.epoch)])
        assert standing == replace(pin, epoch=back)
        epoch = await flip(store, flips)
        for name in nodes:
            await pins.applied(name, epoch, epoch, [])
        assert await pins.migrate("two", [Turn(pin.id, 1, pin.epoch)]) == [standing]
        [moved] = await pins.migrate("one", [Turn(pin.id, 2, back)])  # so nothing is under way on the other
        assert moved is not None
        assert (moved.color, moved.epoch) == ("green", epoch)

    async def test_a_pin_that_is_gone(self, pins: PinStore, nodes: tuple[str, str]) -> None:
        assert await pins.migrate("one", [Turn(key("nobody"), 1)]) == [None]


class TestWatch:
    async def test_ends_moves_and_places_ring(self, store: Any, pins: PinStore, flips: Any) -> None:
        pin = (await ask(pins, "a", "b")).pin
        async with aclosing(bells(pins)) as mine, aclosing(bells(pins)) as other:
            assert await anext(mine) == ()
            assert await anext(other) == ()
            await pins.place(pin, "http://h:1")
            assert await anext(mine) == (pin.id,)
            assert await anext(other) == (pin.id,)
            await order(store, flips, pin, "green")
            await pins.move(key("b"))
            assert await anext(mine) == (pin.id,)
            await pins.end([key("b")])
            assert await anext(mine) == (pin.id,)

    async def test_what_changes_nothing_does_not_ring(self, store: Any, pins: PinStore) -> None:
        first = (await ask(pins, "first")).pin
        async with aclosing(bells(pins)) as mine:
            assert await anext(mine) == ()
            await ask(pins, "a", "first")
            await tell(pins, "b", "a")
            await pins.refresh([key("a")])
            await pins.move(key("a"))
            await pins.end([key("nobody")])
            await pins.end([key("first")])
            assert await anext(mine) == (first.id,)

    async def test_the_fleets_own_bell_stays_quiet(self, store: Any, pins: PinStore, flips: Any) -> None:
        async with aclosing(store.watch()) as fleet:
            assert await anext(fleet) == 0
            await ask(pins, "a")
            await pins.end([key("a")])
            await flip(store, flips)
            assert await anext(fleet) == 2
