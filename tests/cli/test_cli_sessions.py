"""sessions list, show, move, forget and stats: what is asked, what is said, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_admin import problem

ID = "9f86d081884c7d659a2feaa0c55ad015"
SESSION = {
    "id": ID,
    "color": "blue",
    "release": "v1",
    "stands": True,
    "upstream": "http://a:1",
    "epoch": 3,
    "moves": 2,
    "goal": None,
    "preset": "mcp",
    "route": "chat",
    "created": 1_750_000_000.0,
    "expires": 1_750_000_600.0,
    "ttl": 600.0,
    "max_age": 0.0,
}
GONE = {**SESSION, "id": "0" * 32, "color": "green", "release": "v0", "stands": False}


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_list(admin, run):
    admin.answers["GET", "/v1/sessions"] = {"sessions": [SESSION, GONE], "next": "77"}
    result = run("sessions", "list", "--color", "blue", "--limit", "2", "--cursor", "5")
    assert admin.asked[0][1] == "/v1/sessions?limit=2&color=blue&cursor=5"
    told = lines(result.stdout)
    assert told[0] == "id color release preset route moves expires"
    assert told[1].startswith(f"{ID} blue v1 mcp chat 2 2025-06-1")
    assert told[2].startswith(f"{'0' * 32} green v0 (gone) mcp chat 2 ")
    assert told[3] == "there may be more: bgproxy sessions list --color blue --cursor 77"
    assert result.exit_code == 0


def test_the_last_page_says_nothing_of_more(admin, run):
    admin.answers["GET", "/v1/sessions"] = {"sessions": [], "next": None}
    result = run("sessions", "list")
    assert admin.asked[0][1] == "/v1/sessions?limit=100"
    assert "more" not in result.stdout


def test_one(admin, run):
    admin.answers["GET", f"/v1/sessions/{ID}"] = SESSION
    told = lines(run("sessions", "show", ID).stdout)
    assert f"id {ID}" in told
    assert "release v1" in told
    assert "upstream http://a:1" in told
    assert any(line.startswith("expires 2025-06-1") and line.endswith(" if it is not used any more") for line in told)
    assert "ttl 600 s" in told
    assert not any(line.startswith("max_age") for line in told), "there is none"
    admin.answers["GET", f"/v1/sessions/{ID}"] = {**SESSION, "max_age": 86_400.0}
    assert "max_age 86400 s" in lines(run("sessions", "show", ID).stdout)


def test_an_id_is_one_segment_of_the_path(admin, run):
    run("sessions", "show", "../status")
    assert admin.asked[0][1] == "/v1/sessions/..%2Fstatus"


def test_a_move(admin, run):
    moved = {**SESSION, "color": "green", "release": "v2", "moved": True, "changed": True}
    admin.answers["POST", f"/v1/sessions/{ID}/move"] = moved
    result = run("sessions", "move", ID, "green", "--reason", "try v2")
    assert admin.asked == [("POST", f"/v1/sessions/{ID}/move", {"to": "green", "reason": "try v2"})]
    assert (result.exit_code, result.stdout) == (0, f"{ID} lives on green, release v2\n")
    admin.answers["POST", f"/v1/sessions/{ID}/move"] = {**moved, "changed": False}
    result = run("sessions", "move", ID, "green")
    assert admin.asked[1][2] == {"to": "green"}
    assert result.stdout == f"{ID} lives on green, release v2; nothing changed\n"


def test_a_move_that_waits_for_the_end_of_a_turn(admin, run):
    goal = {"color": "green", "release": "v2"}
    admin.answers["POST", f"/v1/sessions/{ID}/move"] = {**SESSION, "goal": goal, "moved": False, "changed": True}
    result = run("sessions", "move", ID, "green")
    waits = f"{ID} moves at its next turn (one is under way, or a worker has yet to hear of it): to green, release v2\n"
    assert (result.exit_code, result.stdout) == (0, waits)
    admin.answers["GET", "/v1/sessions"] = {"sessions": [{**SESSION, "goal": goal}], "next": None}
    admin.answers["GET", f"/v1/sessions/{ID}"] = {**SESSION, "goal": goal}
    words = "v1 (moves to green, v2, at its next turn)"
    assert words in " ".join(run("sessions", "list").stdout.split())
    assert f"release {words}" in lines(run("sessions", "show", ID).stdout)


def test_forgetting(admin, run):
    answer = {"id": ID, "color": "blue", "release": "v1", "forgotten": True}
    admin.answers["DELETE", f"/v1/sessions/{ID}"] = answer
    result = run("sessions", "forget", ID, "--reason", "it is stuck")
    assert admin.asked == [("DELETE", f"/v1/sessions/{ID}?reason=it+is+stuck", None)]
    assert (result.exit_code, result.stdout) == (0, f"{ID} is forgotten; it lived on blue, release v1\n")
    run("sessions", "forget", ID)
    assert admin.asked[1][1] == f"/v1/sessions/{ID}"


def test_the_counts(admin, run):
    row = {"color": "blue", "release": "v1", "stands": True, "live": 3, "last_expires": 1_750_000_600.0}
    old = {**row, "release": "v0", "stands": False, "live": 4}
    admin.answers["GET", "/v1/sessions/stats"] = {"live": 7, "releases": [row, old]}
    told = lines(run("sessions", "stats").stdout)
    assert told[0] == "color release sessions last expires"
    assert told[1].startswith("blue v1 3 2025-06-1")
    assert told[2].startswith("blue v0 (gone) 4 2025-06-1")
    assert told[3] == "live sessions: 7"


def test_stats_tell_what_the_host_has_counted_and_when_nobody_knows_how_many_live(admin, run):
    host = {
        "places": [{"preset": "mcp", "color": "blue", "pinned": 4, "learned": 6, "moved": 1, "ended": 2}],
        "unpinned": {"compressed": 1, "oversized": 5},
        "hits": 90,
        "misses": 10,
        "journalled": 3,
        "waiting": 2,
        "keys": 8,
        "store": [
            {"question": "learn", "calls": 0, "failed": 0, "seconds": 0.0},
            {"question": "resolve", "calls": 4, "failed": 1, "seconds": 0.01},
        ],
    }
    admin.answers["GET", "/v1/sessions/stats"] = {"live": None, "releases": [], "host": host}
    told = lines(run("sessions", "stats").stdout)
    assert told[1] == "live sessions: unknown, the store is away"
    assert told[3:] == [
        "counted by this host's workers:",
        "preset color pinned learned moved ended",
        "mcp blue 4 6 1 2",
        "cache: hits 90, misses 10, keys held 8",
        "keys: aliases 0, conflicts 0, values that can be none 0",
        "pins: refreshed 0, restored 0, turns that hold one 0",
        "store away: written down 3, still to be told 2, given up 0, refused 0",
        "not read: compressed 1, oversized 5",
        "store, resolve: 4 round trips of 2.50 ms, 1 failed",
    ]


VERBS: list[tuple[tuple[str, ...], tuple[str, str], dict[str, Any]]] = [
    (("list",), ("GET", "/v1/sessions"), {"sessions": [SESSION], "next": None}),
    (("show", ID), ("GET", f"/v1/sessions/{ID}"), SESSION),
    (("move", ID, "green"), ("POST", f"/v1/sessions/{ID}/move"), {**SESSION, "moved": True, "changed": True}),
    (("forget", ID), ("DELETE", f"/v1/sessions/{ID}"), {"id": ID, "forgotten": True}),
    (("stats",), ("GET", "/v1/sessions/stats"), {"live": 0, "releases": []}),
]


@pytest.mark.parametrize(("words", "asked", "answer"), VERBS, ids=[words[0] for words, _, _ in VERBS])
def test_json_and_the_ways_to_end(admin, run, unused_tcp_port, words, asked, answer):
    admin.answers[asked] = answer
    assert json.loads(run("sessions", *words, "--json").stdout) == answer
    refusal = problem(404, "unknown_session", "session 9f86 is not known")
    admin.answers[asked] = refusal
    result = run("sessions", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "bgproxy: session 9f86 is not known",
        "  `bgproxy sessions list` lists those that live",
    ]
    result = run("sessions", *words, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, refusal[1])
    admin.answers[asked] = {"another": "service"}
    assert run("sessions", *words).exit_code == 3
    assert run("sessions", *words, "--admin", f"http://127.0.0.1:{unused_tcp_port}").exit_code == 3


def test_control_characters_are_not_shown(admin, run):
    admin.answers["GET", "/v1/sessions"] = {"sessions": [{**SESSION, "route": "\x1b[2J[red]"}], "next": None}
    result = run("sessions", "list")
    assert "\x1b" not in result.stdout
    assert "[red]" in result.stdout


def test_usage(run):
    for words in ((), ("list", "--limit", "0"), ("list", "--limit", "1001"), ("show",), ("move", ID), ("forget",)):
        assert run("sessions", *words).exit_code == 2, words


def test_the_help_says_that_raw_ids_are_not_known(run):
    assert "the raw id that a client sent is never stored" in " ".join(
        run("sessions", "--help").stdout.replace("│", " ").split()
    )
