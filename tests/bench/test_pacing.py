"""When a client of the flips asks again: a transport and a loop that only note, no socket, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bench import flip, run
from bench.contenders import LineUp
from bench.flip import Client, Tally
from bench.options import Plan
from bench.run import Results

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngreen"
LAST_ANSWER = ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")


class Timer:
    """A call that the test makes when it is due."""

    def __init__(self, delay: float, call: Callable[[], None]) -> None:
        self.delay = delay
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as a client needs; it is always 100 s."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def time(self) -> float:
        return 100.0

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay, call))
        return self.timers[-1]


class Transport:
    """Counts what is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        self.asked += 1

    def close(self) -> None:
        self.closed = True


class Seat:
    """A client that has asked once."""

    def __init__(self, think_seconds: float) -> None:
        self.tally, self.loop, self.transport = Tally(), Loop(), Transport()
        loop: Any = self.loop
        transport: Any = self.transport
        self.client = Client(self.tally, 8080, think_seconds, loop)
        self.client.connection_made(transport)


async def test_in_a_closed_loop_the_next_request_leaves_with_the_answer() -> None:
    seat = Seat(0.0)
    seat.client.data_received(ANSWER)
    assert (seat.transport.asked, seat.loop.timers) == (2, [])


async def test_who_thinks_asks_when_the_pause_is_over_and_not_before() -> None:
    seat = Seat(0.008)
    seat.client.data_received(ANSWER)
    assert seat.transport.asked == 1
    (timer,) = seat.loop.timers
    assert 0.004 <= timer.delay <= 0.012
    timer.call()
    assert seat.transport.asked == 2


async def test_half_an_answer_begins_no_pause() -> None:
    seat = Seat(0.008)
    seat.client.data_received(ANSWER[:-1])
    assert seat.loop.timers == []
    seat.client.data_received(ANSWER[-1:])
    assert len(seat.loop.timers) == 1


async def test_a_run_that_ends_during_a_pause_is_not_asked_again() -> None:
    seat = Seat(0.008)
    seat.client.data_received(ANSWER)
    seat.tally.running = False
    seat.loop.timers[0].call()
    assert (seat.transport.asked, seat.transport.closed) == (1, True)


async def test_a_connection_that_ends_during_a_pause_has_broken_nothing() -> None:
    seat = Seat(0.008)
    seat.client.data_received(ANSWER)
    seat.client.connection_lost(None)
    assert seat.loop.timers[0].cancelled
    assert seat.client.over.done()
    assert seat.tally.broken == 0


async def test_a_connection_that_ends_on_a_request_is_broken_at_whatever_pace() -> None:
    seat = Seat(0.008)
    seat.client.connection_lost(None)
    assert seat.tally.broken == 1


@pytest.mark.parametrize(("think_seconds", "ready_at"), [(0.0, 0.0), (0.008, pytest.approx(100.008, abs=0.004))])
async def test_the_pause_holds_over_a_new_connection_too(think_seconds: float, ready_at: float) -> None:
    seat = Seat(think_seconds)
    seat.client.data_received(LAST_ANSWER)
    assert (seat.transport.asked, seat.transport.closed, seat.loop.timers) == (1, True, [])
    assert seat.client.ready_at == ready_at


def test_the_whole_bench_flips_at_both_paces(monkeypatch: pytest.MonkeyPatch) -> None:
    paces: list[float] = []

    def measure(plan: Plan) -> tuple[LineUp, dict[str, flip.Result]]:
        paces.append(plan.think_ms)
        return LineUp(), {}

    monkeypatch.setattr(flip, "measure", measure)
    results = Results()
    run._flips(Plan(), results)
    assert paces == [0.0, 8.0]
    assert ["think 8 ms" in text for text in results.sections] == [False, True]
