"""A Redis URL as an address: one server, the sentinels that know it, or some nodes of a cluster. By allow-list.

Stricter than the client library, which drops what it does not understand: a misspelt option is an error, and so is a
password whose special characters are not percent-encoded. No error text repeats what may be a password.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bgproxy.errors import ConfigError

Kind = Literal["server", "sentinel", "cluster"]
Transport = Literal["tcp", "tls", "unix"]
Host = tuple[str, int]


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a store is, and what each connection to its servers is told (`arguments`, the password among them).

    `hosts`: the server, the sentinels, or those nodes of the cluster that are asked first; of a socket there are none,
    its path is among the arguments. `service`: the sentinels' name for the store. `sentinel`: what each connection to
    a sentinel is told.
    """

    kind: Kind
    transport: Transport
    hosts: tuple[Host, ...]
    arguments: Mapping[str, Any]
    service: str = ""
    sentinel: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Address of a {self.kind}, {self.transport}, {len(self.hosts)} hosts>"

    @property
    def without_tls(self) -> str:
        """How a URL to the same place begins that speaks no TLS; empty where this one speaks none."""
        if self.transport != "tls":
            return ""
        return "redis://" if self.kind == "server" else f"redis+{self.kind}://"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text may show."""
        found = (self.arguments.get("password"), self.sentinel.get("password"))
        return tuple(str(secret) for secret in found if secret)


@dataclass(frozen=True, slots=True)
class _Scheme:
    kind: Kind
    transport: Transport
    port: int  # where none is written
    form: str


_LISTS = "host:port,host:port"
_SCHEMES: Final[Mapping[str, _Scheme]] = {
    "redis": _Scheme("server", "tcp", 6379, "redis://[user:password@]host:port/db"),
    "rediss": _Scheme("server", "tls", 6379, "rediss://[user:password@]host:port/db"),
    "unix": _Scheme("server", "unix", 0, "unix:/absolute/path/to/redis.sock?db=0"),
    "redis+sentinel": _Scheme("sentinel", "tcp", 26379, f"redis+sentinel://[user:password@]{_LISTS}/SERVICE/db"),
    "rediss+sentinel": _Scheme("sentinel", "tls", 26379, f"rediss+sentinel://[user:password@]{_LISTS}/SERVICE/db"),
    "redis+cluster": _Scheme("cluster", "tcp", 6379, f"redis+cluster://[user:password@]{_LISTS}"),
    "rediss+cluster": _Scheme("cluster", "tls", 6379, f"rediss+cluster://[user:password@]{_LISTS}"),
}
SCHEMES: Final = frozenset(_SCHEMES)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_HOST_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:,]*))(?::([0-9]{0,5}))?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,100}")  # as Sentinel takes it in its own configuration


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise ValueError(text)
    return int(text)


def _yes(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


def _verification(text: str) -> str:
    return {"required": "required", "optional": "optional", "none": "none"}[text.lower()]


Readers = Mapping[str, Callable[[str], Any]]

_DATABASE: Final[Readers] = {"db": _number}
_EVERYWHERE: Final[Readers] = {"client_name": str}
_TLS: Final[Readers] = {
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": _yes,
}
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SENTINEL: Final[Readers] = {"sentinel_username": str, "sentinel_password": str}
_SENTINEL_TLS: Final[Readers] = {"sentinel_ssl": _yes}  # "no": only the store itself speaks TLS


def store_address(url: str) -> Address:
    """What a URL of `SCHEMES` says; raises `ConfigError` with what is wrong and how it is written."""
    name = url.partition(":")[0].lower()
    scheme = _SCHEMES.get(name, _SCHEMES["redis"])
    try:
        return _address(scheme, urlsplit(url))
    except ConfigError:
        raise
    except ValueError as error:
        problem = str(error) if isinstance(error, _Wrong) else "its host or port cannot be read"
    raise ConfigError(
        f"store: the URL cannot be used: {problem}. Write {scheme.form}"
        f"{' (rediss for TLS)' if scheme.transport == 'tcp' else ''} and percent-encode special characters of the "
        "password (/ is %2F, # is %23, @ is %40, ? is %3F)"
    )


def tls_fault(address: Address) -> str:
    """Why the files that an address names for TLS cannot be used, or nothing. Reads them."""
    named = {name: str(address.arguments.get(name, "")) for name in _TLS_FILES}
    for name, path in named.items():
        try:
            if path:
                Path(path).open("rb").close()
        except OSError as error:
            return f"{name}={path} cannot be read: {error.strerror}"
    authority, certificate, key = named.values()
    context = ssl.create_default_context()
    try:
        if authority:
            context.load_verify_locations(authority)
    except ssl.SSLError:
        return f"ssl_ca_certs={authority} holds no certificate in PEM"
    if key and not certificate:
        return "ssl_keyfile has no certificate to go with; name that with ssl_certfile"
    try:
        if certificate:
            context.load_cert_chain(certificate, key or None, password="")  # nobody is asked for one
    except (ssl.SSLError, ValueError):
        return "ssl_certfile and ssl_keyfile are no certificate and its key, in PEM and without a password"
    return ""


def redacted(url: str) -> str:
    """The URL without user, password and query, for logs and error texts; of what cannot be split, the scheme alone."""
    name, separator, rest = url.partition(":")
    if not separator or not _SCHEME.fullmatch(name):
        return "(no URL)"
    try:
        parts = urlsplit(url)
        hosts = ",".join(_shown(*host) for host in _hosts(parts.netloc))
    except ValueError:
        return f"{name}:…"
    if "@" in parts.path + parts.query or "#" in rest:  # a password with a raw / ? or # in it ended up behind the host
        return f"{name}:…"
    authority = "//" if rest.startswith("//") else ""
    return f"{name}:{authority}{'***@' if '@' in parts.netloc else ''}{hosts}{parts.path}"


def store_hosts(url: str) -> tuple[Host, ...]:
    """The hosts and ports that a store's URL names; none of one that names none, or cannot be read."""
    scheme = _SCHEMES.get(url.partition(":")[0].lower())
    if scheme is None:
        return ()
    try:
        hosts = _hosts(urlsplit(url).netloc)
    except ValueError:
        return ()
    return tuple((host, port or scheme.port) for host, port in hosts if host)


