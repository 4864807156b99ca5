"""What an operator writes: what is understood, and what is said of the rest."""

from typing import Any

import pytest
from turns import turn

from bgproxy.errors import ConfigError
from bgproxy.sessions.presets import DEFAULT_PRESETS, PROTOCOLS
from bgproxy.sessions.recognise import Recogniser
from bgproxy.sessions.spec import preset_from, preset_named


@pytest.mark.parametrize(
    "name", [*PROTOCOLS, "cookie", "credentials", "header:X-Session-Id", "cookie:a", "query:a", "json:/a"]
)
def test_a_preset_goes_by_what_was_written(name: str) -> None:
    assert preset_named(name).name == name


def test_those_that_are_on_without_a_word_exist() -> None:
    assert [preset_named(name).name for name in DEFAULT_PRESETS] == list(DEFAULT_PRESETS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mpc", "did you mean mcp?"),
        ("a2", "did you mean a2a?"),
        ("agui", "did you mean ag-ui?"),
        ("headers:X-A", "did you mean header:X-Session-Id?"),
        ("", "is no preset"),
        ("MCP", "is no preset"),
        ("mcp:x", "is no preset"),
        ("header", "says header of what? Write header:X-Session-Id"),
        ("header:", "'header:' is not the name of a header field; write it like header:X-Session-Id"),
        ("header:X Y", "is not the name of a header field"),
        ("header:é", "is not the name of a header field"),
        ("header:Authorization", "would take a secret for an id; write credentials"),
        ("cookie:a b", "is not the name of a cookie"),
        ("query:a=b", "is not the name of a query parameter"),
        ("path:agents/{id}", "is not a path of whole segments"),
        ("path:/agents/x{id}", "is not a path of whole segments"),
        ("path:/agents/{id", "is not a path of whole segments"),
        ("path:/agents", "has no {id} in it"),
        ("json:session", "is not a JSON pointer to a member (RFC 6901); write it like json:/session/id"),
        ("json:", "is not a JSON pointer"),
        ("json:/a~2", "is not a JSON pointer"),
        ("json:" + "/a" * 33, "is not a JSON pointer"),
    ],
)
def test_what_is_none_is_refused_by_its_name_with_the_nearest_right_one(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        preset_named(text)
    assert repr(text) in str(refusal.value)
    assert says in str(refusal.value)


ACME: dict[str, Any] = {
    "name": "acme",
    "request": ["header:X-Acme", "query:acme", "cookie:acme", "path:/agents/{id}/…", "json:/session/id", "json:/sid"],
    "answer": ["header:X-Acme", "cookie:acme", "location:/agents/{id}/…", "json:/id", "json:/session/id"],
    "sticky_host": False,
    "ended_by": 410,
    "ending": "not_found",
}
OF = Recogniser([preset_from(ACME)])
KEY = [("acme", b"s-1")]


@pytest.mark.parametrize(
    "request_",
    [
        "GET / HTTP/1.1\nX-Acme: s-1\n\n",
        "GET /?acme=s-1 HTTP/1.1\n\n",
        "GET / HTTP/1.1\nCookie: acme=s-1\n\n",
        "GET /agents/s-1/x HTTP/1.1\n\n",
        'POST / HTTP/1.1\nContent-Type: application/json\n\n{"session":{"id":"s-1"}}',
        'POST / HTTP/1.1\nContent-Type: application/json\n\n{"sid":"s-1"}',
    ],
)
def test_a_preset_of_ones_own_finds_one_kind_of_id_in_all_its_places(request_: str) -> None:
    seen = turn(request_, of=OF)
    assert (seen.keys, seen.preset) == (KEY, "acme")


@pytest.mark.parametrize(
    "answer",
    [
        "X-Acme: s-1\n\n",
        "Set-Cookie: acme=s-1; Path=/\n\n",
        "Location: https://agent/agents/s-1/runs?x=/agents/no\n\n",
        "Content-Location: /agents/s-1?y\n\n",
        'Content-Type: application/json\n\n{"id":"s-1"}',
        'Content-Type: text/event-stream\n\ndata: {"x":1}\n\ndata: {"session":{"id":"s-1"}}\n\n',
    ],
)
def test_and_learns_it_in_all_its_places(answer: str) -> None:
    assert turn("GET / HTTP/1.1\n\n", f"HTTP/1.1 200 OK\n{answer}", of=OF).minted == KEY


def test_reading_ends_with_one_of_several_members() -> None:
    body = '{"sid":"s-1","rest":"' + "x" * 500 + '"}'
    assert turn(f"POST / HTTP/1.1\nContent-Type: application/json\n\n{body}", of=OF).read < 20


def test_it_says_when_a_session_is_over_and_where_it_lives() -> None:
    sighting = OF.request(b"GET", b"/", [(b"x-acme", b"s-1")], False, b"")
    assert sighting.ends(410)
    assert not sighting.ends(404)
    assert not sighting.sticky_host


def test_an_event_s_own_id_may_be_learned() -> None:
    of = Recogniser([preset_from({"name": "feed", "request": ["header:Last-Event-ID"], "answer": ["event-id"]})])
    answer = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\nid: 1\ndata: x\n\nid: 2\ndata: x\n\n"
    assert turn("GET / HTTP/1.1\n\n", answer, of=of).minted == [("feed", b"1"), ("feed", b"2")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "name '' is none"),
        ({"name": 7}, "name 7 is none"),
        ({"name": "mcp"}, "is taken by a preset that is built in"),
        ({"name": "mcp.task"}, "name 'mcp.task' is none; give 1 to 64 letters, digits, `-` or `_`"),
        (
            {"request": ["header:X", "cookie"]},
            "request has 'cookie', which is a preset by itself: list it beside 'acme'",
        ),
        ({"answer": ["cookie"]}, "answer has 'cookie', which is a preset by itself"),
        ({"request": ["header:authorization"]}, "write credentials"),
        ({"reqest": []}, "'reqest' is no key of it; did you mean request?"),
        ({"xyz": []}, "'xyz' is no key of it; there are answer, ended_by, ending, name, request, sticky_host"),
        ({"request": []}, "request is empty"),
        ({"request": "header:X"}, "request is no list"),
        (
            {"request": ["location:/{id}"]},
            "request has 'location:/{id}'; it may have cookie, header, json, path, query",
        ),
        ({"request": [7]}, "request has 7"),
        ({"request": ["header:"]}, "'header:' is not the name of a header field"),
        (
            {"answer": ["path:/a/{id}"]},
            "answer has 'path:/a/{id}'; it may have cookie, event-id, header, json, location",
        ),
        ({"answer": ["location:/a"]}, "'location:/a' has no {id} in it; write it like location:/agents/{id}/…"),
        ({"answer": ["json:x"]}, "'json:x' is not a JSON pointer"),
        ({"sticky_host": "no"}, "sticky_host 'no' is neither true nor false"),
        ({"ended_by": 200}, "ended_by 200 is no status from 400 to 499"),
        ({"ended_by": True}, "ended_by True is no status"),
        ({"ending": "410"}, "ending '410' is none; write problem, not_found, jsonrpc"),
        ({"ending": ["problem"]}, "ending ['problem'] is none"),
    ],
)
def test_a_wrong_part_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        preset_from(ACME | change)
    assert says in str(refusal.value)


