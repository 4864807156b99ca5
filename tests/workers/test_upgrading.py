"""An upgrade as the supervisor decides it: when it may begin, what fails it, what its success does."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bgproxy import orders
from bgproxy.config import Settings
from bgproxy.config.addresses import Address
from bgproxy.errors import ConfigError
from bgproxy.orders import Line
from bgproxy.workers import supervisor as module
from bgproxy.workers import trial, upgrade
from bgproxy.workers.crew import Crew, Seat
from bgproxy.workers.doors import Door
from bgproxy.workers.requests import Requests
from bgproxy.workers.supervisor import KILL_AFTER, Supervisor
from bgproxy.workers.upgrade import Successor, Upgrade

FAILED = {"say": "failed", "why": "no, in its words", "format": 1, "files": 0}
FLAGS: dict[str, Any] = {"store": "redis://127.0.0.1:1/0", "workers": 2}


class Asked:
    """Who waits for the end of an upgrade."""

    told: dict[str, Any] | None = None

    def answer(self, **members: Any) -> None:
        self.told = members

    def close(self) -> None:
        pass


class Trial:
    """The new process, as far as the supervisor sees it. `found` is what comes of it."""

    def __init__(self, words: list[str], begin: Mapping[str, Any], files: list[int], timeout: float) -> None:
        self.words, self.begin, self.files, self.timeout = words, begin, files, timeout
        self.pid, self.code = 5_000_000, None
        self.found: Successor | str | None = None
        self.history: list[str] = []

    def look(self) -> Successor | str | None:
        return self.found

    def take(self) -> None:
        self.history.append("take")

    def abandon(self, patience: float = 0.0) -> None:
        self.history.append("abandon")

    def close(self) -> None:
        pass


class Stage:
    """A supervisor with two workers that serve on one door, and whatever takes part in its upgrade."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> None:
        self.theirs: dict[int, Line] = {}
        self.exchanged: list[Any] = []
        self.trials: list[Trial] = []
        monkeypatch.setattr(module, "Upgrade", self._trial)
        monkeypatch.setattr(module.resume, "exchange", lambda *what: self.exchanged.append(what))
        monkeypatch.setattr(sys, "argv", ["/x/__main__.py", "serve"])
        settings = Settings.load(None, FLAGS | flags, {})
        doors = [Door("listen", Address("127.0.0.1", 0), [self._socket()])]
        self.before = [self.seat(slot) for slot in (0, 1)]
        self.supervisor = Supervisor(Crew(settings, doors, self.before, Path("/nowhere")), Requests(None))

    def seat(self, slot: int) -> Seat:
        ours, self.theirs[slot] = map(Line, socket.socketpair())
        return Seat(slot, 4_000_000 + slot, ours, served=True)

    def told(self, slot: int) -> list[str]:
        return [word for word, _ in self.theirs[slot].hear() or ()]

    def successor(self) -> Successor:
        door = Door("listen", Address("127.0.0.1", 0), [self._socket(listening=False)])
        return Successor("9.9", os.memfd_create("settings"), [self.seat(2), self.seat(3)], [door])

    @property
    def trial(self) -> Trial:
        return self.trials[-1]

    def look(self) -> None:
        self.supervisor._look_at_upgrade()

    def close(self) -> None:
        for one in (*self.theirs.values(), *self.supervisor.crew.seats, *self.before, *self.supervisor.crew.doors):
            one.close()

    def _trial(self, *what: Any) -> Trial:
        self.trials.append(trial := Trial(*what))
        return trial

    def _socket(self, *, listening: bool = True) -> socket.socket:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        if listening:
            sock.listen()
        return sock


@pytest.fixture
def stage(monkeypatch) -> Iterator[Stage]:
    stage = Stage(monkeypatch)
    yield stage
    stage.close()


def test_the_new_process_is_told_what_stands(stage):
    stage.supervisor.finishing.append(stage.seat(7))
    stage.supervisor._heed(signal.SIGUSR2)
    begin = stage.trial.begin
    assert (begin["slots"], begin["fleet"], begin["store"]) == ([0, 1, 7], "default", "redis://127.0.0.1:1/0")
    assert begin["doors"] == [{"key": "listen", "address": "127.0.0.1:0", "sockets": 1, "given": False}]
    assert stage.trial.files == [stage.supervisor.crew.doors[0].sockets[0].fileno()]
    assert stage.trial.words == [sys.executable, *sys.orig_argv[1:]]
    assert stage.trial.timeout == 60.0
    stage.look()
    assert [stage.told(slot) for slot in (0, 1)] == [[], []], "nothing is touched while it is under way"


