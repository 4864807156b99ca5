"""A Redis URL as connection arguments, by allow-list.

Stricter than the client library, which drops what it does not understand: a misspelt option is an error, and so is a
password whose special characters are not percent-encoded. No error text repeats what may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bgproxy.errors import ConfigError

Transport = Literal["tcp", "tls", "unix"]

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise ValueError(text)
    return int(text)


def _yes(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


def _verification(text: str) -> str:
    return {"required": "required", "optional": "optional", "none": "none"}[text.lower()]


_EVERYWHERE: Final[Mapping[str, Callable[[str], Any]]] = {"db": _number, "client_name": str}
_TLS: Final[Mapping[str, Callable[[str], Any]]] = {
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": _yes,
}


def connection_arguments(url: str) -> tuple[Transport, dict[str, Any]]:
    """How to connect and what the connection is told; raises `ConfigError` saying what is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _wrong("its host or port cannot be read") from None
    if parts.fragment or "@" in parts.path:
        raise _wrong("there is a # or / where none belongs")
    arguments: dict[str, Any] = _credentials(parts)
    if parts.scheme == "unix":
        return "unix", {**arguments, "path": _socket_path(parts), **_options(parts.query, _EVERYWHERE)}
    tls = parts.scheme == "rediss"
    arguments |= {"host": _host(parts), "port": 6379 if port is None else port, "db": _database(parts.path)}
    arguments |= _options(parts.query, {**_EVERYWHERE, **_TLS} if tls else _EVERYWHERE)
    return "tls" if tls else "tcp", arguments


def _credentials(parts: SplitResult) -> dict[str, str]:
    found = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in found.items() if value}


def _host(parts: SplitResult) -> str:
    host = parts.hostname or "localhost"
    if not _HOST.fullmatch(host):
        raise _wrong("its host is neither a name nor an address")
    return host


def _socket_path(parts: SplitResult) -> str:
    if parts.hostname or not parts.path.startswith("/"):
        raise _wrong("write unix:/absolute/path/to/redis.sock, with ?db=N for another database than 0")
    return unquote(parts.path)


def _database(path: str) -> int:
    text = path.strip("/")
    try:
        return _number(text) if text else 0
    except ValueError:
        raise _wrong("what follows host and port must be a database's number, such as /0") from None


def _options(query: str, allowed: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed:
            raise _wrong(f"it has an option that is not known; there are {', '.join(allowed)}")
        try:
            arguments[name] = allowed[name](value)
        except (KeyError, ValueError):
            raise _wrong(f"its option {name} has a value that cannot be used") from None
    return arguments


def _wrong(problem: str) -> ConfigError:
    return ConfigError(
        f"store: the URL cannot be used: {problem}. Write redis://[user:password@]host:port/db (rediss:// for TLS) "
        "and percent-encode special characters of the password (/ is %2F, # is %23, @ is %40, ? is %3F)"
    )
