"""The ledger of each flip, kept by both stores alike: what is counted, to which flip, and that it does not grow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import StoreBroken
from bgproxy.rules import fleet
from bgproxy.rules.deadline import end_sessions, set_deadline
from bgproxy.store import flips as flips_module
from bgproxy.store import redis_commit
from bgproxy.store.base import Store
from bgproxy.store.flips import FlipRecord
from bgproxy.store.pinning import Turn, Want

Opened = Callable[..., Awaitable[Store]]
NODE = "here"


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def begin(store: Store, *numbers: int, ttl: float = 600.0) -> None:
    """So many sessions, on the color that is active."""
    await store.pins.resolve([Want((key(number),), "chat", "mcp", ttl) for number in numbers])


async def flip(store: Store, flips: Any, **more: Any) -> int:
    """To the other color; every node has applied it."""
    state, _ = await store.commit(flips.flip(await store.read(), **more))
    epoch = state.pointer.epoch
    await store.pins.applied(NODE, epoch, state.revision, [])
    return int(epoch)


async def by_hand(store: Store, flips: Any, number: int, to: str) -> None:
    """An operator moves a session, and every node has heard of it."""
    pin = await store.pins.find(key(number))
    state, _ = await store.commit(flips.order(await store.read(), pin, to))
    await store.pins.applied(NODE, state.pointer.epoch, state.revision, [])
    assert (await store.pins.move(key(number))).color == to  # type: ignore[union-attr]


async def turn(store: Store, number: int) -> str:
    """A turn of a session that is to be where the pointer is; the color that serves it."""
    [pin] = await store.pins.migrate(NODE, [Turn(key(number), 1)])
    assert pin is not None
    await store.pins.idle(NODE, [Turn(key(number), 1)])
    return pin.color


async def counts(store: Store, epoch: int) -> dict[str, int]:
    [record] = await store.flips([epoch])
    told = record.document()
    return {name: told[name] for name in ("kept", "moved", "ended", "lost", "turns_cut")}


def outcome(kept: int, moved: int = 0, ended: int = 0, lost: int = 0, turns_cut: int = 0) -> dict[str, int]:
    return {"kept": kept, "moved": moved, "ended": ended, "lost": lost, "turns_cut": turns_cut}


async def test_before_the_pointer_has_moved_there_is_none(store: Store) -> None:
    await begin(store, 1, 2)
    assert await store.flips([0, 1, 2, -1]) == []
    assert await store.flips([]) == []
    await store.tally(1, lost=1, turns_cut=1)
    assert await store.flips([1]) == []


async def test_what_a_flip_leaves_is_counted_with_it(store: Store, flips: Any) -> None:
    await begin(store, *range(5))
    state = await store.read()
    _, entry = await store.commit(flips.flip(state, actor="ada", reason='why "now"'))
    assert await store.flips([2]) == [FlipRecord(2, "flip", "blue", "green", entry.at, "ada", 'why "now"', 5)]
    assert (await store.flips([2]))[0].document() == {
        "epoch": 2,
        "verb": "flip",
        "from": "blue",
        "to": "green",
        "at": entry.at,
        "actor": "ada",
        "reason": 'why "now"',
        **outcome(5),
    }


async def test_sessions_on_the_release_that_becomes_active_are_not_left(store: Store, flips: Any) -> None:
    await begin(store, 1, 2, 3)
    await flip(store, flips)
    await begin(store, 4, 5)
    assert await flip(store, flips) == 3
    assert [(await counts(store, epoch))["kept"] for epoch in (2, 3)] == [3, 2]
    # Another release on the color than the one that they live on: they are left too.
    staged, _ = await store.commit(flips.stage(await store.read(), "green", "v3"))
    change = fleet.flip(staged, "green", actor="ada", reason="", at=1.0, force=True)
    assert change is not None
    await store.commit(change)
    assert (await counts(store, 4))["kept"] == 5


async def test_each_session_that_moves_counts_once(store: Store, flips: Any) -> None:
    await begin(store, *range(6))
    await flip(store, flips)
    assert [await turn(store, number) for number in (0, 1, 0, 1)] == ["green"] * 4
    for color in ("green", "blue", "green"):
        await by_hand(store, flips, 2, color)
    assert await counts(store, 2) == outcome(3, moved=3)


async def test_a_session_that_was_not_left_does_not_count_wherever_it_goes(store: Store, flips: Any) -> None:
    await begin(store, 1)
    await flip(store, flips)
    await begin(store, 2)  # since the flip, on green
    await by_hand(store, flips, 2, "blue")
    assert await counts(store, 2) == outcome(1)
    await flip(store, flips)
    await begin(store, 3)
    assert await turn(store, 1) == "blue"  # it was there already
    assert await counts(store, 3) == outcome(0)


async def test_a_move_counts_to_the_flip_under_which_it_was_made(store: Store, flips: Any) -> None:
    await begin(store, 1, 2)
    await flip(store, flips)
    await turn(store, 1)
    await flip(store, flips)
    await turn(store, 1)
    assert [await counts(store, epoch) for epoch in (2, 3)] == [outcome(1, moved=1), outcome(0, moved=1)]


async def test_sessions_that_idle_out_were_kept_and_are_not_counted_again(store: Store, flips: Any) -> None:
    await begin(store, 1, 2)
    await flip(store, flips)
    await store.pins.end([key(1)])
    assert await counts(store, 2) == outcome(2)
    await flip(store, flips)
    await flip(store, flips)
    assert await counts(store, 4) == outcome(1)


async def test_what_a_deadline_ends_is_put_to_the_flip_that_left_it(store: Store, flips: Any) -> None:
    await begin(store, 1, 2, 3)
    left = await flip(store, flips)
    state = await store.read()
    assert state is not None
    who: dict[str, Any] = {"actor": "ada", "reason": ""}
    change = set_deadline(state, "blue", 0.0, at=0.0, **who)
    assert change is not None
    state, _ = await store.commit(change)
    at = state.releases["blue"].deadline
    change = end_sessions(state, "blue", "v1", at=at, evidence={"sessions": 3}, **who)
    assert change is not None
    await store.commit(change)
    assert await counts(store, left) == outcome(0, ended=3)


async def test_losses_and_cut_turns_are_counted_and_kept_never_falls_below_nothing(store: Store, flips: Any) -> None:
    await begin(store, 1)
    await flip(store, flips)
    await store.tally(2, lost=1, turns_cut=4)
    await store.tally(2, turns_cut=1)
    assert await counts(store, 2) == outcome(0, lost=1, turns_cut=5)
    await store.tally(2, lost=2)
    await store.tally(9, lost=2)
    assert await counts(store, 2) == outcome(0, lost=3, turns_cut=5)
    assert await store.flips([9]) == []


async def test_they_come_in_the_order_that_is_asked_for(store: Store, flips: Any) -> None:
    for _ in range(4):
        await flip(store, flips)
    assert [record.epoch for record in await store.flips([5, 2, 7, 3])] == [5, 2, 3]


async def test_only_the_newest_are_kept(url: str, opened: Opened, flips: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(flips_module, "KEPT_FLIPS", 3)
    monkeypatch.setattr(redis_commit, "KEPT_FLIPS", 3)
    store = await opened(url)
    await store.commit(flips.first(), create=True)
    for epoch in range(2, 9):
        assert await flip(store, flips) == epoch
        await store.tally(epoch, lost=1, turns_cut=1)
    assert [record.epoch for record in await store.flips(range(10))] == [6, 7, 8]
    await store.tally(3, lost=1)
    assert await store.flips([3]) == []


async def test_a_change_that_is_no_flip_begins_none_and_forgets_none(store: Store, flips: Any) -> None:
    await begin(store, 1)
    await flip(store, flips)
    await store.commit(flips.stage(await store.read(), "blue", "v3"))
    assert await counts(store, 2) == outcome(1)


async def test_a_flip_that_loses_its_race_leaves_the_records_as_they_are(store: Store, flips: Any) -> None:
    late = flips.flip(await store.read())
    await flip(store, flips)
    await store.tally(2, lost=1)
    with pytest.raises(Exception, match="revision"):
        await store.commit(late)
    assert (await counts(store, 2))["lost"] == 1


async def test_a_snapshot_has_them(opened: Opened, flips: Any, tmp_path: Any) -> None:
    url = f"memory://{tmp_path}/state.json"
    first = await opened(url)
    await first.commit(flips.first(), create=True)
    await begin(first, 1, 2)
    await flip(first, flips)
    await turn(first, 1)
    await first.tally(2, turns_cut=3)
    await first.commit(flips.stage(await first.read(), "blue", "v3"))
    again = await opened(url)
    assert await again.flips([2]) == await first.flips([2])
    assert await counts(again, 2) == outcome(1, moved=1, turns_cut=3)


@pytest.mark.redis
async def test_a_record_that_cannot_be_understood(
    opened: Opened, redis_server: Any, fleet_name: str, flips: Any
) -> None:
    store = await opened(redis_server.url)
    await store.commit(flips.first(), create=True)
    await flip(store, flips)
    redis_server.command("HSET", f"bgproxy:{{{fleet_name}}}:flips", "2", "{}")
    with pytest.raises(StoreBroken, match="flips"):
        await store.flips([2])
