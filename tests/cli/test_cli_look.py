"""status, audit and events: the tables, the JSON, and a follower that outlives its connections."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from aiohttp import web
from fake_admin import problem

from bgproxy.cli.client import Admin, Unreachable
from bgproxy.cli.events import Event, followed, parse, tell_line
from bgproxy.cli.screen import show_status

LOADS = {"in_flight": 2, "streams": 1, "websockets": 0}


def upstream(url: str, healthy: bool | None, reason: str = "") -> dict[str, Any]:
    return {"url": url, "healthy": healthy, "reason": reason, "in_flight": 0, "open": 0, "idle": 0, "failures": 0}


def color(name: str, release: str | None, phase: str | None, *upstreams: dict[str, Any]) -> dict[str, Any]:
    return {"color": name, "release": release, "phase": phase, "upstreams": list(upstreams), **LOADS}


STATUS = {
    "fleet": "default",
    "active": "blue",
    "previous": "green",
    "epoch": 7,
    "revision": 9,
    "actor": "ci",
    "reason": "back",
    "at": 1_750_000_000.0,
    "colors": {
        "blue": color("blue", "v1", "active", upstream("http://a:1", True), upstream("http://b:1", False, "refused")),
        "green": color("green", None, None),
    },
    "nodes": [
        {
            "id": "n1",
            "host": "h",
            "pid": 42,
            "version": "0.1.0",
            "epoch": 7,
            "in_flight": {"blue": 2, "green": 3},
            "streams": {},
            "websockets": {},
            "age": 0.25,
        }
    ],
    "store": {"state": "up", "kind": "redis", "age": 0.3},
    "version": "0.1.0",
}


def test_status_shows_everything_at_one_look(admin, run):
    admin.answers["GET", "/v1/status"] = STATUS
    result = run("status")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert lines[0] == "fleet default, active blue, previous green, epoch 7"
    assert lines[1].endswith("by ci: back")
    assert "blue v1 active http://a:1 up 2 1 0" in lines
    assert "http://b:1 down: refused" in lines
    assert "green - - - - 2 1 0" in lines
    assert "n1 h 42 0.1.0 7 5 0 0 0.2 s ago" in lines
    assert "store up (redis), heard 0.3 s ago" in lines
    silent = {**STATUS["nodes"][0], "state": "silent", "age": 42.0}
    admin.answers["GET", "/v1/status"] = {**STATUS, "nodes": [silent]}
    assert "n1 h 42 0.1.0 7 5 0 0 silent, 42.0 s ago" in [
        " ".join(line.split()) for line in run("status").stdout.splitlines()
    ]
    admin.answers["GET", "/v1/status"] = {**STATUS, "store": {**STATUS["store"], "fenced": 2}}
    assert "FENCED: 2 worker(s) of this host admit nothing new" in run("status").stdout.splitlines()
    assert "\x1b" not in result.stdout, "no colors where there is no terminal"


FLIP = {
    "epoch": 7,
    "verb": "rollback",
    "from": "green",
    "to": "blue",
    "at": 1_750_000_000.0,
    "actor": "ci",
    "reason": "v2 answers\x1b[2J 500",
    "kept": 5,
    "moved": 2,
    "ended": 0,
    "lost": 1,
    "turns_cut": 0,
}


def test_a_release_that_is_being_brought_out_is_one_line_of_the_status(admin, run):
    told = {"id": "r7", "release": "v2", "color": "green", "step": "gate:smoke"}
    admin.answers["GET", "/v1/status"] = {**STATUS, "run": told}
    assert "r7: v2 on green is being released, at gate:smoke" in run("status").stdout
    admin.answers["GET", "/v1/status"] = {**STATUS, "run": {**told, "trouble": "it is bad, and v1 is down"}}
    assert "it is bad, and v1 is down" in run("status").stdout
    admin.answers["GET", "/v1/status"] = {**STATUS, "run": None}
    assert "is being released" not in run("status").stdout


def test_what_became_of_the_last_flip_s_sessions_is_one_line_of_the_status(admin, run):
    admin.answers["GET", "/v1/status"] = {**STATUS, "flip": FLIP}
    lines = run("status").stdout.splitlines()
    assert lines[2] == "sessions that this rollback left: kept 5, moved 2, ended 0, lost 1, turns cut 0"
    admin.answers["GET", "/v1/status"] = {**STATUS, "flip": None}
    assert "sessions that" not in run("status").stdout


def test_flips_newest_first_or_one(admin, run):
    admin.answers["GET", "/v1/flips"] = {"flips": [FLIP, {**FLIP, "epoch": 6, "verb": "flip"}]}
    admin.answers["GET", "/v1/flips/7"] = FLIP
    rows = [" ".join(line.split()) for line in run("flips", "--limit", "2").stdout.splitlines()]
    assert rows[-2].endswith("7 rollback green blue 5 2 0 1 0 ci v2 answers [2J 500")
    assert rows[-1].split()[2:4] == ["6", "flip"]
    assert admin.asked[-1][1] == "/v1/flips?limit=2"
    assert run("flips", "7").stdout.splitlines()[-1].split()[2:4] == ["7", "rollback"]
    assert json.loads(run("flips", "7", "--json").stdout) == FLIP
    assert len(json.loads(run("flips", "--json").stdout)["flips"]) == 2


def test_a_flip_that_is_not_known(admin, run):
    admin.answers["GET", "/v1/flips/99"] = problem(404, "unknown_flip", "there is no ledger of epoch 99")
    result = run("flips", "99")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "`bgproxy flips` lists" in result.stderr


def test_a_store_that_contradicts_what_is_known_is_in_the_status(admin, run):
    store = {"state": "up", "kind": "redis", "age": 0.3, "alarm": "the store says revision 1\x1b[2J"}
    admin.answers["GET", "/v1/status"] = {**STATUS, "store": store}
    lines = run("status").stdout.splitlines()
    assert lines[-2:] == ["store up (redis), heard 0.3 s ago", "ALARM: the store says revision 1 [2J"]


def test_a_silent_node_is_loud_in_the_status_with_what_can_be_done(admin, run):
    silent = {**STATUS["nodes"][0], "id": "n2\x1b[2J", "state": "silent", "age": 42.0}
    admin.answers["GET", "/v1/status"] = {**STATUS, "nodes": [*STATUS["nodes"], silent], "silent": [silent["id"]]}
    lines = run("status").stdout.splitlines()
    said = "flips are given up and sessions do not move while a node is not heard"
    assert lines[2] == f"SILENT: n2 [2J (heard 42.0 s ago): {said}"
    assert lines[3].startswith("gone for good: `bgproxy nodes forget n2 [2J`; out of reach: `bgproxy flip COLOR")
    fences = {**silent, "fence_after": 5.0}
    for node, told in ((silent, False), (fences, True)):
        admin.answers["GET", "/v1/status"] = {**STATUS, "nodes": [node], "silent": [silent["id"]]}
        assert ("flips do by themselves once they must have fenced themselves" in run("status").stdout) is told
    admin.answers["GET", "/v1/status"] = {**STATUS, "nodes": [silent], "silent": []}
    assert "SILENT" not in run("status").stdout


def test_what_new_requests_wait_for_is_in_the_status(admin, run):
    pause = {"actor": "ci", "reason": "a schema\x1b[2J", "max_hold": 30.0}
    pending = {"verb": "flip", "to": "green", "epoch": 8, "actor": "ci", "reason": ""}
    admin.answers["GET", "/v1/status"] = {**STATUS, "pause": pause, "pending": pending}
    lines = run("status").stdout.splitlines()
    assert lines[2] == "PAUSED by ci: a schema [2J; new requests wait for `bgproxy resume`, at most 30.0 s"
    assert lines[3].startswith("a flip to green by ci is under way: new requests wait")
    admin.answers["GET", "/v1/status"] = {**STATUS, "pending": pending, "store": {"state": "down"}}
    assert "whether it was made only the store knows; new requests wait, then get 503" in run("status").stdout
    admin.answers["GET", "/v1/status"] = {**STATUS, "pause": {**pause, "reason": ""}}
    assert "PAUSED by ci; new requests wait" in run("status").stdout


def test_status_as_json_is_the_answer(admin, run):
    admin.answers["GET", "/v1/status"] = STATUS
    assert json.loads(run("status", "--json").stdout) == STATUS


def test_markup_and_control_characters_in_a_status_are_shown_as_they_are(admin, run):
    told = {**STATUS, "reason": "[red]x[/red] \x1b[2J", "fleet": "[bold]"}
    admin.answers["GET", "/v1/status"] = told
    result = run("status")
    assert "fleet [bold]," in result.stdout
    assert "[red]x[/red]" in result.stdout
    assert "\x1b" not in result.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "blue"), [(None, "\x1b[34mblue"), ("1", "blue")])
def test_colors_are_for_terminals_and_no_color_is_respected(monkeypatch, no_color, blue):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    show_status(STATUS)
    assert f"active {blue}" in terminal.getvalue()


def test_a_status_fits_into_80_columns(monkeypatch):
    colors = {
        "blue": color("blue", "2026-01", "active", upstream("http://127.0.0.1:9101", True)),
        "green": color("green", "2026-02", "standby", upstream("http://127.0.0.1:9102", True)),
    }
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    show_status({**STATUS, "colors": colors})
    assert "http://127.0.0.1:9101" in terminal.getvalue()


def test_an_empty_status_is_still_one(admin, run):
    admin.answers["GET", "/v1/status"] = {"colors": {}}
    assert run("status").exit_code == 0


def test_audit_shows_the_record(admin, run):
    entry = {"id": "5-0", "at": 1.0, "verb": "flip", "actor": "ci", "reason": "v2", "epoch": 8, "revision": 9}
    facts = {"from": "blue", "to": "green", "phases": {"green": "active"}, "forced": ["a", "b"]}
    admin.answers["GET", "/v1/audit"] = {"entries": [{**entry, "facts": facts}], "next": "5-0"}
    result = run("audit", "--limit", "1", "--before", "6-0")
    assert admin.asked[0][1] == "/v1/audit?limit=1&before=6-0"
    assert "from=blue to=green phases=green:active forced=a,b" in result.stdout
    assert "older ones: bgproxy audit --before 5-0" in result.stdout
    assert json.loads(run("audit", "--json").stdout)["next"] == "5-0"


def test_audit_limits_are_usage(run):
    assert run("audit", "--limit", "0").exit_code == 2
    assert run("audit", "--limit", "1001").exit_code == 2


# --- events

POINTER = {"active": "green", "previous": "blue", "epoch": 8, "actor": "ci", "reason": "v2", "at": 1.0, "revision": 9}
RELEASE = {"color": "blue", "release": "v1", "phase": "standby", "at": 1.0, "epoch": 8, "revision": 9}


def wire(name: str, event_id: int, data: object) -> bytes:
    return f"event: {name}\nid: {event_id}\ndata: {json.dumps(data)}\n\n".encode()


def streaming(*pieces: bytes):
    """Send the pieces, then end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return answer


