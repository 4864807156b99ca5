"""What agents are told about the client, byte by byte, and whose word counts."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from bgproxy.errors import ConfigError
from bgproxy.http1.parser import Parser
from bgproxy.proxy.forwarding import Forwarder, address_of
from bgproxy.proxy.options import Forwarding

PLAIN = "GET / HTTP/1.1\r\nHost: Agent.test:80\r\n"
SAID = (
    "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-For: 3.3.3.3\r\nX-Forwarded-Proto: https\r\n"
    "X-Forwarded-Host: outside.test\r\nForwarded: for=1.1.1.1;proto=https\r\n"
)


def told(head: str, peer: str, *, trusted: bool = False, **options: Any) -> list[str]:
    """The lines that stand behind the client's own."""
    request = Parser().request(head.encode() + b"\r\n", trusted)
    *lines, nothing, end = Forwarder(Forwarding(**options)).fields(request, peer).decode().split("\r\n")
    assert (nothing, end) == ("", "")
    return lines


FOR, PROTO, HOST, VIA = (
    "X-Forwarded-For: ",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Host: agent.test:80",
    "Via: 1.1 bgproxy",
)


@pytest.mark.parametrize(
    ("what", "head", "peer", "lines"),
    [
        ("a client", PLAIN, "192.0.2.1", [FOR + "192.0.2.1", PROTO, HOST, VIA]),
        ("a client of IPv6", PLAIN, "2001:db8::1", [FOR + "2001:db8::1", PROTO, HOST, VIA]),
        ("a client on a socket", PLAIN, "", [PROTO, HOST, VIA]),
        ("a client that said who it is", PLAIN + SAID, "192.0.2.1", [FOR + "192.0.2.1", PROTO, HOST, VIA]),
        ("HTTP/1.0 without Host", "GET / HTTP/1.0\r\n", "192.0.2.1", [FOR + "192.0.2.1", PROTO, VIA]),
    ],
)
def test_of_anyone(what: str, head: str, peer: str, lines: list[str]) -> None:
    assert told(head, peer) == lines


@pytest.mark.parametrize(
    ("what", "head", "peer", "lines"),
    [
        (
            "all that a proxy may say",
            PLAIN + SAID,
            "10.0.0.1",
            [
                FOR + "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.1",
                "X-Forwarded-Proto: https",
                "X-Forwarded-Host: outside.test",
                "Forwarded: for=1.1.1.1;proto=https",
                VIA,
            ],
        ),
        ("a proxy that says nothing", PLAIN, "10.0.0.1", [FOR + "10.0.0.1", PROTO, HOST, VIA]),
        ("a proxy on a socket", PLAIN + "X-Forwarded-For: 1.1.1.1\r\n", "", [FOR + "1.1.1.1", PROTO, HOST, VIA]),
        ("an empty word", PLAIN + "X-Forwarded-For:\r\n", "10.0.0.1", [FOR + "10.0.0.1", PROTO, HOST, VIA]),
    ],
)
def test_of_a_trusted_proxy(what: str, head: str, peer: str, lines: list[str]) -> None:
    assert told(head, peer, trusted=True) == lines


@pytest.mark.parametrize(
    ("what", "head", "peer", "trusted", "line"),
    [
        ("IPv4", PLAIN, "192.0.2.1", False, 'for=192.0.2.1;proto=http;host="agent.test:80"'),
        ("IPv6", PLAIN, "2001:db8::1", False, 'for="[2001:db8::1]";proto=http;host="agent.test:80"'),
        ("IPv6 with a zone", PLAIN, "fe80::1%eth0", False, 'for="[fe80::1]";proto=http;host="agent.test:80"'),
        ("a socket", PLAIN, "", False, 'for=unknown;proto=http;host="agent.test:80"'),
        ("no Host", "GET / HTTP/1.0\r\n", "192.0.2.1", False, "for=192.0.2.1;proto=http"),
        ("what anyone said", PLAIN + SAID, "192.0.2.1", False, 'for=192.0.2.1;proto=http;host="agent.test:80"'),
        (
            "what a trusted proxy said",
            PLAIN + SAID,
            "10.0.0.1",
            True,
            'for=1.1.1.1;proto=https, for=10.0.0.1;proto=http;host="agent.test:80"',
        ),
    ],
)
def test_forwarded_by_setting(what: str, head: str, peer: str, trusted: bool, line: str) -> None:
    lines = told(head, peer, trusted=trusted, forwarded=True)
    assert [text for text in lines if text.startswith("Forwarded:")] == ["Forwarded: " + line]


def test_the_name_in_via_is_a_setting() -> None:
    assert told(PLAIN, "", via="edge")[-1] == "Via: 1.1 edge"


@pytest.mark.parametrize(
    ("proxies", "peer", "trusted"),
    [
        ((), "127.0.0.1", False),
        ((), "", False),
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.1.2.3",), "10.1.2.3", True),
        (("10.1.2.3/8",), "10.200.0.1", True),  # bits beyond the mask are forgiven
        (("fd00::/8",), "fd12::1", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("10.0.0.0/8",), "fd12::1", False),
        (("0.0.0.0/0",), "", False),  # a socket has no address
        (("unix",), "", True),
        (("unix",), "127.0.0.1", False),
        (("unix", "127.0.0.0/8"), "127.0.0.1", True),
    ],
)
def test_whose_word_counts(proxies: tuple[str, ...], peer: str, trusted: bool) -> None:
    assert Forwarder(Forwarding(trusted_proxies=proxies)).trusts(peer) == trusted


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "localhost", "unix:/run/x", "10.0.0"])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"forwarding\.trusted_proxies") as caught:
        Forwarder(Forwarding(trusted_proxies=(text,)))
    assert f'"{text}"' in str(caught.value)


class Transport(asyncio.BaseTransport):
    """Knows of its peer what the kernel would say."""

    def __init__(self, peername: object, family: int | None) -> None:
        sock = None if family is None else SimpleNamespace(family=family)
        super().__init__({"peername": peername, "socket": sock})


@pytest.mark.parametrize(
    ("peername", "family", "address"),
    [
        (("192.0.2.1", 5), socket.AF_INET, "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), socket.AF_INET6, "2001:db8::1"),
        (("::ffff:192.0.2.1", 5, 0, 0), socket.AF_INET6, "192.0.2.1"),
        (("::ffff:1", 5, 0, 0), socket.AF_INET6, "::ffff:1"),
        ("", socket.AF_UNIX, ""),
        (None, socket.AF_UNIX, ""),
        (None, socket.AF_INET, "0.0.0.0"),  # gone already: nobody's word, least of all a socket's
        (None, None, "0.0.0.0"),
    ],
)
def test_the_address_of_a_peer(peername: object, family: int | None, address: str) -> None:
    assert address_of(Transport(peername, family)) == address
