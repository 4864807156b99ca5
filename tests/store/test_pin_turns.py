"""Moving sessions between two of their turns: what nodes tell one another through the store, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bgproxy.rules.pin import Pin
from bgproxy.store.pins import PinCache
from tests.store.pin_rig import Answers, Line, Rig, key, resolved, settle, want


async def migrated(cache: PinCache, pin: Pin) -> Answers:
    answers = Answers()
    cache.migrate(pin, answers)
    await settle()
    return answers


async def ended(pin: Pin, *nodes: PinCache) -> None:
    """The session's turn on each of these nodes is over, and told."""
    for cache in nodes:
        cache.idle(pin.id)
    await settle()


async def two_nodes(rig: Rig) -> tuple[tuple[PinCache, Line], tuple[PinCache, Line], Pin]:
    """Both have applied the first epoch, and know a session on blue."""
    one, two = rig.node("one"), rig.node("two")
    for cache, _ in (one, two):
        cache.applied(1, 1, ())
        pin = (await resolved(cache, "a")).pin
    return one, two, pin


async def test_a_session_moves_between_two_turns(rig: Rig) -> None:
    (one, _), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    stays = await migrated(one, pin)
    assert (stays.pin, stays.why) == (pin, "stays")  # the other may still begin a turn on blue
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(two, pin)).why == "stays"  # the first one's turn is under way
    await ended(pin, two, one)
    moved = await migrated(two, pin)
    assert (moved.why, moved.pin.color, moved.pin.epoch, moved.pin.moved) == ("moved", "green", epoch, 1)
    assert (await migrated(one, pin)).pin == moved.pin
    assert [cache.counts.of("mcp", "green").moved for cache in (one, two)] == [1, 1]
    assert two.get([key("a")]) == moved.pin


async def test_turns_that_began_before_the_flip_hold_their_sessions(rig: Rig) -> None:
    (one, _), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    two.applied(epoch, epoch, [pin.id])
    await settle()
    assert (await migrated(one, pin)).why == "stays"
    await ended(pin, one, two)
    assert (await migrated(one, pin)).why == "moved"


