"""How a route knows its sessions: what is remembered of a request must never be another request's answer."""

from __future__ import annotations

import pytest

from bgproxy.http1.head import RequestHead
from bgproxy.proxy import session_rules
from bgproxy.proxy.options import RouteSessions, SessionOptions
from bgproxy.proxy.session_rules import SessionRules
from bgproxy.sessions.presets import DEFAULT_PRESETS, PROTOCOLS
from bgproxy.sessions.spec import preset_named

USUAL = RouteSessions(tuple(PROTOCOLS[name] for name in DEFAULT_PRESETS))


def rules() -> SessionRules:
    return SessionRules("default", USUAL, SessionOptions())


def request(*marks: tuple[bytes, bytes], method: bytes = b"POST", target: bytes = b"/mcp") -> RequestHead:
    return RequestHead(method, target, 1, b"agents", 9, b"", False, list(marks) or None, 0)


JSON = (b"content-type", b"application/json")


def session(value: bytes) -> tuple[bytes, bytes]:
    return (b"mcp-session-id", value)


def test_the_same_fields_are_looked_at_once() -> None:
    route = rules()
    first = route.met(request(JSON, session(b"a")))
    assert first is not None
    again = route.met(request(JSON, session(b"a")))
    assert again is not None
    assert again[0] is first[0]
    assert first[1] == route.digests(first[0].keys, [JSON, session(b"a")])


@pytest.mark.parametrize(
    "other",
    [
        request(JSON, session(b"b")),
        request(JSON, session(b"a"), (b"authorization", b"Bearer x")),
        request(session(b"a"), (b"x-amzn-bedrock-agentcore-runtime-session-id", b"z")),
    ],
)
def test_another_session_is_another(other: RequestHead) -> None:
    route = rules()
    first = route.met(request(JSON, session(b"a")))
    second = route.met(other)
    assert first is not None
    assert second is not None
    assert first[1] != second[1]


def test_a_request_with_a_body_is_read_though_one_without_had_the_same_fields() -> None:
    """Its body may hold a key that is more specific than the cookie."""
    presets = (PROTOCOLS["a2a"], preset_named("cookie:who"))
    route = SessionRules("default", RouteSessions(presets), SessionOptions())
    empty, full = (request(JSON, (b"cookie", b"who=a")) for _ in range(2))
    empty.length = 0
    assert route.met(empty) is not None
    met = route.met(full)
    assert met is not None
    assert met[0].body is not None
    assert not met[1]


def test_what_ends_a_session_is_told_from_what_uses_it() -> None:
    route = rules()
    used = route.met(request(session(b"a")))
    deleted = route.met(request(session(b"a"), method=b"DELETE"))
    assert used is not None
    assert deleted is not None
    assert (used[0].ends(200), deleted[0].ends(200)) == (False, True)


@pytest.mark.parametrize("marks", [(), (JSON,), (JSON, (b"authorization", b"Bearer x")), (JSON, session(b"\x80"))])
def test_what_names_no_session_in_its_fields_is_looked_at_each_time(marks: tuple[tuple[bytes, bytes], ...]) -> None:
    route = rules()
    assert (route.met(request(*marks)) or (None, ()))[1] == ()
    assert not route._met


def test_what_is_remembered_is_bounded() -> None:
    route = rules()
    for number in range(session_rules._REMEMBERED + 20):
        assert route.met(request(session(b"%d" % number))) is not None
        assert len(route._met) <= session_rules._REMEMBERED
    long = request(session(b"long"))
    long.fields = b"x" * (session_rules._REMEMBERED_BYTES + 1)
    known = dict(route._met)
    assert route.met(long) is not None
    assert route._met == known


def test_an_upgrade_is_not_mixed_up_with_a_plain_request() -> None:
    head = request(session(b"a"), method=b"GET")
    head.upgrade = b"websocket"
    assert rules().met(head) is None
