"""The supervisor's decisions, without a fork: who is started again and when, what ends all, what is opened."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy import app, orders
from bgproxy.config import Settings
from bgproxy.config.addresses import Address
from bgproxy.errors import ConfigError
from bgproxy.orders import Line
from bgproxy.workers import supervisor as module
from bgproxy.workers.crew import Crew, Seat
from bgproxy.workers.doors import Door
from bgproxy.workers.requests import Requests
from bgproxy.workers.supervisor import LONGEST_PAUSE, Supervisor
from tests.clocks import Clock

BLUE = {"colors": {"blue": {"upstreams": ["http://127.0.0.1:1"]}}}


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock(1000.0)
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def supervisor(clock, monkeypatch) -> Iterator[Supervisor]:
    """Two seats whose workers are pretended: starting one gives it a pid and a line."""
    crew = Crew(Settings.load(None, BLUE, {}), [], [Seat(0), Seat(1)], Path("/nowhere"))
    supervisor = Supervisor(crew, Requests(None))
    theirs: dict[int, Line] = {}
    started: list[int] = []

    def start(seat: Seat) -> None:
        seat.line, theirs[seat.slot] = map(Line, socket.socketpair())
        seat.pid, seat.born = 4_000_000 + len(started), clock.now
        started.append(seat.slot)

    monkeypatch.setattr(supervisor, "_start", start)
    supervisor.theirs, supervisor.started = theirs, started  # type: ignore[attr-defined]
    for seat in crew.seats:
        start(seat)
    yield supervisor
    for one in (*theirs.values(), *supervisor.crew.seats, *supervisor.finishing):
        one.close()


def dies(supervisor: Any, slot: int, code: int) -> None:
    supervisor._ended(supervisor.crew.seats[slot], code)


def told(supervisor: Any, slot: int) -> list[str]:
    """What the worker in that place has been told since the last time."""
    return [" ".join(filter(None, words)) for words in supervisor.theirs[slot].hear() or ()]


def test_one_that_has_lived_is_started_again_at_once(supervisor, clock):
    clock.now += 60
    dies(supervisor, 0, -9)
    supervisor._fill()
    assert supervisor.started == [0, 1, 0]
    assert [seat.missing for seat in supervisor.crew.seats] == [True, False]
    supervisor.theirs[0].say(orders.READY)
    supervisor.crew.hear()
    assert not supervisor.crew.seats[0].missing


def test_one_that_dies_at_once_again_and_again_is_started_ever_more_seldom(supervisor, clock):
    pauses = []
    for _ in range(9):
        began = clock.now
        dies(supervisor, 0, 1)
        while not supervisor.crew.seats[0].pid:
            clock.now += 0.05
            supervisor._fill()
        pauses.append(clock.now - began)
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5, "once is no habit"
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, abs=0.1)
    clock.now += 60
    dies(supervisor, 0, 1)
    supervisor._fill()
    assert supervisor.crew.seats[0].pid, "it was well meanwhile"


def test_what_no_worker_can_serve_ends_all_with_a_status(supervisor):
    dies(supervisor, 0, app.FATAL)
    assert supervisor._ending
    assert told(supervisor, 1) == [orders.END]
    dies(supervisor, 1, 0)
    assert supervisor._status == 1


@pytest.mark.parametrize("slot", [0, 1])
def test_once_one_has_served_nothing_ends_the_others(supervisor, clock, slot):
    """A store that has a new password must not take down the workers that serve by what they know."""
    supervisor.theirs[slot].say(orders.READY)
    clock.now += 60
    dies(supervisor, 0, app.FATAL)
    assert not supervisor._ending
    assert told(supervisor, 1) == []
    supervisor._fill()
    assert supervisor.started == [0, 1], "not in a hurry"
    clock.now += LONGEST_PAUSE
    supervisor._fill()
    assert supervisor.started == [0, 1, 0]
    assert supervisor.crew.seats[0].served is (slot == 0)


@pytest.mark.parametrize(("code", "words"), [(-9, [orders.BURY]), (1, [orders.BURY]), (0, []), (app.FATAL, [])])
def test_the_others_are_told_at_once_of_one_that_did_not_end_by_itself(supervisor, clock, code, words):
    clock.now += 60
    supervisor.crew.seats[1].served = True
    dies(supervisor, 0, code)
    assert told(supervisor, 1) == words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_once_and_told_again(supervisor, clock, number):
    supervisor._heed(number)
    assert [told(supervisor, slot) for slot in (0, 1)] == [[orders.END]] * 2
    grace = supervisor._deadline - clock.now
    assert grace > supervisor.crew.settings.grace_timeout
    supervisor._heed(number)
    assert [told(supervisor, slot) for slot in (0, 1)] == [[orders.HURRY]] * 2
    assert supervisor._deadline - clock.now < grace
    for slot in (0, 1):
        dies(supervisor, slot, 0)
    assert supervisor._status == 0


def test_while_it_ends_nobody_is_started_again_and_a_bad_end_is_told(supervisor):
    supervisor._heed(signal.SIGTERM)
    dies(supervisor, 0, -9)
    dies(supervisor, 1, 0)
    assert supervisor._status == 1
    assert supervisor.started == [0, 1]


def test_our_copies_of_the_sockets_are_closed_before_anybody_is_told_to_end(supervisor, monkeypatch):
    sock = socket.create_server(("127.0.0.1", 0))
    supervisor.crew.doors = [Door("listen", Address("127.0.0.1", 0), [sock])]
    closed: list[bool] = []
    monkeypatch.setattr(supervisor, "_order", lambda word: closed.append(sock.fileno() < 0))
    supervisor._heed(signal.SIGTERM)
    assert closed == [True]


def test_a_reload_is_passed_on_and_keeps_what_needs_a_restart(supervisor, monkeypatch):
    new = Settings.load(None, BLUE | {"fleet": "other", "grace_timeout": 7.0}, {})
    monkeypatch.setattr(Settings, "reread", lambda self: new)
    supervisor._heed(signal.SIGHUP)
    assert (supervisor.crew.settings.fleet, supervisor.crew.settings.grace_timeout) == ("default", 7.0)
    assert told(supervisor, 0) == [orders.RELOAD]


def test_a_bad_reload_leaves_the_supervisor_as_it_was_and_lets_the_workers_say_so(supervisor, monkeypatch, caplog):
    def bad(self: Settings) -> Settings:
        raise ConfigError("timeouts: no")

    monkeypatch.setattr(Settings, "reread", bad)
    before = supervisor.crew.settings
    supervisor._heed(signal.SIGHUP)
    assert supervisor.crew.settings is before
    assert "the old one stays: timeouts: no" in caplog.text
    assert told(supervisor, 1) == [orders.RELOAD]


# The directory


def test_a_directory_of_our_own_is_private_and_ours_to_remove():
    path, ours = module._runtime_dir("")
    try:
        assert ours
        assert path.stat().st_mode & 0o777 == 0o700
    finally:
        path.rmdir()


def test_a_directory_that_was_given_keeps_counters_and_pointer_but_no_memory(directory):
    run = directory / "run"
    assert module._runtime_dir(os.fspath(run)) == (run, False)
    for name in ("worker-0.json", "state-default.json", "worker-0.sock", f"{app.HANDOVER}.1"):
        (run / name).write_text("")
    module._runtime_dir(os.fspath(run))
    assert sorted(path.name for path in run.iterdir()) == ["state-default.json", "worker-0.json"]


def test_a_directory_that_cannot_be_used(directory):
    (directory / "file").write_text("")
    with pytest.raises(ConfigError, match=r"runtime_dir: cannot use .*: choose another directory"):
        module._runtime_dir(os.fspath(directory / "file" / "run"))


def test_a_directory_whose_sockets_nobody_could_open(directory, monkeypatch):
    """Their paths would be longer than a Unix socket's may be: no worker could start."""
    root = len(os.fspath(directory)) + 1
    long = directory / ("d" * (module.LONGEST_DIRECTORY + 1 - root))
    with pytest.raises(ConfigError, match=r"runtime_dir: .* is too long .*91 bytes, at most 90.*: choose a directory"):
        module._runtime_dir(os.fspath(long))
    short = long.with_name(long.name[1:])
    assert module._runtime_dir(os.fspath(short)) == (short, False)
    with socket.socket(socket.AF_UNIX) as last:
        last.bind(os.fspath(short / "worker-9999.sock"))
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: os.fspath(long))
    with pytest.raises(ConfigError, match=r"runtime_dir: /.* is too long"):
        module._runtime_dir("")