async def test_one_session_asked_for_twice_is_one_question(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    two.applied(epoch, epoch, ())
    await settle()
    answers = [Answers() for _ in range(5)]
    for told in answers:
        one.migrate(pin, told)
    await settle()
    assert {told.pin.color for told in answers} == {"green"}
    assert line.count("migrate") == 1


async def test_one_that_nobody_waits_for_any_more_does_not_hold_its_session(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    await settle()
    line.gate = asyncio.Event()
    answers = Answers()
    one.migrate(pin, answers)  # refused, as two has not applied yet; the answer is on its way
    await settle()
    one.idle(pin.id)  # the client has left
    line.gate.set()
    two.applied(epoch, epoch, ())
    await settle()
    assert answers.why == "stays"
    assert (await migrated(two, pin)).why == "moved"


async def test_but_one_that_has_joined_meanwhile_does(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    await settle()
    line.gate = asyncio.Event()
    left, joined = Answers(), Answers()
    one.migrate(pin, left)
    await settle()
    one.idle(pin.id)
    one.migrate(pin, joined)
    line.gate.set()
    two.applied(epoch, epoch, ())
    await settle()
    assert joined.why == "stays"
    assert (await migrated(two, pin)).why == "stays"
    await ended(pin, one, two)
    assert (await migrated(two, pin)).why == "moved"


async def test_an_end_cannot_overtake_its_beginning(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    line.gate = asyncio.Event()
    one.applied(epoch, epoch, [pin.id])
    await asyncio.sleep(0)
    one.idle(pin.id)
    two.applied(epoch, epoch, ())
    await settle()
    line.gate.set()
    await settle()
    assert line.calls[-2:] == [("applied", 1), ("idle", 1)]
    assert (await migrated(two, pin)).why == "moved"


async def test_what_could_not_be_told_is_told_when_the_store_is_back(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    await settle()
    line.cut()
    epoch = rig.flip()
    one.applied(epoch, epoch, [pin.id])
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(two, pin)).why == "stays"
    two.idle(pin.id)
    line.mend()
    await one.tell()
    assert line.calls[-2:] == [("applied anew", 1), ("applied", 0)]
    assert (await migrated(two, pin)).why == "stays"
    two.idle(pin.id)
    line.cut()
    await ended(pin, one)
    line.mend()
    await one.tell()
    await settle()
    assert (await migrated(two, pin)).why == "moved"


async def test_a_store_that_came_back_empty_is_told_again(rig: Rig) -> None:
    (one, line), (two, other), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, [pin.id])
    two.applied(epoch, epoch, ())
    await settle()
    before = line.count("applied anew")
    rig.lose_everything()  # and nothing of the line to it breaks
    await resolved(two, "a")
    await one.tell()
    assert line.count("applied anew") == before  # it does not know yet
    rig.clock.now += 6
    await one.tell()
    await two.tell()
    assert line.count("applied anew") == before + 1
    assert other.count("applied anew") > 1
    [pinned] = await rig.pins.resolve([want("a", was=pin)])
    assert (await migrated(two, pinned.pin)).why == "stays"


async def test_a_store_that_still_knows_all_is_asked_that_and_told_nothing(rig: Rig) -> None:
    (one, line), _, _ = await two_nodes(rig)
    many = [key(number) for number in range(1_000)]
    epoch = rig.flip()
    one.applied(epoch, epoch, many)
    await settle()
    line.calls.clear()
    for _ in range(3):
        rig.clock.now += 6
        await one.tell()
        await one.tell()
    assert line.calls == [("applied", 0)] * 3


async def test_after_a_broken_line_all_is_told_in_pieces(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    other = (await resolved(two, "b")).pin
    epoch = rig.flip()
    one.applied(epoch, epoch, [pin.id, *(key(number) for number in range(200))])
    two.applied(epoch, epoch, ())
    await settle()
    line.calls.clear()
    one._turns.lost()
    line.gate = asyncio.Event()
    telling = asyncio.create_task(one.tell())
    await settle()
    assert line.calls == [("applied anew", 128)]
    assert (await migrated(two, other)).why == "stays"  # for it has not said all yet
    line.gate.set()
    await telling
    assert line.calls == [("applied anew", 128), ("applied", 73), ("applied", 0)]
    await ended(pin, two)
    assert (await migrated(two, pin)).why == "stays"
    await ended(pin, one, two)
    assert (await migrated(two, pin)).why == "moved"


async def test_a_turn_that_was_asked_for_before_the_store_forgot_it_holds_its_session(
    rig: Rig,
) -> None:
    """What tells all anew was on its way when it began, and was overtaken."""
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    await settle()
    one._turns.lost()
    line.road = arrives = asyncio.Event()
    telling = asyncio.create_task(one.tell())
    await settle()
    line.road = None
    assert (await migrated(one, pin)).why == "stays", "two has not applied it yet"
    two.applied(epoch, epoch, ())
    line.gate = is_heard = asyncio.Event()
    arrives.set()
    await settle()
    assert (await migrated(two, pin)).why == "stays", "the turn on one is under way"
    line.gate = None
    is_heard.set()
    await telling
    assert (await migrated(two, pin)).why == "stays"
    await ended(pin, one, two)
    assert (await migrated(two, pin)).why == "moved"


async def test_what_begins_while_all_is_told_anew_is_told_too(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    await settle()
    one._turns.lost()
    line.gate = asyncio.Event()
    telling = asyncio.create_task(one.tell())
    await settle()
    answers = Answers()
    one.migrate(pin, answers)  # refused, as two has not applied yet
    await settle()
    line.calls.clear()
    line.gate.set()
    await telling
    assert line.calls[0] == ("applied", 1)
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(two, pin)).why == "stays"


async def test_a_turn_that_begins_while_the_one_before_it_is_told_is_not_ended_by_its_end(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    line.road = arrives = asyncio.Event()
    one.applied(epoch, epoch, [pin.id])
    await settle()
    line.road = None
    one.idle(pin.id)
    assert (await migrated(one, pin)).why == "stays"
    arrives.set()
    await settle()
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(two, pin)).why == "stays"
    await ended(pin, one, two)
    assert (await migrated(two, pin)).why == "moved"


async def test_what_was_given_up_and_reaches_the_store_late_takes_nothing_away(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, _), (two, _), pin = await two_nodes(rig)
    straight, said = rig.pins.applied, []

    async def applied(*given: Any, **more: Any) -> bool:
        said.append((given, more))
        return await straight(*given, **more)

    monkeypatch.setattr(rig.pins, "applied", applied)
    for _ in range(2):
        one._turns.lost()
        await one.tell()
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(one, pin)).why == "stays"
    given, more = said[0]
    assert more["anew"]
    await straight(*given, **more)
    rig.clock.now += 6
    await one.tell()  # it asks whether it is known
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(two, pin)).why == "stays", "the turn on one is under way"


async def test_a_turn_that_began_without_the_store_is_told_when_it_is_back(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    await settle()
    line.cut()
    assert (await migrated(one, pin)).why == "kept"
    line.mend()
    await one.tell()
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(two, pin)).why == "stays"
    await ended(pin, one, two)
    assert (await migrated(two, pin)).why == "moved"


async def test_a_line_that_breaks_once_is_no_reason_to_begin_a_turn_of_which_the_store_knows_nothing(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    for cache in (one, two):
        cache.applied(epoch, epoch, ())
    await settle()
    line.breaks = 1
    assert (await migrated(one, pin)).why == "moved"
    await ended(pin, one)
    assert (await migrated(two, pin)).pin.color == "green"
    line.breaks = 2
    assert (await migrated(one, pin)).why == "kept"


async def test_the_end_of_one_of_two_turns_leaves_nothing_behind(rig: Rig) -> None:
    """The second is asked for while the first is known: they are told as one, and end as one."""
    (one, _), (two, _), pin = await two_nodes(rig)
    rig.flip()
    epoch = rig.flip()  # back to where the session lives
    one.applied(epoch, epoch, [pin.id])
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(one, pin)).why == "newer"
    await ended(pin, one)
    assert rig.pins._turns.under_way == {}


async def test_a_node_that_knows_an_older_pin_is_told_the_newer_one_and_moves_nothing(rig: Rig) -> None:
    (one, _), (two, _), pin = await two_nodes(rig)
    rig.flip()
    back = rig.flip()
    one.applied(back, back, ())
    two.applied(back, back, ())
    standing = (await migrated(one, pin)).pin
    await ended(pin, one)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    two.applied(epoch, epoch, ())
    await settle()
    answers = await migrated(two, pin)
    assert (answers.pin, answers.why, standing.epoch) == (standing, "newer", back)
    assert (await migrated(one, standing)).why == "moved"  # so the other holds nothing


async def test_a_turn_that_was_moved_holds_its_session_against_the_next_order(rig: Rig) -> None:
    """The store does not keep the turn for which it moved a session: it has to be told when that matters again."""
    (one, _), (two, _), pin = await two_nodes(rig)
    for cache, revision in ((one, rig.order(pin, "green")), (two, rig.state.revision if rig.state else 0)):
        cache.applied(1, revision, ())
    await settle()
    moved = (await migrated(one, pin)).pin
    assert moved.color == "green"  # and its turn is under way there
    revision = rig.order(moved, "blue")
    one.applied(1, revision, [pin.id])
    two.applied(1, revision, ())
    await settle()
    assert (await migrated(two, moved)).why == "stays"
    await ended(pin, one, two)
    assert (await migrated(two, moved)).pin.color == "blue"


async def test_an_order_is_carried_out_between_two_turns(rig: Rig) -> None:
    (one, _), (two, _), pin = await two_nodes(rig)
    revision = rig.order(pin, "green")
    one.applied(1, revision, [pin.id])  # a stream that began before
    two.applied(1, revision, ())
    await settle()
    assert (await migrated(two, pin)).why == "stays"
    await ended(pin, two)
    assert (await migrated(two, pin)).why == "stays"
    await ended(pin, two, one)
    moved = await migrated(two, pin)
    assert (moved.why, moved.pin.color, moved.pin.epoch, moved.pin.moved) == ("moved", "green", 1, 1)
    assert (await migrated(one, pin)).pin == moved.pin


async def test_a_turn_that_is_being_asked_for_is_told_with_the_others(rig: Rig) -> None:
    (one, line), (two, _), pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    await settle()
    line.gate = asyncio.Event()
    answers = Answers()
    one.migrate(pin, answers)  # refused, as two has not applied yet; the answer is on its way
    await settle()
    line.gate.set()
    rig.clock.now += 6
    await one.tell()  # replaces all that this node has said
    await settle()
    two.applied(epoch, epoch, ())
    await settle()
    assert answers.why == "stays"
    assert (await migrated(two, pin)).why == "stays"


async def test_a_node_that_has_said_nothing_yet_lets_nothing_move(rig: Rig) -> None:
    (one, _), (two, _), pin = await two_nodes(rig)
    third, _ = rig.node("three")
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    two.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(one, pin)).why == "stays"
    one.idle(pin.id)
    third.applied(epoch, epoch, ())
    await settle()
    assert (await migrated(one, pin)).why == "moved"


async def test_a_session_whose_pin_the_store_has_lost_is_pinned_where_it_was_to_go(rig: Rig) -> None:
    (one, _), _, pin = await two_nodes(rig)
    epoch = rig.flip()
    one.applied(epoch, epoch, ())
    rig.lose_everything()
    answers = await migrated(one, pin)
    assert (answers.why, answers.pin.color, answers.pin.id) == ("created", "green", pin.id)


async def test_the_end_of_a_turn_that_holds_nothing_costs_nothing(rig: Rig) -> None:
    (one, line), _, pin = await two_nodes(rig)
    await settle()
    before = len(line.calls)
    one.idle(pin.id)
    one.idle(key("nobody"))
    await settle()
    assert len(line.calls) == before
