"""What a node counts of its sessions: by preset and color, each fact once, and its questions to the store."""

from __future__ import annotations

import asyncio
import json

from bgproxy.store.pin_counts import BEYOND, MOST_PLACES, PinCounts
from bgproxy.store.pins import PinCache
from tests.store.pin_rig import Answers, Line, Rig, key, learned, resolved, settle, want


def of(cache: PinCache, preset: str, color: str) -> dict[str, int]:
    found: dict[str, int] = cache.counted()["places"][preset][color]
    return {name: count for name, count in found.items() if count}


async def test_a_session_counts_where_it_began_and_under_its_preset(rig: Rig, node: tuple[PinCache, Line]) -> None:
    cache, _ = node
    await resolved(cache, "a")
    await resolved(cache, "b", preset="a2a")
    await resolved(cache, "b", preset="a2a")  # a second question is no second session
    rig.flip()
    await resolved(cache, "c")
    assert (of(cache, "mcp", "blue"), of(cache, "mcp", "green")) == ({"pinned": 1}, {"pinned": 1})
    assert of(cache, "a2a", "blue") == {"pinned": 1}
    assert json.loads(json.dumps(cache.counted())) == cache.counted()


async def test_a_session_that_another_node_began_is_not_counted_again(rig: Rig, node: tuple[PinCache, Line]) -> None:
    await resolved(rig.node()[0], "a")
    await resolved(node[0], "a")
    assert node[0].counted()["places"] == {}


async def test_minted_keys_count_each_and_the_session_that_they_begin(node: tuple[PinCache, Line]) -> None:
    cache, _ = node
    cache.learn(learned("task", "context"), Answers())
    await settle()
    assert of(cache, "mcp", "blue") == {"pinned": 1, "learned": 2}


async def test_an_end_counts_once_and_only_what_was_there(node: tuple[PinCache, Line]) -> None:
    cache, _ = node
    await resolved(cache, "a")
    for _ in range(2):
        cache.end(key("a"))
    cache.end(key("never"))
    await settle()
    assert of(cache, "mcp", "blue") == {"pinned": 1, "ended": 1}


async def test_what_was_minted_without_the_store_is_counted_once_it_is_written(
    rig: Rig, node: tuple[PinCache, Line]
) -> None:
    cache, line = node
    line.cut()
    cache.learn(learned("minted"), Answers())
    await settle()
    assert of(cache, "mcp", "blue") == {"learned": 1}
    line.mend()
    assert await cache.tell()
    assert of(cache, "mcp", "blue") == {"pinned": 1, "learned": 1}


async def test_each_question_is_a_round_trip_whatever_it_carries(rig: Rig, node: tuple[PinCache, Line]) -> None:
    cache, line = node
    for name in "abc":
        cache.resolve(want(name), Answers())
    await settle()
    assert cache.counted()["store"]["resolve"]["calls"] == line.count("resolve") == 1
    line.loses_answers = True
    await resolved(cache, "d")
    trips = cache.counted()["store"]["resolve"]
    assert (trips["calls"], trips["failed"]) == (2, 1)


async def test_a_round_trip_is_timed_the_failed_one_too(rig: Rig, node: tuple[PinCache, Line]) -> None:
    cache, line = node
    gate = line.gate = asyncio.Event()
    for fails in (False, True):
        gate.clear()
        cache.resolve(want(fails), Answers())
        await settle()
        rig.clock.now += 0.25
        line.loses_answers = fails
        gate.set()
        await settle()
    assert cache.counted()["store"]["resolve"] == {"calls": 2, "failed": 1, "seconds": 0.5}


def test_names_from_elsewhere_do_not_make_it_grow_for_ever() -> None:
    counts = PinCounts()
    for number in range(MOST_PLACES + 50):
        counts.of(f"preset {number}", "blue").pinned += 1
    places = counts.as_dict()["places"]
    assert len(places) == MOST_PLACES + 1
    assert places[BEYOND]["blue"]["pinned"] == 50
    counts.of("preset 7", "blue").pinned += 1  # who was there before still is
    assert counts.as_dict()["places"]["preset 7"]["blue"]["pinned"] == 2