def test_when_it_cannot_begin(stage, monkeypatch, caplog):
    supervisor = stage.supervisor
    stage.before[1].served = False
    assert "has not started yet" in supervisor._begin_upgrade()
    stage.before[1].served = True
    assert supervisor._begin_upgrade() == ""
    assert "under way already" in supervisor._begin_upgrade()
    supervisor._heed(signal.SIGUSR2)
    assert "no upgrade: an upgrade is under way already" in caplog.text
    supervisor._heed(signal.SIGTERM)
    assert stage.trial.history == ["abandon"], "its end is the end of that too"
    assert supervisor._begin_upgrade() == "this proxy was told to end"


def test_one_that_cannot_be_started_is_named(stage, monkeypatch):
    def fail(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "Upgrade", fail)
    assert stage.supervisor._begin_upgrade("/x/bgproxy") == "/x/bgproxy cannot be started: Permission denied"


def test_who_asked_is_told_why_it_failed_and_it_may_be_tried_again(stage, caplog):
    asked = Asked()
    stage.supervisor._answer(asked, {"verb": "upgrade"})
    assert asked.told is None
    stage.trial.found = "listen: cannot listen on 127.0.0.1:80"
    stage.look()
    assert asked.told == {
        "done": False,
        "why": "the upgrade failed, everything goes on as it was: listen: cannot listen on 127.0.0.1:80",
    }
    assert stage.trial.history == ["abandon"]
    assert stage.exchanged == []
    assert [stage.told(slot) for slot in (0, 1)] == [[], []]
    assert stage.supervisor._begin_upgrade() == ""


def test_at_its_success_the_new_ones_accept_before_the_old_ones_stop(stage):
    asked, order = Asked(), []
    stage.supervisor._answer(asked, {"verb": "upgrade", "program": "/new/bgproxy"})
    old = stage.supervisor.crew.doors[0].sockets[0]
    stage.trial.found = found = stage.successor()
    for seat in (*found.seats, *stage.before):
        line = seat.line
        assert line is not None
        line.say = lambda word, more="", slot=seat.slot: order.append((slot, word))  # type: ignore[method-assign]
    stage.look()
    assert order == [(2, orders.ACCEPT), (3, orders.ACCEPT), (0, orders.FINISH), (1, orders.FINISH)]
    assert found.doors[0].sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert old.fileno() < 0
    assert stage.trial.history[0] == "take"
    assert asked.told == {"done": True, "version": "9.9", "before": module.__version__, "finishing": 2}
    (words, known, settings) = stage.exchanged[0]
    assert (words, settings) == (["/new/bgproxy", *sys.argv[1:]], found.settings)
    assert ([seat.slot for seat in known.crew.seats], [seat.slot for seat in known.finishing]) == ([2, 3], [0, 1])
    assert [seat.until for seat in known.finishing] == [float("inf")] * 2, "as long as it takes"
    assert known.reload is False


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_configuration_that_changes_meanwhile_is_read_once_more(stage, monkeypatch, meanwhile):
    monkeypatch.setattr(Settings, "reread", lambda self: self)
    stage.supervisor._heed(signal.SIGHUP)
    stage.supervisor._begin_upgrade()
    if meanwhile:
        stage.supervisor._heed(signal.SIGHUP)
    stage.trial.found = stage.successor()
    stage.look()
    assert stage.exchanged[0][1].reload is meanwhile


def test_a_program_that_cannot_be_run_leaves_its_workers_in_our_hands(stage, monkeypatch, caplog):
    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    stage.supervisor._begin_upgrade()
    stage.trial.found = stage.successor()
    monkeypatch.setattr(module.resume, "exchange", fail)
    stage.look()
    assert "goes on with its old program" in caplog.text
    assert [seat.slot for seat in stage.supervisor.crew.seats] == [2, 3]


def test_a_new_address_that_is_taken_meanwhile_fails_it(stage, monkeypatch):
    stage.supervisor._begin_upgrade()
    stage.trial.found = found = stage.successor()

    def fail(_: Any) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(module, "listen", fail)
    asked = stage.supervisor._asked = Asked()  # type: ignore[assignment]
    stage.look()
    assert "a new address cannot be listened on: Address already in use" in asked.told["why"]
    assert [seat.slot for seat in stage.supervisor.crew.seats] == [0, 1]
    assert [stage.theirs[slot].hear() for slot in (2, 3)] == [None, None], "its workers hear that, and end"
    assert found.doors[0].sockets[0].fileno() < 0


