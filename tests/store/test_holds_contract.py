"""Commits that ask for every registered node to hold, and what makes nodes hold: alike in all stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from bgproxy import tasks
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.restore import Contradiction, Verdict, restored
from bgproxy.store import base
from bgproxy.store.base import Conflict, Held, Holding, NodeReport, Store, Waiting
from bgproxy.store.once import AlreadyDone, Once
from bgproxy.store.pinning import Want
from tests.store.conftest import Opened


async def standing(store: Store) -> FleetState:
    state = await store.read()
    assert state is not None
    return state


async def joined(store: Store, *names: str) -> None:
    for name in names:
        await store.beat(NodeReport(name, "host", 1, "0", 1))


async def prepare(store: Store, **terms: Any) -> FleetState:
    move = Move("flip", "green", "ada", 'why "so"')
    given = {"exclude": ("n9",), "hold_timeout": 1.5, "key": "k" * 64, "request": "r", **terms}
    change = barrier.prepare(await standing(store), move, at=1.0, **given)
    assert change is not None
    state, _ = await store.commit(change)
    return state


async def test_a_pending_flip_and_a_pause_are_read_as_they_were_written(store: Store) -> None:
    pending = await prepare(store)
    assert await store.read() == pending
    change = barrier.pause(pending, max_hold=2.5, actor="ada", reason="quiet")
    both, _ = await store.commit(change)
    assert await store.read() == both
    assert (both.pending, both.pause) == (pending.pending, change.state.pause)
    gone = barrier.abandon(both, both.pending.revision if both.pending else 0, actor="a", why="b")
    assert gone is not None
    state, _ = await store.commit(gone)
    assert (await standing(store)).pending is None
    assert (await standing(store)).pause == both.pause
    assert state == await store.read()


async def test_it_is_made_only_where_every_registered_node_holds(store: Store) -> None:
    await joined(store, "one", "two", "three")
    state = await prepare(store)
    change = barrier.complete(state, state.revision, at=2.0)
    assert change is not None
    held = Held(state.revision)
    assert await store.asleep(held) == ["one", "three", "two"]
    for names, waiting in [((), ["one", "three", "two"]), (("two",), ["one", "three"]), (("one",), ["three"])]:
        for name in names:
            assert await store.hold(name, state.revision) == 3
        with pytest.raises(Waiting) as refused:
            await store.commit(change, held=held)
        assert refused.value.nodes == tuple(waiting)
        assert await store.asleep(held) == waiting
        assert await store.read() == state
    assert len(await store.audit(limit=10)) == 2, "what was refused is on no record"
    for name in ("three", "one", "two"):  # of a later state that holds as well: all that apply it say so
        await store.hold(name, state.revision + 4)
    done, entry = await store.commit(change, held=held)
    assert (done.pointer.active, entry.verb) == ("green", "flip")


async def test_a_node_says_so_with_its_reading(store: Store) -> None:
    await joined(store, "one", "two")
    state = await prepare(store)
    assert await store.hold_and_read("one", state.revision, state.pointer) == (state, 2)
    assert await store.asleep(Held(state.revision)) == ["two"]


async def test_it_says_nothing_of_another_state_than_the_one_that_it_holds_for(store: Store) -> None:
    await joined(store, "one")
    before = await standing(store)
    assert await store.hold_and_read("one", before.revision, before.pointer) == (before, 0), "nothing waits by it"
    state = await prepare(store)
    pointer = state.pointer
    others = [replace(pointer, epoch=9), replace(pointer, active="green"), replace(pointer, at=pointer.at + 1)]
    for revision, where in [(1, pointer), (state.revision + 1, pointer), *((state.revision, one) for one in others)]:
        assert await store.hold_and_read("one", revision, where) == (state, 0)
    assert await store.asleep(Held(state.revision)) == ["one"]


async def test_where_nothing_stands_nobody_holds(url: str, opened: Opened, flips: Any) -> None:
    store = await opened(url)
    assert await store.hold_and_read("one", 1, flips.first().state.pointer) == (None, 0)


async def test_the_last_one_to_say_so_with_its_reading_rings(store: Store) -> None:
    await joined(store, "one", "two")
    async with aclosing(cast("AsyncGenerator[int, None]", store.watch())) as bells:
        assert await anext(bells) == 0
        state = await prepare(store)
        first = await anext(bells)
        assert (first, type(first)) == (state.revision, Holding)
        await store.hold_and_read("one", state.revision, state.pointer)
        last = tasks.spawn(store.hold_and_read("two", state.revision, state.pointer), "two")
        again = await anext(bells)
        await last
        assert (again, type(again)) == (state.revision, int)
        change = barrier.abandon(state, state.revision, actor="a", why="b")
        assert change is not None
        after, _ = await store.commit(change)
        last_bell = await anext(bells)
        assert (last_bell, type(last_bell)) == (after.revision, int), "nothing waits any more"


async def test_who_commits_and_who_is_left_behind_are_not_waited_for_by_the_bell(store: Store) -> None:
    await joined(store, "one", "two", "three", "n9")
    async with aclosing(cast("AsyncGenerator[int, None]", store.watch())) as bells:
        assert await anext(bells) == 0
        state = await prepare(store, node="one")
        assert await anext(bells) == state.revision
        rung = tasks.spawn(anext(bells), "bell")
        for node in ("two", "one", "n9"):
            assert await store.hold(node, state.revision) == 4
            assert not rung.done()
        await store.hold("three", state.revision)
        assert await rung == state.revision
        await store.hold("one", state.revision)
        assert await store.asleep(Held(state.revision)) == []
        change = barrier.abandon(state, state.revision, actor="a", why="b")
        assert change is not None
        after, _ = await store.commit(change)
        assert await anext(bells) == after.revision, "it rang once"


async def test_what_a_node_said_before_does_not_count(store: Store) -> None:
    await joined(store, "one")
    state = await prepare(store)
    await store.hold("one", state.revision - 1)
    assert await store.asleep(Held(state.revision)) == ["one"]


async def test_those_that_are_left_behind_or_gone_are_not_waited_for(store: Store) -> None:
    await joined(store, "one", "two", "three")
    state = await prepare(store)
    await store.hold("one", state.revision)
    change = barrier.complete(state, state.revision, at=2.0)
    assert change is not None
    await store.leave("three")
    with pytest.raises(Waiting) as refused:
        await store.commit(change, held=Held(state.revision))
    assert refused.value.nodes == ("two",)
    await store.commit(change, held=Held(state.revision, frozenset(("two", "nobody"))))


async def test_one_that_is_fenced_is_not_waited_for_until_it_beats(store: Store) -> None:
    await joined(store, "one")
    await store.beat(NodeReport("two", "host", 1, "0", 1, serial=7))
    state = await prepare(store)
    await store.hold("one", state.revision)
    change = barrier.complete(state, state.revision, at=2.0)
    assert change is not None
    for serial in (6, 8, 0):
        held = Held(state.revision, fenced={"two": serial, "nobody": 3})
        with pytest.raises(Waiting) as refused:
            await store.commit(change, held=held)
        assert refused.value.nodes == ("two",)
    held = Held(state.revision, fenced={"two": 7})
    assert await store.asleep(held) == ["two"]
    await store.commit(change, held=held)


async def test_what_a_node_has_held_goes_with_it(store: Store) -> None:
    await joined(store, "one")
    state = await prepare(store)
    await store.hold("one", state.revision)
    assert await store.asleep(Held(state.revision)) == []
    await store.leave("one")
    await joined(store, "one")
    assert await store.asleep(Held(state.revision)) == ["one"]


async def test_one_that_joins_meanwhile_is_waited_for(store: Store) -> None:
    await joined(store, "one")
    state = await prepare(store)
    await store.hold("one", state.revision)
    await joined(store, "late")
    assert await store.asleep(Held(state.revision)) == ["late"]


async def loses_a_flip(store: Store, flips: Any) -> None:
    """Somebody holds a flip that the store has lost, and writes it back."""
    found = await standing(store)
    lost = replace(flips.flip(found).state, pending=None)
    await store.commit(restored(Contradiction(Verdict.BEHIND, lost, found), actor="bgproxy", reason="lost"))


async def test_a_store_that_has_lost_something_may_not_know_every_node(store: Store, flips: Any) -> None:
    await loses_a_flip(store, flips)
    await joined(store, "one")
    change = flips.flip(await standing(store))
    with pytest.raises(Waiting, match="not all are known yet") as refused:
        await store.commit(change, held=Held(1, frozenset({"one"})))
    assert refused.value.nodes == ()
    assert (await standing(store)).pointer.active == "green"
    await store.commit(change)  # a swap asks nobody


async def test_until_each_has_had_time_to_register(
    url: str, opened: Opened, flips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ROLL_CALL", 0.001)
    store = await opened(url)
    await store.commit(flips.first(), create=True)
    await loses_a_flip(store, flips)
    await joined(store, "one")
    await asyncio.sleep(0.01)
    with pytest.raises(Waiting) as refused:
        await store.commit(flips.flip(await standing(store)), held=Held(1))
    assert refused.value.nodes == ("one",)
    done, _ = await store.commit(flips.flip(await standing(store)), held=Held(1, frozenset({"one"})))
    assert done.pointer.active == "blue"


def test_a_fence_has_to_have_closed_by_then() -> None:
    assert base.StoreOptions().roll_call == 4.0
    assert base.StoreOptions(fence_after=10.0).roll_call == pytest.approx(12.0)


async def test_a_node_that_is_alone_need_ask_nobody(store: Store, flips: Any) -> None:
    await joined(store, "me")
    state = await standing(store)
    await store.commit(flips.flip(state), held=Held(2**53 - 1, frozenset(("me",))))
    await joined(store, "other")
    with pytest.raises(Waiting):
        await store.commit(flips.flip(await standing(store)), held=Held(2**53 - 1, frozenset(("me",))))


async def test_the_key_and_the_revision_are_looked_at_first(store: Store, flips: Any) -> None:
    await joined(store, "one")
    first = await standing(store)
    key = Once("a key", "asked")
    await store.commit(flips.flip(first), once=key)
    with pytest.raises(AlreadyDone):
        await store.commit(flips.flip(first), once=key, held=Held(1))
    with pytest.raises(Conflict):
        await store.commit(flips.flip(first), held=Held(1))


async def test_a_key_that_is_only_looked_for_stays_free(store: Store) -> None:
    digest = Once("a key", "asked").key
    change = barrier.prepare(
        await standing(store),
        Move("flip", "green", "ada", ""),
        at=1.0,
        exclude=(),
        hold_timeout=1.0,
        key=digest,
        request="asked",
    )
    assert change is not None
    state, _ = await store.commit(change, once=Once("a key", "asked", is_kept=False))
    assert await store.recall(digest) is None
    done = barrier.complete(state, state.revision, at=2.0)
    assert done is not None
    state, _ = await store.commit(done, once=Once("", "asked", digest))
    known = await store.recall(digest)
    assert known is not None
    assert (known.active, known.epoch) == ("green", 2)
    with pytest.raises(AlreadyDone):
        await store.commit(change, once=Once("a key", "asked", is_kept=False))


async def test_a_snapshot_remembers_what_was_open(opened: Opened, tmp_path: Any, flips: Any) -> None:
    place = {"url": f"memory://{tmp_path}/state.json"}
    store = await opened(**place)
    await store.commit(flips.first(), create=True)
    state = await prepare(store)
    await store.close()
    assert await (await opened(**place)).read() == state


async def test_during_a_pause_no_session_begins_and_none_is_forgotten(store: Store) -> None:
    old, known, new = (bytes([number]) * 16 for number in range(3))
    [first, lost] = await store.pins.resolve([Want((known,), "default", "a", 60.0), Want((old,), "default", "a", 60.0)])
    assert first is not None
    assert lost is not None
    await store.pins.end([old])
    state, _ = await store.commit(barrier.pause(await standing(store), max_hold=9.0, actor="ada", reason=""))
    asked = [
        Want((new,), "default", "a", 60.0),
        Want((known, b"alias".ljust(16)), "default", "a", 60.0),
        Want((old,), "default", "a", 60.0, was=lost.pin),  # which a node knew, and the store has lost
    ]
    nothing, found, again = await store.pins.resolve(asked)
    assert nothing is None
    assert found is not None
    assert (found.pin, found.created, found.aliases) == (first.pin, False, 1)
    assert again is not None
    assert again.pin.color == lost.pin.color
    assert await store.pins.find(new) is None
    resumed = barrier.resume(state, actor="ada", reason="")
    assert resumed is not None
    await store.commit(resumed)
    [begun] = await store.pins.resolve(asked[:1])
    assert begun is not None
    assert begun.created
