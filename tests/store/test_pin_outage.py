"""Sessions while the store is away: who is let in, to where, and what becomes of it when the store is back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bgproxy.rules import barrier
from bgproxy.store.pins import PinCache
from tests.store.pin_rig import TTL, Answers, Line, Rig, counted, key, learned, resolved, settle, waiting, want


async def away(line: Line) -> None:
    line.cut()
    await settle()


async def back(rig: Rig, line: Line) -> None:
    line.mend()
    await rig.wake()
    await rig.wake()


class TestAdmit:
    async def test_a_new_session_goes_to_the_last_known_active_color(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, line = node
        await away(line)
        rig.flip(heard=False)
        answers = Answers()
        cache.resolve(want("a", "b", offer=("blue", "http://h:1")), answers)
        assert answers.why == "journalled"  # at once: nobody waits for a store that is known to be away
        assert (answers.pin.color, answers.pin.release, answers.pin.upstream) == ("blue", "v1", "http://h:1")
        assert cache.get([key("b")]) == answers.pin
        assert (counted(cache, "journalled"), waiting(cache), cache.counts.of("mcp", "blue").pinned) == (1, 1, 1)
        await back(rig, line)
        assert await rig.pins.find(key("a")) == await rig.pins.find(key("b")) == answers.pin
        assert (waiting(cache), cache.conflicts) == (0, 0)

    async def test_an_outage_that_is_noticed_by_the_question(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        line.loses_answers = True
        answers = [await resolved(cache, "a"), Answers(), Answers()]
        cache.resolve(want("b"), answers[1])
        cache.learn(learned("c"), answers[2])
        await settle()
        assert [one.why for one in answers] == ["journalled"] * 3
        line.loses_answers = False
        await rig.wake()
        assert waiting(cache) == 0
        assert [await rig.pins.find(key(name)) for name in "abc"] == [replace(one.pin) for one in answers]

    async def test_a_known_session_stays_however_long_it_takes(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        await away(line)
        rig.flip()
        for _ in range(5):
            rig.clock.now += TTL * 0.9
            found = cache.get([key("a")]) or (await resolved(cache, "a")).pin
            assert found == pin
        await back(rig, line)  # by now it has expired there
        assert await rig.pins.find(key("a")) == pin
        assert (await resolved(cache, "a")).pin == pin

    async def test_a_request_that_comes_before_the_journal_is_written(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, line = node
        await away(line)
        pin = (await resolved(cache, "a")).pin
        rig.flip()
        rig.clock.now += 2 * TTL
        line.mend()
        found = await resolved(cache, "a")
        assert found.pin == pin
        assert await rig.pins.find(key("a")) == pin

    async def test_the_first_writer_wins_and_conflicts_are_counted(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        await away(line)
        mine = (await resolved(cache, "a")).pin
        same = (await resolved(cache, "b")).pin
        await rig.pins.resolve([want("b")])
        rig.flip(heard=False)
        [first] = await rig.pins.resolve([want("a")])
        assert first.pin.color == "green" != mine.color
        await back(rig, line)
        assert await rig.pins.find(key("a")) == first.pin
        assert (cache.conflicts, rig.strayed) == (1, ["one"])
        assert (await resolved(cache, "a")).pin == first.pin
        assert (await resolved(cache, "b")).pin.color == same.color

    async def test_a_session_that_was_moved_meanwhile_has_not_strayed(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, line = node
        mine = (await resolved(cache, "a")).pin
        await away(line)
        await resolved(cache, "a")
        rig.moved(mine.id, "green")
        await back(rig, line)
        assert (await resolved(cache, "a")).pin.color == "green"
        assert (cache.conflicts, rig.strayed) == (1, [])

    async def test_a_further_key_follows_the_session(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "context")).pin
        await away(line)
        rig.flip()
        found = await resolved(cache, "task", "context")
        assert (found.pin, found.why) == (pin, "kept")
        await back(rig, line)
        assert await rig.pins.find(key("task")) == pin

    async def test_learned_keys_are_written_later(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        await away(line)
        told = [Answers() for _ in range(3)]
        cache.learn(learned("a2", pin=pin.id), told[0])
        cache.learn(learned("new"), told[1])
        cache.learn(learned("a"), told[2])
        assert [one.why for one in told] == ["journalled"] * 3
        assert (told[0].pin, told[1].pin.id, told[2].pin) == (pin, key("new"), pin)
        assert cache.get([key("a2")]) == pin
        rig.flip()
        await back(rig, line)
        assert await rig.pins.find(key("a2")) == pin
        found = await rig.pins.find(key("new"))
        assert found is not None
        assert found.color == "blue"

    async def test_what_can_be_known_to_be_anothers_is_not_taken(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        victim = (await resolved(cache, "victim")).pin
        await away(line)
        answers = Answers()
        cache.learn(learned("victim", color="green", release="v2"), answers)
        assert answers.told == [(None, "taken")]
        assert cache.get([key("victim")]) == victim

    async def test_an_end_stays_an_end(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        await away(line)
        pin = (await resolved(cache, "a")).pin
        cache.end(pin.id)
        await back(rig, line)
        assert await rig.pins.find(key("a")) is None
        assert waiting(cache) == 0

    async def test_who_ends_a_session_need_not_wait_for_the_store(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        line.loses_answers = True  # and the mirror has not noticed yet
        told: list[bool] = []
        cache.end(pin.id, told.append)
        await settle()
        await away(line)
        cache.end(pin.id, told.append)
        await settle()
        assert told == [True, True]
        assert [verb for verb, _ in line.calls].count("end") == 1  # the store that is known to be away is not asked

    async def test_a_store_that_comes_back_empty(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        known = (await resolved(cache, "known")).pin
        await away(line)
        new = (await resolved(cache, "new")).pin
        rig.lose_everything()
        rig.flip()
        await back(rig, line)
        assert await rig.pins.find(key("new")) == new
        assert (await resolved(cache, "known")).pin == known

    async def test_the_journal_is_bounded(self, rig: Rig) -> None:
        cache, line = rig.node(journal_size=200)
        await away(line)
        for number in range(300):
            cache.resolve(want(number), Answers())
        assert (waiting(cache), counted(cache, "dropped"), counted(cache, "journalled")) == (200, 100, 300)
        line.mend()
        assert await cache.tell()
        assert line.calls == [("resolve", 128), ("resolve", 72)]
        assert await rig.pins.find(key(99)) is None
        assert await rig.pins.find(key(100)) is not None

    async def test_what_was_used_in_a_long_outage_is_bounded_too(self, rig: Rig) -> None:
        cache, line = rig.node(cache_size=10)
        line.is_cut = True
        for number in range(100):
            await resolved(cache, number)
            rig.clock.now += TTL / 3
            assert cache.get([key(number)]) is not None
            assert not await cache.tell()
        assert len(cache._due) <= 11

    async def test_a_change_that_overtakes_the_answer_to_the_journal(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        """It is the end of the session, whose id begins another one, on the color that is active by then."""
        cache, line = node
        old = (await resolved(cache, "a")).pin
        line.is_cut = True
        await resolved(cache, "a")
        line.mend()
        line.gate = asyncio.Event()
        telling = asyncio.ensure_future(cache.tell())
        await settle()
        rig.flip()
        await rig.pins.end([key("a")])
        [new] = await rig.pins.resolve([want("a")])
        await settle()
        line.gate.set()
        assert await telling
        assert cache.get([key("a")]) is None
        assert (await resolved(cache, "a")).pin == new.pin != old

    async def test_what_cannot_be_written_stays(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        await away(line)
        for number in range(200):
            cache.resolve(want(number), Answers())
        line.mend()
        line.loses_answers = True
        assert not await cache.tell()
        assert waiting(cache) == 200
        line.loses_answers = False
        assert await cache.tell()
        assert (waiting(cache), cache.conflicts) == (0, 0)

    async def test_what_is_decided_while_the_journal_is_written(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        await away(line)
        pin = (await resolved(cache, "a")).pin
        line.mend()
        line.gate = asyncio.Event()
        telling = asyncio.ensure_future(cache.tell())
        await settle()
        cache.end(pin.id)
        line.gate.set()
        await telling
        await settle()
        assert await rig.pins.find(key("a")) is None

    async def test_without_any_state_nobody_is_let_in(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        await away(line)
        line.state = None
        assert (await resolved(cache, "a")).told == [(None, "refused")]

    async def test_a_stop_writes_what_can_be_written(self, rig: Rig) -> None:
        cache, line = rig.node()
        cache.start()
        await away(line)
        pin = (await resolved(cache, "a")).pin
        line.mend()
        await cache.stop()
        assert await rig.pins.find(key("a")) == pin


class TestRefuse:
    async def test_new_sessions_are_turned_away_and_known_ones_stay(self, rig: Rig) -> None:
        cache, line = rig.node(on_store_outage="refuse")
        pin = (await resolved(cache, "a")).pin
        await away(line)
        assert (await resolved(cache, "b")).told == [(None, "refused")]
        rig.clock.now += 2 * TTL
        assert (await resolved(cache, "a")).told == [(pin, "kept")]
        assert (counted(cache, "refused"), cache.counts.of("mcp", "blue").pinned) == (1, 1)
        line.mend()
        assert (await resolved(cache, "b")).why == "created"


class TestFenced:
    async def test_what_is_new_is_turned_away_and_known_sessions_go_on(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        line.fenced = True
        assert (await resolved(cache, "b")).why == "created", "the store itself has said where it lives"
        await away(line)
        assert (await resolved(cache, "c")).told == [(None, "fenced")]
        rig.clock.now += 2 * TTL
        assert (await resolved(cache, "a")).told == [(pin, "kept")]
        assert (counted(cache, "refused"), waiting(cache)) == (1, 1)
        line.fenced = False
        assert (await resolved(cache, "c")).why == "journalled"

    async def test_a_session_whose_release_is_gone_is_new_to_every_other(
        self, rig: Rig, node: tuple[PinCache, Line]
    ) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        rig.flip()
        rig.stage("blue", "v3")
        await away(line)
        line.fenced = True
        answers = Answers()
        cache.migrate(pin, answers)
        assert answers.told == [(None, "fenced")]


class TestWhileAFlipMayBeMade:
    @pytest.mark.parametrize("by_a_bell", [True, False])
    async def test_no_session_begins_on_a_color_that_may_be_the_old_one(
        self, rig: Rig, node: tuple[PinCache, Line], by_a_bell: bool
    ) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        await away(line)
        before = line.state
        assert before is not None
        if by_a_bell:
            line.held_early = True
        else:
            line.state = barrier.pause(before, max_hold=1.0, actor="ada", reason="").state
        assert (await resolved(cache, "b")).told == [(None, "refused")]
        rig.clock.now += 2 * TTL
        assert (await resolved(cache, "a")).told == [(pin, "kept")]
        line.state, line.held_early = before, False
        assert (await resolved(cache, "b")).why == "journalled"


class TestMigrate:
    async def test_without_the_store_no_session_moves(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        rig.flip()
        cache.applied(2, 2, ())
        await settle()
        await away(line)
        answers = Answers()
        cache.migrate(pin, answers)
        assert (answers.pin, answers.why) == (pin, "kept")

    async def test_but_from_a_release_that_is_gone(self, rig: Rig, node: tuple[PinCache, Line]) -> None:
        cache, line = node
        pin = (await resolved(cache, "a")).pin
        rig.flip()
        rig.stage("blue", "v3")
        await away(line)
        answers = Answers()
        cache.migrate(pin, answers)
        assert (answers.pin.color, answers.pin.release, answers.why) == ("green", "v2", "moved")
        assert cache.get([key("a")]) == answers.pin

    async def test_one_that_another_node_may_have_moved_is_refused_where_new_ones_are(self, rig: Rig) -> None:
        cache, line = rig.node(on_store_outage="refuse")
        pin = (await resolved(cache, "a")).pin
        cache.applied(rig.flip(), 2, ())
        await away(line)
        answers = Answers()
        cache.migrate(pin, answers)
        assert answers.told == [(None, "refused")]
        assert counted(cache, "refused") == 1

    async def test_unless_that_is_refused(self, rig: Rig) -> None:
        cache, line = rig.node(on_store_outage="refuse")
        pin = (await resolved(cache, "a")).pin
        rig.flip()
        rig.stage("blue", "v3")
        await away(line)
        answers = Answers()
        cache.migrate(pin, answers)
        assert answers.told == [(None, "refused")]


@pytest.mark.parametrize("how", ["with the journal", "with a question"])
async def test_a_session_that_ended_meanwhile_ends_there_before_its_id_begins_anew(
    rig: Rig, node: tuple[PinCache, Line], how: str
) -> None:
    """Else the old pin would be there first, and win: what has begun anew would be over once more."""
    cache, line = node
    old = (await resolved(cache, "a")).pin
    await away(line)
    rig.flip()
    told: list[bool] = []
    cache.end(old.id, told.append)
    await settle()
    assert told == [True]
    new = (await resolved(cache, "a")).pin
    assert (old.color, new.color) == ("blue", "green")
    line.mend()
    if how == "with the journal":
        assert await cache.tell()
    else:
        assert (await resolved(cache, "a")).pin.color == "green"
    standing = await rig.pins.find(key("a"))
    assert standing is not None
    assert (standing.color, rig.strayed) == ("green", [])
