"""Which session a request belongs to, by its head; whether its body must be read too; what its answer may mint.

A `Recogniser` serves one route. It looks for every preset's fields, parameters and paths at once. A message speaks one
protocol: when one has spoken in the head, neither body nor answer is searched for the ids of another.
"""

from __future__ import annotations

import re
from binascii import Error as BadBase64
from binascii import a2b_base64
from collections.abc import Sequence
from typing import Final, Protocol

from bgproxy.sessions.keys import Key, add_key, credentials_hash, is_id, unquoted
from bgproxy.sessions.learn import HeadRules, Learner
from bgproxy.sessions.preset import SESSION, Field, Path, Preset, Query

Marks = Sequence[tuple[bytes, bytes]]

_ENCODED: Final = re.compile(rb"=\?base64\?([A-Za-z0-9+/=]*)\?=")
_WEBSOCKET: Final = b"websocket"


class BodyReader(Protocol):
    """Reads a request's body for keys; what it finds stands in its `Sighting`."""

    def feed(self, data: bytes) -> bool:
        """Bytes of the body, framing removed. True: enough, the keys are final. Never raises."""

    def end(self) -> None:
        """The body is whole."""


class Sighting:
    """What a request says about its session. It may be shared between requests: it is for reading."""

    __slots__ = (
        "_ends_on_delete",
        "_gone",
        "_learning",
        "_method",
        "_rules",
        "body",
        "connection",
        "ignored",
        "keys",
        "minting",
        "own_cookie",
        "preset",
        "sticky_host",
        "unread",
    )

    def __init__(self, rules: Rules, method: bytes) -> None:
        self.keys: list[Key] = []  # the most specific first, no duplicates
        self.preset = ""  # the one that the first key is of; "" none
        self.body: BodyReader | None = None  # the body must be read before the keys are final
        self.unread = ""  # why a body that may hold a key was not read: compressed, oversized, not_json
        self.sticky_host = False  # the agents of this preset hold memory
        self.connection = False  # the session is the connection
        self.minting = False  # the answer may mint a key
        self.ignored = 0  # values that stood where a key stands, and were none
        self.own_cookie = b""  # the name of the cookie that the proxy is to set, where the client sent none
        self._rules = rules
        self._method = method
        self._learning = 0
        self._gone = 0
        self._ends_on_delete = False

    def response(self, status: int, marks: Marks) -> Learner | None:
        """What reads the answer for new keys; None where nothing can be learned. `marks`: its `response_fields`."""
        if not self.minting or not 200 <= status < 300:
            return None
        return self._rules.learner(self._learning, self.keys, marks)

    def ends(self, status: int) -> bool:
        """Whether this answer ends the session of the request."""
        if status == self._gone:
            return True
        return self._ends_on_delete and 200 <= status < 300

    def __repr__(self) -> str:
        return f"<Sighting {self.preset or 'of nothing'} {self.keys}>"


class Rules:
    """What all requests of a route have in common: the presets, sorted by where they look."""

    __slots__ = (
        "all",
        "fields",
        "head_rules",
        "hints",
        "paths",
        "presets",
        "protocols",
        "queries",
        "query_names",
        "upgrades",
    )

    def __init__(self, presets: Sequence[Preset]) -> None:
        self.presets = tuple(presets)
        self.protocols = sum(1 << n for n, preset in enumerate(presets) if preset.protocol)
        self.fields: dict[bytes, list[tuple[int, Field]]] = {}
        self.queries: dict[bytes, list[tuple[int, Query]]] = {}
        self.paths: list[tuple[int, tuple[Path, ...]]] = []
        self.upgrades = -1
        hints: set[bytes] = set()
        for n, preset in enumerate(presets):
            for field in preset.fields:
                self.fields.setdefault(field.name, []).append((n, field))
            for query in preset.queries:
                self.queries.setdefault(query.name, []).append((n, query))
            if preset.paths:
                self.paths.append((n, preset.paths))
                hints.update(preset.hints)
            if preset.connection and self.upgrades < 0:
                self.upgrades = n
        wanted = [re.escape(hint) for hint in sorted(hints)]
        names = b"|".join(re.escape(name) for name in sorted(self.queries))
        if names:
            wanted.append(rb"[?&](?:%b)=" % names)
        # One look says of most targets that there is nothing in them.
        self.hints = re.compile(b"|".join(wanted) or rb"(?!)")
        self.query_names = re.compile(rb"[?&](%b)=([^&#]*)" % (names or rb"(?!)"))
        self.head_rules = [HeadRules(preset) for preset in presets]
        self.all = (1 << len(self.presets)) - 1

    def learner(self, learning: int, known: list[Key], marks: Marks) -> Learner | None:
        """A learner by the rules of the presets in `learning`; None where none of them has a rule for this answer."""
        learner = Learner(known)
        for n, rules in enumerate(self.head_rules):
            if learning >> n & 1:
                rules.read(marks, learner)
        learner.done = True
        return learner