def test_those_that_finish_have_their_time_and_then_they_are_killed(monkeypatch):
    stage = Stage(monkeypatch, upgrade={"finish_timeout": 7.0})
    monkeypatch.setattr(module, "monotonic", lambda: 100.0)
    stage.before[1].pid = 0  # it has just died, and is started by nobody any more
    stage.supervisor._begin_upgrade()
    stage.trial.found = stage.successor()
    stage.look()
    assert [(seat.slot, seat.until) for seat in stage.supervisor.finishing] == [(0, 107.0 + KILL_AFTER)]
    stage.close()


@pytest.mark.parametrize("code", [0, -9])
def test_one_that_has_finished_is_not_started_again(stage, code, caplog):
    caplog.set_level("INFO")
    stage.supervisor.finishing.append(left := stage.seat(7))
    stage.supervisor._ended(left, code)
    assert stage.supervisor.finishing == []
    assert ("was killed by signal 9: what it held is cut" in caplog.text) is (code != 0)
    assert (stage.told(0) == [orders.BURY]) is (code != 0)


def test_orders_reach_those_that_finish_too(stage):
    stage.supervisor.finishing.append(stage.seat(7))
    stage.supervisor._heed(signal.SIGTERM)
    assert [stage.told(slot) for slot in (0, 1, 7)] == [[orders.END]] * 3


def test_a_request_that_is_no_upgrade_is_answered(stage):
    asked = Asked()
    stage.supervisor._answer(asked, {"verb": "dance"})
    assert asked.told == {"done": False, "why": "this proxy knows no such request"}


# The new process


def begin(**other: Any) -> dict[str, Any]:
    return {"fleet": "default", "store": "redis://127.0.0.1:1/0", "runtime_dir": "/run/bgproxy"} | other


@pytest.mark.parametrize(
    ("mine", "key"),
    [
        ({"fleet": "eu"}, "fleet"),
        ({"store": "redis://127.0.0.1:1/7"}, "store"),
        ({"store": "memory:///a", "workers": 1}, "store"),
    ],
)
def test_what_would_leave_pointer_and_sessions_behind_is_refused(mine, key):
    settings = Settings.load(None, FLAGS | mine, {})
    with pytest.raises(ConfigError, match=rf"{key}: an upgrade cannot change it from \S+ to \S+, .+ stop the proxy"):
        trial._compare(settings, begin())


def test_a_password_may_change_and_a_snapshot_s_place_may_not():
    trial._compare(
        Settings.load(None, FLAGS | {"store": "redis://u:new@127.0.0.1:1/0"}, {}),
        begin(store="redis://***@127.0.0.1:1/0"),
    )
    one = Settings.load(None, {"store": {"url": "memory://", "snapshot": "/a"}}, {})
    with pytest.raises(ConfigError, match="store: an upgrade cannot change it from memory:// /b to memory:// /a"):
        trial._compare(one, begin(store="memory:// /b"))


def test_a_runtime_directory_stays_until_a_start_anew(caplog):
    trial._compare(Settings.load(None, FLAGS | {"runtime_dir": "/other"}, {}), begin())
    assert "runtime_dir: it stays /run/bgproxy" in caplog.text


PYTHON = [sys.executable, "-S", "-c"]
LINE = 'import os, socket, time; s = socket.socket(fileno=int(os.environ["_BGPROXY_TRIAL"])); '


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["/bin/sh", "-c", "exit 3"], "the new process ended with status 3 before it was ready; what it has logged"),
        (["/bin/sh", "-c", "kill -9 $$"], "the new process was killed by signal 9 before it was ready"),
        (["/bin/sleep", "60"], "it was not ready within upgrade.start_timeout, 0.05 s"),
        ([*PYTHON, f"{LINE} s.send(b'hello'); time.sleep(60)"], "it is no bgproxy that this one can be replaced by"),
        ([*PYTHON, f"{LINE} s.send(b'{json.dumps(FAILED)}')"], "no, in its words"),
    ],
)
def test_a_process_that_never_becomes_ready_says_why_or_is_told_of(monkeypatch, words, why):
    monkeypatch.setattr(upgrade, "_adopt_orphans", lambda: None)  # those of other tests are none of ours
    trial = Upgrade(words, {"say": "begin"}, [], 0.05 if words[0] == "/bin/sleep" else 30.0)
    while (found := trial.look()) is None:
        signal.sigtimedwait((), 0.01)
    assert isinstance(found, str)
    assert found.startswith(why)
    trial.abandon()
    assert trial.code is not None
    with pytest.raises(ChildProcessError):
        os.waitpid(trial.pid, os.WNOHANG)