def test_events_tell_what_stands_and_end(admin, run):
    admin.answers["GET", "/v1/colors"] = {"colors": [{}, {}]}
    admin.answers["GET", "/v1/events"] = streaming(
        b"retry: 1000\n\n",
        wire("pointer", 9, POINTER),
        wire("release", 9, RELEASE),
        wire("release", 9, {**RELEASE, "color": "green", "release": None, "phase": None, "at": None}),
        wire("pointer", 10, POINTER),
    )
    result = run("events")
    assert [" ".join(line[19:].split()) for line in result.stdout.splitlines()] == [
        "pointer green is active, came from blue, epoch 8, by ci: v2",
        "release blue holds v1, phase standby",
        "release green holds nothing",
    ]


def test_events_as_json_are_one_document_a_line(admin, run):
    admin.answers["GET", "/v1/colors"] = {"colors": []}
    admin.answers["GET", "/v1/events"] = streaming(wire("pointer", 9, POINTER))
    assert json.loads(run("events", "--json").stdout) == {"event": "pointer", "id": "9", "data": POINTER}


@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_events_that_are_refused(admin, run, follow):
    refused = problem(401, "unauthorized", "this needs a token")
    admin.answers["GET", "/v1/colors"] = {"colors": []}
    admin.answers["GET", "/v1/events"] = refused
    assert run("events", *follow).exit_code == 1
    admin.answers["GET", "/v1/events"] = {"colors": []}
    assert run("events", *follow).exit_code == 3


