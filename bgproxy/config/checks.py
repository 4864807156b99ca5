"""What a configuration of the right types may still not say: each rule is one generator of (key, what is wrong).

Rules look at the document only; nothing is resolved, opened or bound here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from bgproxy.admin.options import is_private
from bgproxy.config import sessions
from bgproxy.config.addresses import parse_address
from bgproxy.config.document import ROOT, Document
from bgproxy.config.keys import Path, leaves
from bgproxy.config.plan import plan_from
from bgproxy.config.wording import mask_url, near, number_fault
from bgproxy.errors import BadInput, ConfigError
from bgproxy.rules.release import parse_label, parse_upstream
from bgproxy.store.address import SCHEMES, redacted, store_address, store_hosts, tls_fault
from bgproxy.store.base import StoreOptions, open_store
from bgproxy.store.nodes import BEAT_INTERVAL

Found = Iterator[tuple[Path, str]]

_COLOR = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")  # as the rules of a fleet have it
_FLEET = _ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?")
_PATH = re.compile(r"/[!-~]*")
_TOKEN_CHARACTERS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2

_STORES = "memory://, redis://127.0.0.1:6379/0, redis+sentinel://, redis+cluster://, rediss… (TLS), unix:/redis.sock"

_ABOVE_ZERO: dict[Path, float] = {
    ("workers",): 1,
    ("limits", "max_head_bytes"): 256,
    ("limits", "max_fields"): 1,
    ("limits", "max_target_bytes"): 1,
    ("limits", "max_connections"): 1,
    ("limits", "max_pipelined"): 1,
    ("limits", "high_water_bytes"): 1,
    ("pool", "max_connections"): 1,
    ("pool", "max_opening"): 1,
    ("pool", "connect_attempts"): 1,
    ("pool", "dns_interval"): 0.1,
    ("health", "interval"): 0.05,
    ("health", "timeout"): 0.01,
    ("health", "rise"): 1,
    ("health", "fall"): 1,
    ("store", "connect_timeout"): 0.01,
    ("store", "command_timeout"): 0.01,
    ("store", "read_interval"): 0.05,
    ("store", "audit_keep"): 1,
    ("store", "replica_timeout"): 0.001,
    ("store", "node_ttl"): 2 * BEAT_INTERVAL,
    ("store", "node_forget_after"): 1.0,
    ("flip", "hold_timeout"): 0.05,
    ("hold", "max_requests"): 1,
    ("hold", "max_bytes"): 1,
    ("hold", "max_age"): 0.05,
    ("admin", "max_body_bytes"): 256,
    ("admin", "failure_rate"): 1,
    ("recording", "max_bytes"): 65_536,
    ("recording", "max_sessions"): 1,
    ("recording", "max_age"): 1.0,
    ("recording", "max_turns"): 1,
    ("sessions", "pin_ttl"): sessions.LEAST_TTL,
    ("sessions", "inspect_bytes"): 1,
    ("sessions", "cache_size"): 1,
    ("sessions", "refresh_interval"): 0.05,
}
"""The least of each number that may not be 0: with it nothing would work, or a loop would never rest."""


_MOST: dict[Path, float] = {("workers",): 1024}
"""Of each number that would cost far more than is meant: a worker is a process of some 60 MB."""


def faults(document: Document) -> list[tuple[Path, str]]:
    """Everything that is wrong with the document, by key."""
    rules: tuple[Callable[[Document], Found], ...] = (
        _numbers,
        _names,
        _listen,
        _colors,
        _routes,
        _store,
        _data_path,
        _holds,
        _rollout,
        sessions.faults,
    )
    return [found for rule in rules for found in rule(document)]


def colors(document: Document) -> tuple[str, ...]:
    """The fleet's colors: the configured ones; blue and green both, where no other name is given."""
    names = tuple(document.colors)
    usual = ("blue", "green")
    return names + tuple(color for color in usual if color not in names) if set(names) <= set(usual) else names


def has_upstreams(document: Document, color: str) -> bool:
    """Whether the configuration says where a color's release runs, for all routes or for any."""
    section = document.colors.get(color)
    own = any(route.upstreams.get(color) for route in document.route.values())
    return own or bool(section and section.upstreams)


def active(document: Document) -> str:
    """The color that a fleet starts with: as said, else the first that has upstreams, else the first."""
    known = colors(document)
    return document.active or next((color for color in known if has_upstreams(document, color)), known[0])


