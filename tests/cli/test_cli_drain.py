"""drain: what holds a color, and waiting until nothing does, with a clock that does not wait."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from fake_admin import FakeAdmin, problem
from rich.console import Console

from bgproxy.cli import drain as drain_module
from bgproxy.cli import drain_screen
from bgproxy.cli.client import Admin, RefusedByApi, Unreachable
from bgproxy.cli.drain import looks
from bgproxy.errors import Refused

PATH = "/v1/colors/blue/drain"
SESSIONS = {"kind": "sessions", "detail": "live sessions on its release: 3", "node": None, "count": 3}
HELD = {
    "color": "blue",
    "active": False,
    "release": "v1",
    "phase": "standby",
    "drained": False,
    "sessions": 3,
    "last_expires": 1_750_000_600.0,
    "in_flight": 2,
    "streams": 1,
    "websockets": 0,
    "blockers": [SESSIONS],
}
DRAINED = {
    **HELD,
    "phase": "drained",
    "drained": True,
    "sessions": 0,
    "last_expires": None,
    "in_flight": 0,
    "streams": 0,
    "blockers": [],
}
ACTIVE = {**HELD, "active": True, "phase": "active"}


class Time:
    """A clock that only sleeping moves; `then` is what the admin API answers after each nap."""

    def __init__(self, admin: FakeAdmin, *then: Any) -> None:
        self.now, self.naps = 100.0, list[float]()
        self._admin, self._then = admin, list(then)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        if self._then:
            self._admin.answers["GET", PATH] = self._then.pop(0)


@pytest.fixture
def pretend(admin, monkeypatch):
    """Let the verb run on a clock that does not wait."""

    def make(first: Any, *then: Any) -> Time:
        admin.answers["GET", PATH] = first
        time = Time(admin, *then)
        monkeypatch.setattr(drain_module, "clock", time)
        return time

    return make


def test_a_look(admin, run):
    admin.answers["GET", PATH] = HELD
    result = run("drain", "blue")
    told = result.stdout.splitlines()
    assert told[0] == "blue holds v1, phase standby: not drained"
    assert told[1].startswith("sessions 3, in flight 2 (streams 1, WebSockets 0); the last session expires 2025")
    assert told[2] == "  live sessions on its release: 3"
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(run("drain", "blue", "--json").stdout) == HELD


def test_a_look_at_what_is_drained_or_empty(admin, run):
    admin.answers["GET", PATH] = DRAINED
    nothing = "sessions 0, in flight 0 (streams 0, WebSockets 0)"
    assert run("drain", "blue").stdout.splitlines() == ["blue holds v1, phase drained: drained", nothing]
    admin.answers["GET", PATH] = {**DRAINED, "release": None, "phase": None, "sessions": None}
    told = run("drain", "blue").stdout.splitlines()
    assert told == ["blue has no release: drained", nothing.replace("0", "?", 1)]


def test_a_look_at_the_active_color_is_no_failure(admin, run):
    admin.answers["GET", PATH] = ACTIVE
    assert run("drain", "blue").exit_code == 0


def test_waiting_until_it_is_drained(run, pretend):
    time = pretend(HELD, HELD, {**HELD, "sessions": None}, DRAINED)
    result = run("drain", "blue", "--wait")
    assert result.exit_code == 0
    assert result.stdout.startswith("blue holds v1, phase drained: drained\n")
    assert result.stderr.splitlines() == [
        "blue: sessions 3, in flight 2",
        "blue: sessions ?, in flight 2",
        "blue: sessions 0, in flight 0",
    ]
    assert time.naps == [1.0, 1.0, 1.0]


def test_the_timeout_ends_it_with_the_blockers(run, pretend):
    time = pretend(HELD)
    result = run("drain", "blue", "--wait", "--timeout", "2.5", "--json")
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (1, HELD, "")
    assert time.naps == [1.0, 1.0, 0.5]
    result = run("drain", "blue", "--wait", "--timeout", "0")
    assert result.exit_code == 1
    assert "  live sessions on its release: 3" in result.stdout
    assert result.stderr.splitlines()[-1] == "bgproxy: blue is not drained after 0 s"


def test_drained_at_the_last_moment_is_drained(run, pretend):
    pretend(HELD, DRAINED)
    result = run("drain", "blue", "--wait", "--timeout", "1", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, DRAINED)


@pytest.mark.parametrize("answers", [(ACTIVE,), (HELD, ACTIVE)], ids=["from the start", "flipped back meanwhile"])
def test_waiting_for_the_active_color_is_refused(run, pretend, answers):
    pretend(*answers)
    result = run("drain", "blue", "--wait")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "blue is active and takes new sessions: flip to another color first" in result.stderr
    pretend(*answers)
    assert json.loads(run("drain", "blue", "--wait", "--json").stdout)["code"] == "refused"


def test_a_proxy_that_is_restarted_is_waited_for(admin):
    stranger = (500, {"this is": "no bgproxy"})
    admin.answers["GET", PATH] = HELD
    time = Time(admin, stranger, stranger, DRAINED)
    found = [one["drained"] for one in looks(Admin(admin.url), "blue", None, time.monotonic, time.sleep)]
    assert found == [False, True]
    assert len(time.naps) == 3


def test_one_that_does_not_come_back_in_time(admin):
    admin.answers["GET", PATH] = HELD
    time = Time(admin, (500, {}))
    with pytest.raises(Unreachable):
        list(looks(Admin(admin.url), "blue", 2.0, time.monotonic, time.sleep))
    assert time.now == 102.0


def test_what_never_answered_is_not_waited_for(unused_tcp_port, admin):
    time = Time(admin)
    with pytest.raises(Unreachable):
        next(looks(Admin(f"http://127.0.0.1:{unused_tcp_port}"), "blue", None, time.monotonic, time.sleep))
    assert time.naps == []


def test_refusals_end_the_waiting(admin):
    admin.answers["GET", PATH] = problem(401, "unauthorized", "this needs a token")
    time = Time(admin)
    with pytest.raises(RefusedByApi):
        next(looks(Admin(admin.url), "blue", None, time.monotonic, time.sleep))
    admin.answers["GET", PATH] = ACTIVE
    with pytest.raises(Refused):
        next(looks(Admin(admin.url), "blue", None, time.monotonic, time.sleep))


def test_usage(run):
    for words in (
        (),
        ("blue", "--timeout", "3"),
        ("blue", "--wait", "--timeout", "-1"),
        ("blue", "--wait", "--timeout", "x"),
        ("blue", "--deadline", "-1"),
        ("blue", "--deadline", "5", "--no-deadline"),
        ("blue", "--reason", "why"),
    ):
        assert run("drain", *words).exit_code == 2, words


def test_an_unknown_color(admin, run):
    admin.answers["GET", PATH] = problem(404, "unknown_color", "there is no color 'blue'")
    result = run("drain", "blue", "--wait")
    assert result.exit_code == 1
    assert "`bgproxy status` lists the colors" in result.stderr


DUE = {**HELD, "deadline": 1_750_000_900.0, "seconds_left": 42.4, "ended": False, "oldest": 71.2}
OVER = {**HELD, "deadline": 1_750_000_900.0, "seconds_left": 0.0, "ended": True, "sessions": 0, "oldest": None}


def orders(admin):
    return [(path, body) for method, path, body in admin.asked if method == "POST"]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--deadline", "30"), {"deadline": 30.0}),
        (("--deadline", "0.5", "--reason", "old"), {"deadline": 0.5, "reason": "old"}),
        (("--no-deadline",), {"deadline": None}),
        (("--no-deadline", "-r", "wait"), {"deadline": None, "reason": "wait"}),
    ],
)
def test_a_deadline_is_asked_for_then_looked_at(admin, run, words, asked):
    admin.answers["GET", PATH] = DUE
    admin.answers["POST", PATH] = {**DUE, "changed": True}
    result = run("drain", "blue", *words)
    assert (result.exit_code, orders(admin)) == (0, [(PATH, asked)])
    assert "what still lives is ended 2025" in result.stdout
    assert "in flight 2 (streams 1, WebSockets 0, the oldest for 71 s)" in result.stdout


def test_a_deadline_and_waiting(run, pretend, admin):
    admin.answers["POST", PATH] = {**DUE, "changed": True}
    pretend(HELD, DUE, DUE, OVER, {**DRAINED, "ended": True, "deadline": 1_750_000_900.0})
    result = run("drain", "blue", "--wait", "--deadline", "30")
    assert (result.exit_code, len(orders(admin))) == (0, 1)
    told = result.stderr.splitlines()
    assert told[0] == "blue: sessions 3, in flight 2"
    assert told[1].startswith("blue: sessions 3, in flight 2, what still lives is ended 2025-")
    assert told[2].startswith("blue: sessions 0, in flight 2, its sessions were ended 2025-")
    assert len(told) == 4, "a line for what has changed, not one for each look"
    assert "its sessions were ended 2025" in result.stdout


def test_what_is_drained_needs_no_deadline(admin, run):
    admin.answers["GET", PATH] = DRAINED
    assert run("drain", "blue", "--wait", "--deadline", "30").exit_code == 0
    assert orders(admin) == []


@pytest.mark.parametrize("more", [(), ("--wait",)])
def test_a_deadline_that_is_refused(admin, run, more):
    admin.answers["GET", PATH] = ACTIVE
    admin.answers["POST", PATH] = problem(409, "refused", "blue is active, so nothing drains there")
    result = run("drain", "blue", "--deadline", "30", *more)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing drains there" in result.stderr
    result = run("drain", "blue", "--deadline", "30", "--json", *more)
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (1, "refused")


def test_on_a_terminal_there_is_a_picture(monkeypatch):
    screen = Console(file=StringIO(), force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(drain_screen, "Console", lambda **_: screen)
    with drain_screen.Progress() as progress:
        progress.tell(DUE)
        progress.tell(OVER)
    shown = screen.file.getvalue()
    assert "sessions 3, in flight 2" in shown
    assert "what still lives is ended in 42 s" in shown
    assert "live sessions on its release: 3" in shown
    assert "its sessions were ended 2025" in shown