def test_following_survives_a_broken_connection_and_says_what_it_knows(admin):
    admin.answers["GET", "/v1/events"] = streaming(wire("pointer", 9, POINTER))
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            admin.answers["GET", "/v1/events"] = (500, {"this is": "no bgproxy"})
        if len(naps) == 3:
            admin.answers["GET", "/v1/events"] = streaming(wire("pointer", 12, POINTER))

    found = followed(Admin(admin.url), sleep)
    assert [next(found).id, next(found).id] == ["9", "12"]
    assert [fields.get("Last-Event-ID") for fields in admin.fields] == [None, "9", "9", "9"]
    assert naps == [0.25, 0.5, 1.0]


def test_following_what_is_not_there_ends_at_once(unused_tcp_port):
    with pytest.raises(Unreachable):
        next(followed(Admin(f"http://127.0.0.1:{unused_tcp_port}"), lambda _seconds: None))


@pytest.mark.parametrize(
    ("lines", "events"),
    [
        (["event: a", "id: 1", "data: {}", ""], [Event("a", "1", {})]),
        (["data: 1", "", "data: 2", ""], [Event("message", "", 1), Event("message", "", 2)]),
        (["data: [1,", "data: 2]", ""], [Event("message", "", [1, 2])]),
        (["data:x y", ""], [Event("message", "", "x y")]),
        ([": still here", "", "retry: 1000", "", "event: a", ""], []),
        (["id: 1", "data: 1", "", "data: 2", ""], [Event("message", "1", 1), Event("message", "1", 2)]),
        (["event: a", "data: 1"], []),
    ],
)
def test_events_are_taken_apart_as_the_standard_says(lines, events):
    assert list(parse(lines)) == events


def test_an_event_of_another_kind_is_shown_as_it_is():
    assert tell_line(Event("gate", "1", {"x": "\x07"})).split() == ["gate", '{"x":', '"\\u0007"}']
