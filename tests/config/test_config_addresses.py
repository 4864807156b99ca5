"""Listen addresses: every spelling that is taken, and what is refused."""

from __future__ import annotations

import pytest

from bgproxy.config.addresses import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("127.9.9.9:1", Address("127.9.9.9", 1)),
        ("localhost:0", Address("localhost", 0)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("agents.internal:80", Address("agents.internal", 80)),
        ("[::1]:80", Address("::1", 80)),
        ("[::]:80", Address("::", 80)),
        ("unix:/run/x.sock", Address(path="/run/x.sock")),
        ("unix:///run/x.sock", Address(path="/run/x.sock")),
    ],
)
def test_an_address(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


NONE = [
    "",
    ":",
    "80",
    ":80",
    "h:",
    "h:x",
    "h:-1",
    "h:65536",
    "h:\u0663",
    "a b:80",
    "-h:80",
    "[::1]",
    "[h]:80",
    "::1:80",
]
NONE += ["256.0.0.1:80", "1.2.3:80", "http://h:80", "unix:", "unix:x", "unix:/" + "x" * 200, "h/x:80", "u@h:80"]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="; "):
        parse_address(text)