def test_no_preset_of_ones_own_can_have_the_ids_of_one_that_is_built_in() -> None:
    built_in = [*map(preset_named, (*PROTOCOLS, "cookie", "credentials", "header:X", "query:x", "json:/x"))]
    spaces = {
        *(one.space for preset in built_in for one in (*preset.fields, *preset.queries, *preset.learn_fields)),
        *(path.space for preset in built_in for path in (*preset.paths, *preset.learn_locations) if path.space),
        *(member.space for preset in built_in for group in preset.groups for member in group.members),
        *(member.space for preset in built_in for group in preset.learn_groups for member in group.members),
        *(link.space for preset in built_in for link in preset.learn_links),
        *(space for preset in built_in for space, _ in preset.learn_event_ids),
    }
    assert {"mcp", "mcp.task", "a2a.context", "ag-ui.thread", "sse", "cookie", "credentials", "header:x"} <= spaces
    for space in spaces:
        with pytest.raises(ConfigError, match=r"is none|is taken"):
            preset_from(ACME | {"name": space})


def test_without_any_preset_nothing_is_seen() -> None:
    of = Recogniser([])
    sighting = of.request(b"POST", b"/tasks/1?session_id=2", (), True, b"websocket")
    assert (sighting.keys, sighting.body, sighting.minting, sighting.connection) == ([], None, False, False)
    assert of.request_fields == of.response_fields == frozenset()