def _numbers(document: Document) -> Found:
    tree: dict[str, Any] = document.model_dump()
    for path, leaf, value in leaves(ROOT, tree):
        if not leaf.is_number or value is None:  # None: a route leaves it to [sessions]
            continue
        place = ("sessions", path[-1]) if path[0] == "route" else path
        if fault := number_fault(path, leaf, value, _ABOVE_ZERO.get(place, 0)):
            yield path, fault
        elif value > _MOST.get(path, value):
            yield path, f"{value} is too large; the most is {_MOST[path]:g}"


def _names(document: Document) -> Found:
    if not _FLEET.fullmatch(document.fleet):
        yield ("fleet",), f'"{document.fleet}" cannot be used; write 1 to 63 letters, digits, ".", "_" or "-"'
    for color in document.colors:
        if not _COLOR.fullmatch(color):
            yield ("colors", color), 'this name cannot be used; write 1 to 32 of a-z, 0-9, "-" and "_", such as blue'
    for name in document.route:
        if not _ROUTE.fullmatch(name):
            yield ("route", name), 'this name cannot be used; write 1 to 63 letters, digits, ".", "_" or "-"'


def _listen(document: Document) -> Found:
    if not document.listen:
        yield ("listen",), 'there is no address; write listen = "127.0.0.1:8080"'
    taken: dict[str, str] = {}
    places = [("listen", text) for text in document.listen] + [("admin.listen", document.admin.listen)]
    places += [("preview.listen", document.preview.listen)] if document.preview.listen else []
    for key, text in places:
        try:
            address = parse_address(text)
        except ValueError as error:
            yield tuple(key.split(".")), f'"{text}": {error}'
            continue
        if str(address) in taken and (address.path or address.port):  # port 0 is another one each time
            yield tuple(key.split(".")), f'"{text}" is taken by {taken[str(address)]} already; give each its own port'
        taken[str(address)] = key


def open_preview(document: Document, tokens: tuple[bytes, ...]) -> list[tuple[Path, str]]:
    """What is wrong with the preview's address, where others reach it and nobody could be told from anybody."""
    try:
        is_open = bool(document.preview.listen) and not is_private(document.preview.listen)
    except ConfigError:
        return []  # `_listen` has said so
    if not is_open or tokens:
        return []
    text = (
        f'"{document.preview.listen}" can be reached from other machines, but there is no token for it: add a '
        '[[token]] with role = "preview", or listen on 127.0.0.1 or unix:/path'
    )
    return [(("preview", "listen"), text)]


def _colors(document: Document) -> Found:
    known = colors(document)
    if document.preview.color and document.preview.color not in known:
        fault = f'"{document.preview.color}" is no color of this fleet; {near(document.preview.color, list(known))}'
        yield ("preview", "color"), fault
    if document.active and document.active not in known:
        yield ("active",), f'"{document.active}" is no color of this fleet; {near(document.active, list(known))}'
    for color, section in document.colors.items():
        try:
            parse_label(section.release)
        except BadInput as error:
            yield ("colors", color, "release"), error.detail
        yield from _upstreams(("colors", color, "upstreams"), section.upstreams)


def _upstreams(path: Path, urls: tuple[str, ...]) -> Found:
    for url in urls:
        try:
            parse_upstream(url)
        except BadInput as error:
            yield path, mask_url(error.detail)


def _routes(document: Document) -> Found:
    known = colors(document)
    seen: dict[tuple[str, str], str] = {}
    for name, route in document.route.items():
        key = ("route", name)
        if not _PATH.fullmatch(route.path) or "?" in route.path or "#" in route.path:
            yield (
                (*key, "path"),
                f'"{route.path}" is no path prefix; write one that begins with "/", such as "/v1/chat"',
            )
        if route.host and not _HOST.fullmatch(route.host):
            yield (*key, "host"), f'"{route.host}" is no host name; write it without scheme, port or "*"'
        place = (route.host.lower().rstrip("."), "/" + route.path.strip("/"))
        if place in seen:
            yield key, f"it takes the same host and path as route {seen[place]}; remove one or change its path"
        seen[place] = name
        for color, urls in route.upstreams.items():
            if color not in known:
                yield (*key, "upstreams", color), f"this is no color of this fleet; {near(color, list(known))}"
            yield from _upstreams((*key, "upstreams", color), urls)
        yield from _unserved(document, name)


