"""Settings that must not be used: each is refused in words that name it."""

from __future__ import annotations

import pytest

from bgproxy.admin.options import AdminOptions, Token, split_address
from bgproxy.errors import ConfigError

GOOD = "9f86d081884c7d659a2feaa0c55ad015"


@pytest.mark.parametrize(
    "secret",
    [GOOD, "c2VjcmV0LXNlY3JldC1zZWM", "abcdefghijklmnopqrstuvwxyz", "A1b2C3d4E5f6G7h8I9j0Kl==", "0123456789" * 4],
)
def test_secrets_that_are_long_enough(secret):
    assert secret not in repr(Token("ci", "operator", secret))


@pytest.mark.parametrize(
    ("name", "role", "secret", "words"),
    [
        ("ci", "operator", GOOD[:-1], "128 random bits"),
        ("ci", "operator", "0123456789" * 3, "128 random bits"),
        ("ci", "operator", "A1b2C3d4E5f6G7h8I9j0K", "128 random bits"),
        ("ci", "operator", "ab" * 40, "too easy to guess"),
        ("ci", "operator", "changeme", "openssl rand"),
        ("ci", "operator", "", "openssl rand"),
        ("ci", "operator", GOOD + "\n", "cannot carry"),
        ("ci", "operator", GOOD + " x", "cannot carry"),
        ("ci", "operator", GOOD + "ä", "cannot carry"),
        ("ci", "admin", GOOD, "viewer, operator"),
        ("", "viewer", GOOD, "token name ''"),
        ("a b", "viewer", GOOD, "token name 'a b'"),
        ("x" * 65, "viewer", GOOD, "token name"),
    ],
)
def test_tokens_that_are_refused(name, role, secret, words):
    with pytest.raises(ConfigError, match=words) as error:
        Token(name, role, secret)
    assert not secret or secret not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_body_bytes": 0}, r"admin\.max_body_bytes is 0"),
        ({"failure_rate": 0}, r"admin\.failure_rate is 0"),
        ({"allowed_hosts": ("*",)}, "allowed_hosts"),
        ({"allowed_hosts": ("http://x",)}, "allowed_hosts"),
        ({"allowed_hosts": ("proxy.test:80",)}, "allowed_hosts"),
        ({"allowed_hosts": ("",)}, "allowed_hosts"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        AdminOptions(**options).check()


def test_hosts_that_may_be_allowed():
    AdminOptions(allowed_hosts=("proxy", "proxy.example.test", "10.0.0.1", "fd00::1", "a_b.test")).check()


@pytest.mark.parametrize(
    ("listen", "parts"),
    [
        ("127.0.0.1:9900", ("127.0.0.1", 9900)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("unix:/run/bgproxy.sock", None),
    ],
)
def test_addresses(listen, parts):
    assert split_address(listen) == parts


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "9900",
        ":9900",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:65536",
        "::1:9900",
        "[x]:1",
        "[::1]",
        "unix:x",
        "http://127.0.0.1:9900",
        "127.0.0.1:99\n",
    ],
)
def test_no_addresses(listen):
    with pytest.raises(ConfigError, match="address"):
        split_address(listen)
