"""The supervisor's decisions, without a fork: who is started again and when, what ends all, what is opened."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy import app, workers
from bgproxy.config import Settings
from bgproxy.config.addresses import Address
from bgproxy.errors import ConfigError
from bgproxy.workers import LONGEST_PAUSE, Seat, Supervisor

BLUE = {"colors": {"blue": {"upstreams": ["http://127.0.0.1:1"]}}}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(workers, "monotonic", clock)
    return clock


@pytest.fixture
def supervisor(clock, monkeypatch) -> Iterator[Supervisor]:
    """Two seats whose workers are pretended: starting one gives it a pid and a line."""
    supervisor = Supervisor(Settings.load(None, BLUE, {}), [Seat(0, [], []), Seat(1, [], [])], Path("/nowhere"))
    theirs: dict[int, socket.socket] = {}
    started: list[int] = []

    def start(seat: Seat) -> None:
        seat.line, theirs[seat.slot] = socket.socketpair()
        seat.line.setblocking(False)
        seat.pid, seat.born = 4_000_000 + len(started), clock.now
        started.append(seat.slot)

    monkeypatch.setattr(supervisor, "_start", start)
    supervisor.theirs, supervisor.started = theirs, started  # type: ignore[attr-defined]
    for seat in supervisor._seats:
        start(seat)
    yield supervisor
    for sock in theirs.values():
        sock.close()
    for seat in supervisor._seats:
        if seat.line is not None:
            seat.line.close()


def dies(supervisor: Any, slot: int, code: int) -> None:
    supervisor._ended(supervisor._seats[slot], code)


def orders(supervisor: Any, slot: int) -> bytes:
    line = supervisor.theirs[slot]
    line.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return bytes(line.recv(100))
    return b""


def test_one_that_has_lived_is_started_again_at_once(supervisor, clock):
    clock.now += 60
    dies(supervisor, 0, -9)
    supervisor._fill()
    assert supervisor.started == [0, 1, 0]


@pytest.mark.parametrize(("code", "told"), [(-9, app.BURY), (1, app.BURY), (0, b""), (app.FATAL, b"")])
def test_the_others_are_told_at_once_of_one_that_did_not_end_by_itself(supervisor, clock, code, told):
    clock.now += 60
    supervisor._seats[1].served = True
    dies(supervisor, 0, code)
    assert orders(supervisor, 1) == told


def test_one_that_dies_at_once_again_and_again_is_started_ever_more_seldom(supervisor, clock):
    pauses = []
    for _ in range(9):
        began = clock.now
        dies(supervisor, 0, 1)
        while not supervisor._seats[0].pid:
            clock.now += 0.05
            supervisor._fill()
        pauses.append(clock.now - began)
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5, "once is no habit"
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, abs=0.1)
    clock.now += 60
    dies(supervisor, 0, 1)
    supervisor._fill()
    assert supervisor._seats[0].pid, "it was well meanwhile"


def test_what_no_worker_can_serve_ends_all_with_a_status(supervisor):
    dies(supervisor, 0, app.FATAL)
    assert supervisor._ending
    assert orders(supervisor, 1) == app.END
    dies(supervisor, 1, 0)
    assert supervisor._status == 1


@pytest.mark.parametrize("slot", [0, 1])
def test_once_one_has_served_nothing_ends_the_others(supervisor, clock, slot):
    """A store that has a new password must not take down the workers that serve by what they know."""
    supervisor.theirs[slot].send(app.READY)
    clock.now += 60
    dies(supervisor, 0, app.FATAL)
    assert not supervisor._ending
    assert orders(supervisor, 1) == b""
    supervisor._fill()
    assert supervisor.started == [0, 1], "not in a hurry"
    clock.now += LONGEST_PAUSE
    supervisor._fill()
    assert supervisor.started == [0, 1, 0]
    assert supervisor._seats[0].served is (slot == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_once_and_told_again(supervisor, clock, number):
    supervisor._heed(number)
    assert [orders(supervisor, slot) for slot in (0, 1)] == [app.END, app.END]
    grace = supervisor._deadline - clock.now
    assert grace > supervisor._settings.grace_timeout
    supervisor._heed(number)
    assert [orders(supervisor, slot) for slot in (0, 1)] == [app.HURRY, app.HURRY]
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
    supervisor._seats[0].listening.append(sock)
    closed: list[bool] = []
    monkeypatch.setattr(supervisor, "_order", lambda order: closed.append(sock.fileno() < 0))
    supervisor._heed(signal.SIGTERM)
    assert closed == [True]


def test_a_reload_is_passed_on_and_keeps_what_needs_a_restart(supervisor, monkeypatch):
    new = Settings.load(None, BLUE | {"fleet": "other", "grace_timeout": 7.0}, {})
    monkeypatch.setattr(Settings, "reread", lambda self: new)
    supervisor._heed(signal.SIGHUP)
    assert (supervisor._settings.fleet, supervisor._settings.grace_timeout) == ("default", 7.0)
    assert orders(supervisor, 0) == app.RELOAD


def test_a_bad_reload_leaves_the_supervisor_as_it_was_and_lets_the_workers_say_so(supervisor, monkeypatch, caplog):
    def bad(self: Settings) -> Settings:
        raise ConfigError("timeouts: no")

    monkeypatch.setattr(Settings, "reread", bad)
    before = supervisor._settings
    supervisor._heed(signal.SIGHUP)
    assert supervisor._settings is before
    assert "the old one stays: timeouts: no" in caplog.text
    assert orders(supervisor, 1) == app.RELOAD


# Sockets and directories


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short one: a Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bgp-") as name:
        yield Path(name)


def test_every_worker_gets_a_socket_of_its_own_on_one_port():
    sockets = workers._bind("listen", Address("127.0.0.1", 0), 3)
    try:
        assert len({sock.getsockname() for sock in sockets}) == 1
        assert len({sock.fileno() for sock in sockets}) == 3
        with pytest.raises(ConfigError, match=r"listen: cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
            workers._bind("listen", Address("127.0.0.1", sockets[0].getsockname()[1]), 1)
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_cannot_be_had_is_named_with_a_remedy(host):
    with pytest.raises(ConfigError, match=f"admin: cannot listen on {host}:1: .+: .+"):
        workers._bind("admin", Address(host, 1), 1)


def test_a_socket_file_of_a_dead_process_is_replaced_and_a_living_one_s_never(directory):
    path = directory / "x.sock"
    first = workers._bind_path(path, 0o600)
    with pytest.raises(ConfigError, match="Address already in use: another process listens there"):
        workers._bind("listen", Address(path=os.fspath(path)), 1)
    first.close()
    with workers._bind_path(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))


@pytest.mark.parametrize(("key", "mode"), [("admin", 0o600), ("listen", 0o666)])
def test_who_may_write_to_the_admin_socket_may_flip_so_that_is_its_owner_alone(directory, key, mode):
    path = directory / "x.sock"
    first, second = workers._bind(key, Address(path=os.fspath(path)), 2)
    assert first is second, "all workers accept on the one socket"
    assert path.stat().st_mode & 0o777 == mode
    first.close()


def test_a_file_that_is_no_socket_is_never_removed(directory):
    path = directory / "precious"
    path.write_text("x")
    with pytest.raises(ConfigError, match="listen: cannot listen on unix:"):
        workers._bind("listen", Address(path=os.fspath(path)), 1)
    assert path.read_text() == "x"


def test_a_directory_of_our_own_is_private_and_ours_to_remove():
    path, ours = workers._runtime_dir("")
    try:
        assert ours
        assert path.stat().st_mode & 0o777 == 0o700
    finally:
        path.rmdir()


def test_a_directory_that_was_given_keeps_counters_and_pointer_but_no_memory(directory):
    run = directory / "run"
    assert workers._runtime_dir(os.fspath(run)) == (run, False)
    for name in ("worker-0.json", "state-default.json", "worker-0.sock", app.HANDOVER):
        (run / name).write_text("")
    workers._runtime_dir(os.fspath(run))
    assert sorted(path.name for path in run.iterdir()) == ["state-default.json", "worker-0.json"]


def test_a_directory_that_cannot_be_used(directory):
    (directory / "file").write_text("")
    with pytest.raises(ConfigError, match=r"runtime_dir: cannot use .*: choose another directory"):
        workers._runtime_dir(os.fspath(directory / "file" / "run"))