def _unserved(document: Document, name: str) -> Found:
    """A color with upstreams for some routes only would answer the others with nothing but 503."""
    for color in colors(document):
        section = document.colors.get(color)
        common = bool(section and section.upstreams)
        if has_upstreams(document, color) and not common and not document.route[name].upstreams.get(color):
            yield (
                ("route", name, "upstreams"),
                f'{color} serves other routes but has no upstreams for this one; add {color} = ["http://…"] here '
                f"or upstreams to [colors.{color}]",
            )


def _store(document: Document) -> Found:
    url, shared = redacted(document.store.url), not document.store.url.startswith("memory:")
    if fault := _store_url(document.store):
        yield ("store", "url"), fault
        return
    if document.workers > 1 and not shared:
        yield (
            ("workers",),
            f"{document.workers} workers cannot share the store {url}, each would have a pointer of its own; "
            "use --store redis://127.0.0.1:6379/0, or --workers 1",
        )
    if document.store.node_forget_after < document.store.node_ttl:
        yield (
            ("store", "node_forget_after"),
            f"{document.store.node_forget_after:g} is below node_ttl = {document.store.node_ttl:g}, within which a "
            "node is live; make it an hour (3600), or longer than any pause after which a node may come back",
        )
    if 0 < document.store.fence_after <= 2 * BEAT_INTERVAL:
        yield (
            ("store", "fence_after"),
            f"{document.store.fence_after:g} is too short: a node beats every {BEAT_INTERVAL:g} s, and one late beat "
            f"would close it; make it more than {2 * BEAT_INTERVAL:g}, such as 10, or 0: off",
        )
    if document.store.min_replicas and not shared:
        yield ("store", "min_replicas"), f"the store {url} has no replicas, only Redis has; remove it, or name a Redis"
    if document.store.snapshot and shared:
        yield ("store", "snapshot"), "only the memory store has a snapshot file; remove it, Redis keeps its own"
    first = active(document)
    kept = shared or document.store.snapshot or url.removeprefix("memory://")
    if not kept and not has_upstreams(document, first):
        flag = f"--{first} " if first in ("blue", "green") else f"--upstream {first}="
        yield (
            ("colors", first, "upstreams"),
            f"the active color {first} has no upstreams, so nothing could be answered; "
            f"write for example {flag}http://127.0.0.1:9101",
        )


def _store_url(options: StoreOptions) -> str | None:
    scheme = options.url.partition(":")[0].lower()
    try:
        if scheme == "memory":
            open_store(options)  # it opens nothing before its own `open`
        elif scheme not in SCHEMES:
            return f"{redacted(options.url)} names no store that there is; use one of {_STORES}"
        else:
            if fault := tls_fault(store_address(options.url)):
                return f"the URL cannot be used: {fault}"
            hosts = store_hosts(options.url)
            if scheme != "unix" and (not hosts or any(port == 0 for _, port in hosts)):
                return f"{redacted(options.url)} has no host or no usable port; write for example {scheme}://127.0.0.1:6379"
    except ConfigError as error:
        return str(error).removeprefix("store: ")
    return None


def _data_path(document: Document) -> Found:
    for network in document.forwarding.trusted_proxies:
        if network != "unix" and not _is_network(network):
            yield (
                ("forwarding", "trusted_proxies"),
                f'"{network}" is no network; write for example "10.0.0.0/8", "::1/128" or "unix"',
            )
    if not _TOKEN_CHARACTERS.fullmatch(document.forwarding.via):
        yield (
            ("forwarding", "via"),
            f'"{document.forwarding.via}" is no pseudonym for Via; write one word, such as "bgproxy"',
        )
    if document.health.path and not _PATH.fullmatch(document.health.path):
        yield ("health", "path"), f'"{document.health.path}" does not begin with "/"; write for example "/healthz"'


def _holds(document: Document) -> Found:
    timeout, age = document.flip.hold_timeout, document.hold.max_age
    if age < timeout:
        yield (
            ("hold", "max_age"),
            f"{age:g} is less than flip.hold_timeout ({timeout:g}): requests would be refused while a flip may still "
            "be made; write at least as much",
        )


def _rollout(document: Document) -> Found:
    try:
        plan_from(document.release)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield ("release",), line
    for program in document.rollout.commands:
        if not program.startswith("/") or ".." in program.split("/") or program == "/":
            yield (
                ("rollout", "commands"),
                f'"{program}" is no program; write its absolute path, or a directory with a "/" at its end',
            )
    for url in document.rollout.webhooks:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query
        except ValueError:
            good = False
        if not good or parts.username or parts.fragment:
            yield ("rollout", "webhooks"), f'{mask_url(url)} is no address; write for example "https://ci.example.com/"'


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