class Recogniser:
    """Finds the keys of one route's requests. `inspect_bytes`: so much of a body is read for them at most."""

    __slots__ = ("_blanks", "_rules", "inspect_bytes", "request_fields", "response_fields")

    def __init__(self, presets: Sequence[Preset], *, inspect_bytes: int = 65_536) -> None:
        rules = Rules(presets)
        self._rules = rules
        self.inspect_bytes = inspect_bytes
        self.request_fields = frozenset(rules.fields) | {
            need for listed in rules.fields.values() for _, field in listed for need, _ in field.needs
        }
        self.response_fields = frozenset(name for head in rules.head_rules for name in head.names)
        self._blanks: dict[bytes, Sighting] = {}

    def request(self, method: bytes, target: bytes, marks: Marks, has_body: bool, upgrade: bytes) -> Sighting:
        """What a request says about its session.

        `marks`: those of its fields that are among `request_fields`, their names in lower case, in order. `upgrade`:
        what it asks to switch to, in lower case.
        """
        rules = self._rules
        hinted = rules.hints.search(target) is not None
        if not marks and not hinted and not has_body and not upgrade:
            blank = self._blanks.get(method)
            return blank if blank is not None else self._blank(method)
        sighting = Sighting(rules, method)
        spoken = 0
        for name, value in marks:
            for n, field in rules.fields.get(name, ()):
                spoken |= self._field(sighting, n, field, value, marks)
        if hinted:
            spoken |= self._target(sighting, method, target)
        return self._finish(sighting, spoken, upgrade)

    def _blank(self, method: bytes) -> Sighting:
        """What a request without any mark says. The methods that the parser lets in are few, so few are kept."""
        blank = self._finish(Sighting(self._rules, method), 0, b"")
        self._blanks[method] = blank
        return blank

    def _finish(self, sighting: Sighting, spoken: int, upgrade: bytes) -> Sighting:
        rules = self._rules
        if upgrade == _WEBSOCKET and rules.upgrades >= 0:
            sighting.connection = True
            sighting.sticky_host = True
            if not sighting.preset:
                sighting.preset = rules.presets[rules.upgrades].name
        settled = bool(sighting.keys) and sighting.keys[0].rank <= SESSION
        spoken &= rules.protocols
        learning = rules.all & ~rules.protocols | spoken if spoken else rules.all
        sighting._learning = 0 if settled else learning
        sighting.minting = not settled
        for preset in rules.presets:
            if preset.own_cookie and not sighting.keys:
                sighting.own_cookie = preset.own_cookie
        return sighting

    def _field(self, sighting: Sighting, n: int, field: Field, raw: bytes, marks: Marks) -> int:
        """The key in a field, into the sighting; the bit of the preset that has spoken."""
        value = raw.strip(b" \t")
        if field.form != "whole":
            if field.form == "credentials":
                value = credentials_hash(value).hex().encode() if value else b""
            elif field.form == "encoded":
                value = _decoded(value)
            else:
                value = cookie_value(value, field.cookie)
                if not value:
                    return 0
        if field.needs and not _needs_met(field, marks):
            return 0
        return self._key(sighting, n, field.space, field.rank, value, b"DELETE" if not field.needs else b"")

    def _key(self, sighting: Sighting, n: int, space: str, rank: int, value: bytes, ending: bytes) -> int:
        if not is_id(value):
            sighting.ignored += 1
            return 0
        keys = sighting.keys
        preset = self._rules.presets[n]
        if not keys or rank < keys[0].rank:
            sighting.preset = preset.name
            sighting.sticky_host = preset.sticky_host
            sighting._gone = preset.gone
            sighting._ends_on_delete = preset.delete_ends and sighting._method == ending
        if not add_key(keys, Key(space, value, rank)):
            return 0
        return 1 << n

    def _target(self, sighting: Sighting, method: bytes, target: bytes) -> int:
        """The keys in the path and the query, into the sighting; the bits of the presets that have spoken."""
        path, _, query = target.partition(b"?")
        spoken = 0
        for n, patterns in self._rules.paths:
            for rule in patterns:
                match = rule.pattern.search(path)
                if match is None:
                    continue
                if match.lastindex:
                    value = b" ".join(unquoted(part) for part in match.groups())
                    spoken |= self._key(sighting, n, rule.space, rule.rank, value, b"")
                    if rule.ends and match.end() == len(path) and method == b"DELETE":
                        sighting._ends_on_delete = True
                break
        if query:
            for name, raw in self._rules.query_names.findall(target, len(path)):
                for n, parameter in self._rules.queries[name]:
                    if parameter.path is None or parameter.path.search(path) is not None:
                        spoken |= self._key(sighting, n, parameter.space, parameter.rank, unquoted(raw), b"")
        return spoken


def cookie_value(value: bytes, name: bytes) -> bytes:
    """The value of a cookie in a Cookie field, or the first pair of a Set-Cookie field; b"" where it is not there."""
    for pair in value.split(b";", 64):
        found, _, content = pair.strip(b" \t").partition(b"=")
        if found == name:
            return content.strip(b'"')
    return b""


def _decoded(value: bytes) -> bytes:
    match = _ENCODED.fullmatch(value)
    if match is None:
        return value
    try:
        return a2b_base64(match[1])
    except BadBase64:
        return b""


def _needs_met(field: Field, marks: Marks) -> bool:
    return all(
        any(found == name and pattern.fullmatch(value.strip(b" \t")) is not None for found, value in marks)
        for name, pattern in field.needs
    )
