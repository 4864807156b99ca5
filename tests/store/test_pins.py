"""This node's memory of pins: what costs a round trip, what does not, and what is forgotten when."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.store.pins import PinCache
from tests.store.pin_rig import TTL, Answers, Line, Rig, key, learned, resolved, settle, want


class TestAsking:
    async def test_a_known_session_costs_no_round_trip(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        assert cache.get([key("a")]) is None
        first = await resolved(cache, "a")
        assert first.why == "created"
        for _ in range(100):
            assert cache.get([key("a")]) is first.pin
        assert line.calls == [("resolve", 1)]
        assert (cache.hits, cache.misses, cache.counts.of("mcp", "blue").pinned) == (100, 1, 1)

    async def test_what_another_node_has_made_is_found(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        [other] = await rig.pins.resolve([want("a")])
        found = await resolved(node[0], "a")
        assert (found.pin, found.why) == (other.pin, "found")
        assert node[0].counts.of("mcp", "blue").pinned == 0

    async def test_one_session_asked_for_twice_is_one_question(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        line.gate = asyncio.Event()
        early = [Answers() for _ in range(5)]
        for answers in early:
            cache.resolve(want("a", "b"), answers)
        await settle()
        late = Answers()
        cache.resolve(want("a", "b"), late)
        assert not any(answers.told for answers in (*early, late))
        line.gate.set()
        await settle()
        assert {answers.pin for answers in (*early, late)} == {early[0].pin}
        assert line.calls == [("resolve", 1)]

    async def test_all_of_one_turn_of_the_loop_go_together(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        every = [Answers() for _ in range(300)]
        for number, answers in enumerate(every):
            cache.resolve(want(number), answers)
        await settle()
        assert line.calls == [("resolve", 128), ("resolve", 128), ("resolve", 44)]
        assert [answers.pin.id for answers in every] == [key(number) for number in range(300)]

    async def test_a_callback_that_fails_harms_nobody_else(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        def fail(pin: Any, why: str) -> None:
            raise RuntimeError("on purpose")

        node[0].resolve(want("a"), fail)
        assert (await resolved(node[0], "a")).why == "created"

    async def test_all_keys_of_a_session_lead_to_its_pin(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "task", "context")).pin
        assert cache.get([key("context")]) == cache.get([key("task"), key("context")]) == pin
        assert line.calls == [("resolve", 1)]

    async def test_a_further_key_is_told_behind_the_requests_back(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "task")).pin
        assert cache.get([key("task"), key("new")]) == pin
        assert cache.get([key("task"), key("new")]) == pin
        await settle()
        assert line.count("resolve") == 2
        assert await rig.pins.find(key("new")) == pin
        assert cache.get([key("new")]) == pin

    async def test_a_more_specific_key_is_asked_for_first(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, _ = node
        await resolved(cache, "context")
        rig.flip()
        [task] = await rig.pins.resolve([want("task")])
        assert cache.get([key("task"), key("context")]) is None
        found = await resolved(cache, "task", "context")
        assert (found.pin, cache.conflicts) == (task.pin, 1)
        context = cache.get([key("context")])
        assert context is not None
        assert context.color == "blue"


class TestForgetting:
    async def test_the_longest_unused_goes_first_and_memory_is_bounded(self, rig: Rig) -> None:
        cache, _ = rig.node(cache_size=10)
        for number in range(10):
            await resolved(cache, number)
        assert cache.get([key(0)]) is not None
        for number in range(10, 15):
            await resolved(cache, number, f"alias {number}")
            assert len(cache) <= 10
        assert cache.get([key(1)]) is None
        assert cache.get([key(14)]) is not None
        assert (await resolved(cache, 1)).why == "found"

    async def test_one_session_with_endless_keys_is_bounded_too(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, _ = node
        pin = (await resolved(cache, "a")).pin
        for number in range(500):
            cache.learn(learned(number, pin=pin.id), Answers())
            await settle()
        assert len(cache) == 33
        assert cache.get([key("a")]) == cache.get([key(499)]) == pin
        assert (await resolved(cache, 0)).pin == pin

    async def test_what_was_not_used_for_its_ttl_is_asked_for(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, _ = node
        await resolved(cache, "a")
        rig.flip()
        rig.clock.now += TTL - 1
        assert cache.get([key("a")]) is not None
        await rig.wake()
        rig.clock.now += 2
        assert cache.get([key("a")]) is not None  # that use was told to the store
        rig.clock.now += 2 * TTL
        assert cache.get([key("a")]) is None
        found = await resolved(cache, "a")
        assert (found.why, found.pin.color) == ("created", "green")

    async def test_an_end_is_known_at_once_and_told(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pins = [(await resolved(cache, name)).pin for name in "abc"]
        cache.end(pins[0].id)
        cache.end(pins[1].id)
        assert cache.get([key("a")]) is None
        await settle()
        assert line.calls[-1] == ("end", 2)
        assert [await rig.pins.find(key(name)) for name in "abc"] == [None, None, pins[2]]

    async def test_of_two_nodes_that_end_a_session_one_was_the_one(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        told: list[tuple[str, bool]] = []
        cache.end(pin.id, lambda by_this: told.append(("first", by_this)))
        cache.end(pin.id, lambda by_this: told.append(("second", by_this)))
        assert told == []  # not before the store has said so
        await settle()
        assert told == [("first", True), ("second", False)]
        assert line.calls[-1] == ("end", 2)

    async def test_what_others_change_is_dropped(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, _ = node
        for name in "abc":
            await resolved(cache, name, f"{name}{name}")
        rig.flip()
        rig.moved(key("a"), "green")
        await rig.pins.end([key("b")])
        await settle()
        assert [cache.get([key(name)]) is None for name in ("a", "aa", "b", "c")] == [True, True, True, False]
        assert (await resolved(cache, "aa")).pin.color == "green"

    async def test_a_change_that_overtakes_an_answer(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        await rig.pins.resolve([want("a")])
        line.gate = asyncio.Event()
        answers = Answers()
        cache.resolve(want("a"), answers)
        await settle()
        rig.flip()
        moved = rig.moved(key("a"), "green")
        await settle()
        line.gate.set()
        await settle()
        assert answers.pin == moved  # what had been found was asked for again
        assert cache.get([key("a")]) == moved

    async def test_after_a_broken_line_everything_is_asked_for_again(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, line = node
        await resolved(cache, "a")
        await resolved(cache, "b")
        line.cut()
        await settle()
        rig.flip()
        moved = rig.moved(key("a"), "green")
        assert cache.get([key("a")]) is not None  # known pins hold
        line.mend()
        await rig.wake()
        assert cache.get([key("a")]) is None
        assert (await resolved(cache, "a")).pin == moved
        assert (await resolved(cache, "b")).pin.color == "blue"

    async def test_what_the_store_has_lost_is_told_to_it_again(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a", "aa")).pin
        idle = (await resolved(cache, "idle")).pin
        line.cut()
        await settle()
        rig.lose_everything()
        rig.flip()
        line.mend()
        await rig.wake()
        again = await resolved(cache, "aa")
        assert (again.pin.color, again.pin.release) == (pin.color, pin.release)
        rig.clock.now += 2 * TTL
        assert (await resolved(cache, "idle")).pin.color == "green" != idle.color  # it would have idled out

    @pytest.mark.parametrize("by", ["migrate", "place"])
    async def test_a_key_that_leads_to_another_pin_by_now(self, rig: Rig, node: tuple[PinCache, Line], by: str) -> None:
        """The store was emptied, and somebody else has come first with both keys."""
        cache, _ = node
        before = (await resolved(cache, "a")).pin
        rig.lose_everything()
        [other] = await rig.pins.resolve([want("b", "a")])
        assert other.pin.id == key("b")
        if by == "migrate":
            cache.migrate(before, Answers())
        else:
            cache.place(before.id, "http://127.0.0.1:1")
        await settle()
        assert cache.get([key("a")]) is None
        found = (await resolved(cache, "a")).pin
        assert found.id == other.pin.id
        assert cache.get([key("a")]) == found


class TestUse:
    async def test_it_is_told_once_a_third_of_the_ttl_has_passed(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        for number in range(200):
            await resolved(cache, number)
        before = line.count("resolve")
        rig.clock.now += TTL / 3 - 1
        assert cache.get([key(0)]) is not None
        await rig.wake()
        assert line.count("refresh") == 0
        rig.clock.now += 2
        for _ in range(3):
            for number in range(150):
                assert cache.get([key(number)]) is not None
        await rig.wake()
        assert line.calls[-2:] == [("refresh", 128), ("refresh", 22)]
        assert (cache.refreshed, line.count("resolve")) == (150, before)
        rig.clock.now += TTL - 100
        assert [await rig.pins.find(key(number)) is None for number in (0, 149, 150)] == [False, False, True]

    async def test_a_stream_keeps_its_pin_alive(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        for _ in range(30):
            rig.clock.now += TTL / 6
            for _ in range(10):
                cache.touch(pin.id)
            await rig.wake()
        assert await rig.pins.find(key("a")) == pin
        assert line.count("refresh") == 15

    async def test_a_stream_whose_pin_was_forgotten_here(self, rig: Rig) -> None:
        cache, _ = rig.node(cache_size=1)
        pin = (await resolved(cache, "a")).pin
        await resolved(cache, "b")
        rig.clock.now += TTL / 2
        cache.touch(pin.id)
        assert await cache.tell()
        rig.clock.now += TTL * 0.7
        assert await rig.pins.find(key("a")) == pin

    async def test_a_pin_in_use_that_the_store_lost_is_written_again(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, _ = node
        pin = (await resolved(cache, "a", "b")).pin
        rig.lose_everything()
        rig.flip()
        rig.clock.now += TTL / 2
        assert cache.get([key("b")]) == pin
        await rig.wake()
        await rig.wake()
        assert cache.gone == 1
        assert await rig.pins.find(key("b")) == pin

    async def test_one_that_was_ended_elsewhere_is_not(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        rig.clock.now += TTL / 2
        assert cache.get([key("a")]) == pin
        line.gate = asyncio.Event()
        await rig.pins.end([pin.id])
        telling = asyncio.ensure_future(cache.tell())
        line.gate.set()
        await telling
        await settle()
        await rig.wake()
        assert await rig.pins.find(key("a")) is None

    async def test_a_pin_dies_of_age_however_it_is_used(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, _ = node
        first = (await resolved(cache, "a", max_age=1_000.0)).pin
        rig.flip()
        for _ in range(9):
            rig.clock.now += 100
            assert cache.get([key("a")]) == first
            await rig.wake()
        rig.clock.now += 111
        assert cache.get([key("a")]) is None
        assert (await resolved(cache, "a", max_age=1_000.0)).pin.color == "green"


class TestLearning:
    async def test_a_minted_key_counts_once_the_store_has_it(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        rig.flip()
        answers = Answers()
        cache.learn(learned("session"), answers)  # served by blue, before the flip
        await settle()
        assert (answers.why, answers.pin.color) == ("learned", "blue")
        assert cache.get([key("session")]) == answers.pin == await rig.pins.find(key("session"))
        assert line.calls == [("learn", 1)]
        assert cache.counts.of("mcp", "blue").learned == 1

    async def test_who_asks_meanwhile_waits_for_it(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        rig.flip()
        line.gate = asyncio.Event()
        learning, asking = Answers(), Answers()
        cache.learn(learned("session"), learning)
        cache.resolve(want("session", "other"), asking)
        await settle()
        assert asking.told == []
        line.gate.set()
        await settle()
        assert asking.pin == learning.pin
        assert asking.pin.color == "blue"

    async def test_somebody_elses_key_is_not_taken_not_for_a_moment(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, line = node
        [victim] = await rig.pins.resolve([want("victim")])
        rig.flip()
        mine = (await resolved(cache, "mine")).pin
        line.gate = asyncio.Event()
        answers = Answers()
        cache.learn(learned("victim", "new", pin=mine.id, color="green", release="v2"), answers)
        await settle()
        assert cache.get([key("victim")]) is None
        line.gate.set()
        await settle()
        assert (answers.pin, cache.conflicts) == (mine, 1)
        assert cache.get([key("victim")]) is None
        assert (await resolved(cache, "victim")).pin == victim.pin
        assert (await resolved(cache, "new")).pin == mine

    async def test_a_pin_is_placed_by_the_first(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, _ = node
        pin = (await resolved(cache, "a")).pin
        cache.place(pin.id, "http://h:1")
        assert cache.get([key("a")]) == replace(pin, upstream="http://h:1")
        await settle()
        assert await rig.pins.find(key("a")) == replace(pin, upstream="http://h:1")
        other, _ = rig.node("two")
        await resolved(other, "b")
        before = (await resolved(cache, "b")).pin
        other.place(before.id, "http://h:2")
        cache.place(before.id, "http://h:3")
        await settle()
        assert (await resolved(cache, "b")).pin.upstream == "http://h:2"


async def test_a_hit_is_quick(rig: Rig) -> None:
    cache, _ = rig.node()
    for number in range(2_000):
        cache.resolve(want(number), Answers())
    await settle()
    keys = [[key(number)] for number in range(2_000)]
    best = float("inf")
    for _ in range(7):
        began = time.perf_counter()
        for one in keys:
            cache.get(one)
        best = min(best, time.perf_counter() - began)
    assert best / 2_000 < 5e-6  # a bound that only a round trip, or a walk over the table, would break


async def test_questions_that_are_answered_in_another_order(rig: Rig, node: tuple[PinCache, Line]) -> None:
    """A change that rings meanwhile counts for each of them, and none is left without an answer."""
    cache, line = node
    await rig.pins.resolve([want("a"), want("b")])
    first, second = asyncio.Event(), asyncio.Event()
    a, b = Answers(), Answers()
    line.gate = first
    cache.resolve(want("a"), a)
    await settle()
    line.gate = second
    cache.resolve(want("b"), b)
    await settle()
    second.set()
    await settle()
    assert (len(a.told), len(b.told)) == (0, 1)
    rig.flip()
    rig.moved(key("a"), "green")
    await settle()
    first.set()
    await settle()
    assert a.pin.color == "green"  # asked for again
    assert cache.get([key("b")]) is not None
