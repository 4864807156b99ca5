"""Which route a request takes."""

from __future__ import annotations

import pytest

from bgproxy.rules.route import Route, RouteTable, host_name

TABLE = RouteTable(
    [
        Route("any"),
        Route("chat", path="/chat"),
        Route("deep", path="/chat/deep/"),
        Route("named", host="Agent.test"),
        Route("named chat", host="agent.test.", path="chat"),
        Route("other", host="other.test", path="/only"),
        Route("address", host="[::1]", path="/"),
        Route("umlaut", host="bücher.test"),
    ]
)

FOUND = [
    ("x", "/", "any"),
    ("x", "/a", "any"),
    ("x", "*", "any"),
    ("", "/", "any"),
    ("x", "/chat", "chat"),
    ("x", "/chat/", "chat"),
    ("x", "/chat/x", "chat"),
    ("x", "/chat?x", "chat"),
    ("x", "/chatter", "any"),
    ("x", "/cha", "any"),
    ("x", "/Chat", "any"),
    ("x", "/%63hat", "any"),
    ("x", "//chat", "any"),
    ("x", "/a?/chat", "any"),
    ("x", "/chat/deep", "deep"),
    ("x", "/chat/deep/er?x", "deep"),
    ("x", "/chat/deeper", "chat"),
    ("agent.test", "/", "named"),
    ("agent.test", "/chat/deep", "named chat"),  # the host goes before the longer prefix
    ("AGENT.test", "/", "named"),
    ("agent.test:8080", "/", "named"),
    ("agent.test.", "/", "named"),
    ("agent.test.:80", "/", "named"),
    ("sub.agent.test", "/", "any"),
    ("agent.test.evil", "/", "any"),
    ("other.test", "/only/this", "other"),
    ("other.test", "/else", "any"),  # a host that has no such path is no dead end
    ("[::1]", "/chat", "address"),
    ("[::1]:8080", "/", "address"),
    ("[::2]:8080", "/", "any"),
    ("xn--bcher-kva.test", "/", "umlaut"),
]


@pytest.mark.parametrize(("host", "path", "name"), FOUND)
def test_a_request_takes(host: str, path: str, name: str) -> None:
    route = TABLE.find(host.encode(), path.encode())
    assert route is not None
    assert route.name == name


@pytest.mark.parametrize(
    ("routes", "host", "path"),
    [
        ([], b"a", b"/"),
        ([Route("r", path="/a")], b"a", b"/b"),
        ([Route("r", path="/a")], b"a", b"*"),
        ([Route("r", host="a")], b"b", b"/"),
        ([Route("r", host="a"), Route("s", path="/s")], b"", b"/"),
    ],
)
def test_no_route_takes_it(routes: list[Route], host: bytes, path: bytes) -> None:
    assert RouteTable(routes).find(host, path) is None


def test_one_route_for_everything_takes_everything() -> None:
    only = Route("only")
    table = RouteTable([only])
    assert [table.find(host, path) for host, path in [(b"", b"*"), (b"[", b""), (b"a:1", b"/x")]] == [only] * 3


def test_the_order_of_the_configuration_does_not_matter() -> None:
    turned = RouteTable(TABLE.routes[::-1])
    for host, path, name in FOUND:
        route = turned.find(host.encode(), path.encode())
        assert route is not None
        assert route.name == name


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", "/"), ("/", "/"), ("a", "/a"), ("/a/", "/a"), ("//a//b//", "/a//b")],
)
def test_paths_are_written_one_way(given: str, kept: str) -> None:
    assert Route("r", path=given).path == kept


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"", b""),
        (b"A.b", b"a.b"),
        (b"a:1", b"a"),
        (b"a.", b"a"),
        (b"[::F]:1", b"[::f]"),
        (b"[::1]", b"[::1]"),
        (b"[::1", b""),
    ],
)
def test_the_name_in_a_host(host: bytes, name: bytes) -> None:
    assert host_name(host) == name
