"""What the admin plane may be told: where it listens, who may speak to it, how much it takes.

A token checks itself when it is made, and `AdminOptions.check` refuses an open door, so that neither a file nor a
caller can start one by mistake. Texts never show a secret.
"""

from __future__ import annotations

import ipaddress
import math
import re
import string
from dataclasses import dataclass, field
from typing import Literal

from bgproxy.errors import ConfigError

Role = Literal["viewer", "operator"]
ROLES: tuple[Role, ...] = ("viewer", "operator")  # in rising order: an operator may do what a viewer may

MIN_SECRET_BITS = 128
MIN_DISTINCT = 8  # different characters; a random secret of 128 bits has more, a repeated letter has not
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SECRET = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1, b64token
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_ALPHABETS = ((string.digits, 10), (string.hexdigits, 16), (string.ascii_letters + string.digits, 62))


@dataclass(frozen=True, slots=True)
class Token:
    """One bearer token. Two may carry the same name, so that a secret can be replaced without a gap."""

    name: str  # the actor on the audit record
    role: Role
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"token name {self.name!r}: use 1 to 64 letters, digits, '.', '_', '@' or '-'")
        if self.role not in ROLES:
            raise ConfigError(f"token {self.name}: role {self.role!r} is not known, use one of {', '.join(ROLES)}")
        check_secret(self.name, self.secret)


def check_secret(name: str, secret: str) -> None:
    """Raises ConfigError for a secret of the token `name` that cannot be sent, or that could be guessed."""
    if not _SECRET.fullmatch(secret):
        raise ConfigError(
            f"token {name}: the secret has characters that a bearer token cannot carry (RFC 6750); "
            "make one with `openssl rand -hex 32`"
        )
    if _bits(secret) < MIN_SECRET_BITS or len(set(secret)) < MIN_DISTINCT:
        raise ConfigError(
            f"token {name}: the secret is too easy to guess, it needs at least {MIN_SECRET_BITS} random bits; "
            "make one with `openssl rand -hex 32`"
        )


def _bits(secret: str) -> float:
    """The most that a secret of this length and alphabet can hold."""
    text = secret.rstrip("=")
    size = next((size for letters, size in _ALPHABETS if set(text) <= set(letters)), 64)
    return len(text) * math.log2(size)


@dataclass(frozen=True, slots=True)
class AdminOptions:
    """The admin plane's settings; sizes in bytes."""

    listen: str = "127.0.0.1:9900"  # HOST:PORT, [IPV6]:PORT or unix:/path
    tokens: tuple[Token, ...] = ()
    allowed_hosts: tuple[str, ...] = ()  # further names in the Host header, without a port
    max_body_bytes: int = 65_536  # a release's description is far smaller
    failure_rate: int = 10  # wrong tokens answered per peer and minute; the next ones get 429

    def check(self) -> None:
        """Raise ConfigError for what must not be started: an address that others reach, without tokens."""
        if not self.tokens and not is_private(self.listen):
            raise ConfigError(
                f"admin.listen {self.listen!r} can be reached from other machines, but there is no token: "
                "add a [[token]] with name, role and secret_file, or listen on 127.0.0.1 or unix:/path"
            )
        for name, value, least in (("max_body_bytes", self.max_body_bytes, 1), ("failure_rate", self.failure_rate, 1)):
            if value < least:
                raise ConfigError(f"admin.{name} is {value}, it must be at least {least}")
        for host in self.allowed_hosts:
            if not _HOST_NAME.fullmatch(host) and not is_address(host):
                raise ConfigError(
                    f"admin.allowed_hosts: {host!r} is no host name; write it without scheme, port or '*'"
                )


def split_address(listen: str) -> tuple[str, int] | None:
    """Host (without brackets) and port of an address; None for `unix:/path`. Raises ConfigError."""
    if listen.startswith("unix:"):
        if not listen.removeprefix("unix:").startswith("/"):
            raise ConfigError(f"address {listen!r}: a socket's path must be absolute, as in unix:/run/bgproxy.sock")
        return None
    host, colon, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        known = is_address(host)
    else:
        known = _HOST_NAME.fullmatch(host) is not None
    if not colon or not known or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ConfigError(f"address {listen!r} cannot be used: write HOST:PORT, [IPV6]:PORT or unix:/path")
    return host.lower().rstrip("."), int(port)


def is_private(listen: str) -> bool:
    """Whether only this machine reaches the address: a Unix socket, a loopback address, or `localhost`."""
    parts = split_address(listen)
    if parts is None or parts[0] == "localhost":
        return True
    return is_address(parts[0]) and ipaddress.ip_address(parts[0]).is_loopback


def is_address(text: str) -> bool:
    """Whether the text is a literal IP address, without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