class _Wrong(ValueError):
    """What is wrong with a URL, in words that may be shown."""


def _address(scheme: _Scheme, parts: SplitResult) -> Address:
    if parts.fragment or "@" in parts.path:
        raise _Wrong("there is a # or / where none belongs")
    readers = {**_EVERYWHERE, **(_TLS if scheme.transport == "tls" else {})}
    if scheme.kind == "sentinel":
        return _of_sentinels(scheme, parts, readers)
    arguments: dict[str, Any] = _credentials(parts)
    if scheme.transport == "unix":
        arguments |= {"path": _socket_path(parts), **_options(parts.query, {**_DATABASE, **readers})}
        return Address("server", "unix", (), arguments)
    hosts = _checked_hosts(scheme, parts)
    if scheme.kind == "cluster":
        if parts.path.strip("/") not in ("", "0"):
            raise _Wrong("a cluster has no database but 0, so nothing follows its hosts")
        return Address("cluster", scheme.transport, hosts, arguments | _options(parts.query, readers))
    if len(hosts) > 1:
        raise _Wrong("it names several hosts, but only redis+sentinel:// and redis+cluster:// have more than one")
    [(host, port)] = hosts
    arguments |= {"host": host, "port": port, "db": _database(parts.path)}
    return Address("server", scheme.transport, hosts, arguments | _options(parts.query, {**_DATABASE, **readers}))


def _of_sentinels(scheme: _Scheme, parts: SplitResult, readers: Readers) -> Address:
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not _SERVICE.fullmatch(service):
        raise _Wrong("behind the sentinels stands no name by which they know the store, such as /mymaster")
    tls = scheme.transport == "tls"
    asking = {**_SENTINEL, **(_SENTINEL_TLS if tls else {})}
    told = _options(parts.query, {**_DATABASE, **readers, **asking})
    options = {name: value for name, value in told.items() if name not in asking}
    sentinel = {name.removeprefix("sentinel_"): told[name] for name in _SENTINEL if told.get(name)}
    if tls and told.get("sentinel_ssl", True):
        sentinel |= {"ssl": True, **{name: value for name, value in options.items() if name in _TLS}}
    arguments = {**_credentials(parts), "db": _database(database), **options}
    return Address("sentinel", scheme.transport, _checked_hosts(scheme, parts), arguments, service, sentinel)


def _credentials(parts: SplitResult) -> dict[str, str]:
    found = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in found.items() if value}


def _hosts(netloc: str) -> list[tuple[str, int | None]]:
    """Each host of a list, with its port; raises ValueError for what cannot be read."""
    found = []
    for text in netloc.rpartition("@")[2].split(","):
        match = _HOST_PORT.fullmatch(text)
        if match is None:
            raise ValueError(text)
        port = int(match[3]) if match[3] else None
        if port is not None and not 0 <= port < 65_536:
            raise ValueError(port)
        found.append(((match[1] or match[2]).lower(), port))
    return found


def _checked_hosts(scheme: _Scheme, parts: SplitResult) -> tuple[Host, ...]:
    found = []
    for name, port in _hosts(parts.netloc):
        if not name and scheme.kind != "server":
            raise _Wrong("a host is missing")
        host = name or "localhost"
        if not _HOST.fullmatch(host):
            raise _Wrong("its host is neither a name nor an address")
        found.append((host, scheme.port if port is None else port))
    return tuple(found)


def _shown(host: str, port: int | None) -> str:
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")


def _socket_path(parts: SplitResult) -> str:
    if parts.hostname or not parts.path.startswith("/"):
        raise _Wrong("write unix:/absolute/path/to/redis.sock, with ?db=N for another database than 0")
    return unquote(parts.path)


def _database(path: str) -> int:
    text = path.strip("/")
    try:
        return _number(text) if text else 0
    except ValueError:
        raise _Wrong("what comes last must be a database's number, such as /0") from None


def _options(query: str, allowed: Readers) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed:
            raise _Wrong(f"it has an option that is not known; there are {', '.join(allowed)}")
        try:
            arguments[name] = allowed[name](value)
        except (KeyError, ValueError):
            raise _Wrong(f"its option {name} has a value that cannot be used") from None
    return arguments


def snapshot_path(url: str, snapshot: str) -> Path | None:
    """The file that a memory store's URL or `snapshot` names; raises `ConfigError` for one that is no absolute path."""
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"store: {url!r} cannot be used: write memory:// or memory:///absolute/path/to/snapshot.json")
    named = unquote(parts.path) or snapshot
    return Path(named) if named else None
