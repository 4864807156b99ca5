"""The mirror with a store under the test's hand, and no sleeping."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import StoreAuth, StoreBroken, StoreUnavailable
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import FleetState
from bgproxy.store.fence import Fence
from bgproxy.store.mirror import Mirror
from tests.clocks import Clock

Settle = Callable[..., Awaitable[None]]
AWAY = StoreUnavailable("away")


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
async def mirror(fake_store: Any, clock: Clock, pauses: Any) -> AsyncIterator[Mirror]:
    mirror = Mirror(fake_store, read_interval=1.0, clock=clock, sleep=pauses)
    yield mirror
    await mirror.stop()


@pytest.fixture
def states(flips: Any) -> list[FleetState]:
    return list(flips.states(6))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class TestApply:
    def test_the_first_state_is_held(self, mirror: Mirror, states: list[FleetState]) -> None:
        assert mirror.apply(states[3])
        assert mirror.state is states[3]

    def test_only_what_is_newer_replaces_it(self, mirror: Mirror, states: list[FleetState]) -> None:
        heard: list[int] = []
        mirror.listen(lambda state: heard.append(state.revision))
        assert [mirror.apply(state) for state in (states[0], states[0], states[2], states[2])] == [
            True,
            False,
            True,
            False,
        ]
        assert heard == [1, 3]
        assert mirror.alarms == 0

    def test_a_newer_revision_of_the_same_epoch(self, mirror: Mirror, flips: Any, states: list[FleetState]) -> None:
        mirror.apply(states[0])
        assert mirror.apply(flips.stage(states[0], "green", "v3").state)

    @pytest.mark.parametrize("later", [0, 5])
    def test_a_lower_epoch_is_an_alarm_whatever_its_revision(
        self, mirror: Mirror, states: list[FleetState], caplog: pytest.LogCaptureFixture, later: int
    ) -> None:
        mirror.apply(states[4])
        wrong = replace(states[2], revision=states[2].revision + later)
        assert not mirror.apply(wrong)
        assert not mirror.apply(wrong)
        assert mirror.state is states[4]
        assert mirror.alarms == 2
        assert len(warnings(caplog)) == 1
        assert "ALARM" in warnings(caplog)[0]
        assert mirror.alarm in warnings(caplog)[0]
        assert mirror.apply(states[5])
        assert mirror.alarm == ""
        assert not mirror.apply(wrong)
        assert len(warnings(caplog)) == 2  # it was well in between

    def test_another_history_under_the_same_number_is_an_alarm(
        self, mirror: Mirror, states: list[FleetState], flips: Any
    ) -> None:
        mirror.apply(states[0])
        assert not mirror.apply(flips.first("green").state)
        assert mirror.alarms == 1
        assert mirror.state is states[0]

    def test_what_merely_comes_late_is_no_alarm(self, mirror: Mirror, states: list[FleetState]) -> None:
        mirror.apply(states[4])
        assert not mirror.learn(states[2])
        assert mirror.alarms == 0
        assert mirror.learn(states[5])

    def test_a_listener_that_fails_does_not_keep_the_others_from_hearing(
        self, mirror: Mirror, states: list[FleetState], caplog: pytest.LogCaptureFixture
    ) -> None:
        heard: list[int] = []

        def fails(state: FleetState) -> None:
            raise RuntimeError("listener")

        mirror.listen(fails)
        mirror.listen(lambda state: heard.append(state.revision))
        assert mirror.apply(states[0])
        assert heard == [1]
        assert "a listener failed" in caplog.text

    def test_its_representation_tells_the_state(self, mirror: Mirror, states: list[FleetState]) -> None:
        assert "nothing held" in repr(mirror)
        mirror.apply(states[1])
        assert repr(mirror) == "<Mirror revision 2, epoch 2, not connected, 0 alarms>"


class TestFollowing:
    async def test_subscribes_before_it_reads_again(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        assert mirror.state is states[0]
        assert mirror.connected
        fake_store.state = states[1]  # committed between that reading and the subscription: no bell will tell
        await settle()
        assert mirror.state is states[1]
        assert fake_store.calls[:3] == ["read", "watch", "read"]

    async def test_a_bell_leads_to_a_reading(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        fake_store.state = states[1]
        fake_store.ring(2)
        await settle()
        assert mirror.state is states[1]

    async def test_the_bell_of_what_is_held_already_costs_no_reading(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle, clock: Clock
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        reads = fake_store.reads
        clock.now += 5
        assert mirror.age == 5
        fake_store.ring(1)
        await settle()
        assert fake_store.reads == reads
        assert mirror.age == 0

    async def test_who_waits_until_all_hold_hears_the_second_bell_of_a_revision_and_no_other(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle
    ) -> None:
        """The first is that of the change itself: to ask the store because of that one would be in vain."""
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        heard = []
        for state, revision in ((states[1], 2), (states[1], 2), (states[2], 3)):
            fake_store.state = state
            mirror.rung_again.clear()
            fake_store.ring(revision)
            await settle()
            heard.append(mirror.rung_again.is_set())
        assert heard == [False, True, False]

    async def test_a_lost_bell_is_made_good_by_the_next_reading(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle, pauses: Any
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        fake_store.state = states[1]
        await settle()
        assert mirror.state is states[0]
        assert all(0.5 <= seconds <= 1.0 for seconds in pauses.lengths)
        pauses.end()
        await settle()
        assert mirror.state is states[1]

    async def test_it_reads_again_after_each_reconnect(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle, pauses: Any
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        assert mirror.subscribed
        fake_store.cut(AWAY)
        await settle()
        assert not mirror.subscribed
        fake_store.state = states[1]
        pauses.end()
        await settle()
        assert mirror.subscribed
        assert fake_store.subscriptions == 2
        assert mirror.state is states[1]

    async def test_a_line_that_breaks_tells_of_an_outage_at_once(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        fake_store.failure = AWAY
        fake_store.cut(AWAY)
        await settle()  # no pause has ended: the next reading is not due
        assert not mirror.connected

    @pytest.mark.parametrize("breaks", ["the line", "a reading", "both"])
    async def test_that_the_store_is_there_again_is_told_once_with_the_first_reading(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle, clock: Clock, breaks: str
    ) -> None:
        """Where only the line has broken, too: then another server may answer by now."""
        came: list[float] = []
        mirror.came_back = lambda: came.append(clock.now)
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        assert (came, mirror.unsettled) == ([], 0.0)
        if breaks != "the line":
            fake_store.failure = AWAY
            assert not await mirror.look()
            assert mirror.unsettled == 0.2
        if breaks != "a reading":
            fake_store.cut(AWAY)
            await settle()
        clock.now += 3
        fake_store.failure = None
        for _ in range(2):
            await mirror.look()
        assert came == [clock.now if breaks != "the line" else clock.now - 3]
        for later, left in ((came[0] - clock.now, 1.5), (1.0, 0.5), (0.5, 0.0), (9.0, 0.0)):
            clock.now += later
            assert mirror.unsettled == left

    @pytest.mark.parametrize(
        ("before", "after", "left"), [("a 1", "a 1", 0.0), ("a 1", "b 1", 1.5), ("a 1", "", 1.5), ("", "a 1", 1.5)]
    )
    async def test_nothing_is_waited_for_where_the_same_server_is_there_again(
        self,
        mirror: Mirror,
        fake_store: Any,
        states: list[FleetState],
        clock: Clock,
        before: str,
        after: str,
        left: float,
    ) -> None:
        fake_store.state, fake_store.incarnations = states[0], [before, after]
        came: list[float] = []
        mirror.came_back = lambda: came.append(clock.now)
        assert await mirror.look()
        fake_store.failure = AWAY
        assert not await mirror.look()
        assert mirror.unsettled == 0.2, "it may be the same, which the next reading shows"
        fake_store.failure = None
        assert await mirror.look()
        assert mirror.unsettled == left
        assert came == [clock.now]
        clock.now += 0.5
        fake_store.failure = AWAY  # and once more: what may have been lost before is still waited for
        assert not await mirror.look()
        fake_store.failure = None
        assert await mirror.look()
        assert mirror.unsettled == (1.5 if not after else max(0.0, left - 0.5))

    async def test_a_break_while_that_is_asked_is_another_one(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the answer and whoever waits for it the server may have been replaced."""
        fake_store.state, fake_store.incarnations = states[0], ["a 1"]
        assert await mirror.look()
        fake_store.failure = AWAY
        assert not await mirror.look()

        async def breaks() -> str:
            assert not await mirror.look()
            fake_store.incarnations = ["b 1"]
            return "a 1"

        read = fake_store.read

        async def reads() -> FleetState:
            fake_store.failure = None
            state: FleetState = await read()
            fake_store.failure = AWAY
            return state

        with monkeypatch.context() as patched:
            patched.setattr(fake_store, "incarnation", breaks)
            await mirror.refresh(reads)
        assert mirror.unsettled == 0.2, "it has not been read yet"
        fake_store.failure = None
        assert await mirror.look()
        assert mirror.unsettled == 1.5, "another server"

    @pytest.mark.parametrize("held", ["by a state", "by a bell", ""])
    async def test_no_session_is_placed_by_the_pointer_before_a_flip_that_an_outage_may_have_hidden(
        self,
        mirror: Mirror,
        fake_store: Any,
        states: list[FleetState],
        monkeypatch: pytest.MonkeyPatch,
        clock: Clock,
        held: str,
    ) -> None:
        """It may have been made and lost: the store says what this node holds, and others route by the new pointer."""
        by: list[int] = []
        monkeypatch.setattr(fake_store, "routes_by", by.append)
        move: dict[str, Any] = {"at": 0.0, "exclude": (), "hold_timeout": 1.0, "key": "k", "request": "r"}
        prepared = barrier.prepare(states[3], Move("flip", "blue", "ada", "why"), **move)
        assert prepared is not None
        assert prepared.state.pointer.epoch == 4
        fake_store.state = prepared.state if held == "by a state" else states[3]
        mirror.held_early = held == "by a bell"
        assert await mirror.look()
        assert by[-1] == 4
        fake_store.failure = AWAY
        await mirror.look()
        doubted = 5 if held else 4
        assert by[-1] == doubted
        fake_store.failure = None
        for later, expected in ((0.0, doubted), (1.4, doubted), (0.1, 4)):
            clock.now += later
            assert await mirror.look()
            assert by[-1] == expected
        fake_store.failure = AWAY
        await mirror.look()
        fake_store.failure, mirror.held_early = None, False
        fake_store.state = replace(states[3], revision=9)
        assert await mirror.look()
        assert by[-1] == 4, "whatever came of it, it is known"

    async def test_a_late_answer_is_read_again_and_is_no_alarm(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        gate = asyncio.Event()
        fake_store.gates.append(gate)
        reading = asyncio.ensure_future(mirror.refresh())
        await settle()
        fake_store.state = states[2]
        mirror.apply(states[2])  # our own commit, while the reading's answer was under way
        gate.set()
        assert await reading is states[2]
        assert mirror.alarms == 0
        assert mirror.state is states[2]

    async def test_an_outage_keeps_the_state_and_is_told_once(
        self,
        mirror: Mirror,
        fake_store: Any,
        states: list[FleetState],
        settle: Settle,
        pauses: Any,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        fake_store.state = states[3]
        await mirror.start()
        await settle()
        fake_store.failure = fake_store.line_failure = AWAY
        fake_store.cut(AWAY)
        for _ in range(20):
            clock.now += 1
            pauses.end()
            await settle()
        assert mirror.state is states[3]
        assert not mirror.connected
        assert mirror.age >= 19
        assert len(warnings(caplog)) == 2  # the line and the reading, each once
        fake_store.failure = fake_store.line_failure = None
        pauses.end()
        await settle()
        assert mirror.connected
        assert mirror.subscribed
        assert mirror.age == 0
        assert caplog.text.count("well again") == 2

    async def test_another_kind_of_trouble_is_told(
        self, mirror: Mirror, fake_store: Any, settle: Settle, pauses: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        fake_store.failure = AWAY
        await mirror.start()
        for failure in (AWAY, StoreAuth("wrong"), StoreAuth("wrong"), StoreBroken("broken"), AWAY):
            fake_store.failure = failure
            pauses.end()
            await settle()
        told = [text for text in warnings(caplog) if "reading" in text]
        assert [text.rpartition("(")[2] for text in told] == [
            "StoreUnavailable)",
            "StoreAuth)",
            "StoreBroken)",
            "StoreUnavailable)",
        ]

    async def test_reconnects_back_off_and_begin_anew_after_success(
        self, fake_store: Any, states: list[FleetState], settle: Settle, pauses: Any, clock: Clock
    ) -> None:
        mirror = Mirror(fake_store, read_interval=1_000.0, clock=clock, sleep=pauses)
        fake_store.state = states[0]
        fake_store.line_failure = AWAY
        await mirror.start()
        for _ in range(9):
            await settle()
            pauses.end()
        lengths = [seconds for seconds in pauses.lengths if seconds < 500]
        full = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
        assert len(lengths) == len(full)
        assert all(whole / 2 <= length <= whole for length, whole in zip(lengths, full, strict=True))
        fake_store.line_failure = None
        await settle()
        fake_store.cut(AWAY)
        await settle()
        assert pauses.lengths[-1] <= 0.05
        await mirror.stop()

    @pytest.mark.parametrize("failure", [RuntimeError("a bug"), ValueError("x"), OSError(5, "io"), KeyError("k")])
    async def test_the_loops_survive_everything(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle, pauses: Any, failure: Exception
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        fake_store.failure = fake_store.line_failure = failure
        fake_store.cut(failure)
        for _ in range(3):
            pauses.end()
            await settle()
        fake_store.failure = fake_store.line_failure = None
        fake_store.state = states[1]
        pauses.end()
        await settle()
        assert mirror.state is states[1]
        assert mirror.subscribed

    async def test_a_store_that_lost_the_state_is_an_alarm_and_the_state_stays(
        self,
        mirror: Mirror,
        fake_store: Any,
        states: list[FleetState],
        settle: Settle,
        pauses: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_store.state = states[3]
        await mirror.start()
        await settle()
        fake_store.state = None
        for _ in range(3):
            pauses.end()
            await settle()
        assert mirror.state is states[3]
        assert mirror.alarms == 3
        assert len(warnings(caplog)) == 1
        fake_store.state = states[0]  # somebody began anew there
        pauses.end()
        await settle()
        assert mirror.state is states[3]
        assert mirror.alarms == 4

    async def test_an_empty_store_at_the_start_is_no_alarm(self, mirror: Mirror) -> None:
        await mirror.start()
        assert mirror.state is None
        assert mirror.connected
        assert mirror.alarms == 0

    async def test_a_store_away_at_the_start_is_no_error(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle, pauses: Any
    ) -> None:
        fake_store.failure = AWAY
        await mirror.start()
        assert mirror.state is None
        assert not mirror.connected
        fake_store.failure = None
        fake_store.state = states[0]
        pauses.end()
        await settle()
        assert mirror.state is states[0]

    async def test_after_stop_nothing_follows(
        self, mirror: Mirror, fake_store: Any, states: list[FleetState], settle: Settle, pauses: Any
    ) -> None:
        fake_store.state = states[0]
        await mirror.start()
        await settle()
        await mirror.stop()
        reads = fake_store.reads
        fake_store.state = states[1]
        fake_store.ring(2)
        pauses.end()
        await settle()
        assert (fake_store.reads, mirror.state) == (reads, states[0])


class TestFence:
    @pytest.fixture
    def fence(self, clock: Clock) -> Fence:
        return Fence(5.0, clock)

    @pytest.fixture
    def mirror(self, fake_store: Any, fence: Fence, clock: Clock, pauses: Any) -> Mirror:
        return Mirror(fake_store, fence=fence, clock=clock, sleep=pauses)

    async def test_a_reading_after_the_beat_opens_it_and_none_before(
        self, mirror: Mirror, fake_store: Any, fence: Fence, states: list[FleetState], settle: Any
    ) -> None:
        fake_store.state, gate = states[0], asyncio.Event()
        fake_store.gates = [gate]
        early = asyncio.create_task(mirror.refresh())
        await settle()
        fence.lease.beaten(100.0, 100.0, known=False)
        fake_store.state = states[1]
        gate.set()
        await early
        assert (mirror.state, mirror.fenced) == (states[0], True)
        await mirror.refresh()
        assert (mirror.state, mirror.fenced) == (states[1], False)

    async def test_a_reading_that_fails_opens_nothing(self, mirror: Mirror, fake_store: Any, fence: Fence) -> None:
        fence.lease.beaten(100.0, 100.0, known=False)
        fake_store.failure = StoreUnavailable("away")
        with pytest.raises(StoreUnavailable):
            await mirror.refresh()
        assert mirror.fenced
        fake_store.failure = None
        assert await mirror.refresh() is None
        assert not mirror.fenced, "an empty store knows nothing newer"

    async def test_it_is_open_when_the_state_has_been_applied_and_no_sooner(
        self, mirror: Mirror, fake_store: Any, fence: Fence, states: list[FleetState]
    ) -> None:
        fence.lease.beaten(100.0, 100.0, known=False)
        fake_store.state, heard = states[0], list[bool]()
        mirror.listen(lambda _: heard.append(mirror.fenced))
        await mirror.refresh()
        assert (heard, mirror.fenced) == ([True], False)
