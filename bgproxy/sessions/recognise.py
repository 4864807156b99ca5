"""Which session a request belongs to, by its head; and whether its body must be read to know.

A `Recogniser` serves one route. It looks for every preset's fields, parameters and paths at once. A message speaks one
protocol: when one has spoken in the head, neither body nor answer is searched for the ids of another.
"""

from __future__ import annotations

import re
from binascii import Error as BadBase64
from binascii import a2b_base64
from collections.abc import Sequence
from typing import Final

from bgproxy.sessions.keys import Key, credentials_hash, is_id, joined_id, unquoted
from bgproxy.sessions.learn import is_json
from bgproxy.sessions.preset import Field, Preset
from bgproxy.sessions.sighting import BodyReader, Sighting
from bgproxy.sessions.tables import ACTION, FieldRule, PathRule, Speaker, Tables

Marks = Sequence[tuple[bytes, bytes]]

_ENCODED: Final = re.compile(rb"=\?base64\?([A-Za-z0-9+/=]*)\?=")


class Recogniser:
    """Finds the keys of one route's requests. `inspect_bytes`: so much of a body is read for them at most."""

    __slots__ = ("_acting", "_limit", "_reading", "_tables", "request_fields", "response_fields", "session_fields")

    def __init__(self, presets: Sequence[Preset], *, inspect_bytes: int = 65_536) -> None:
        self._tables = Tables(presets, inspect_bytes)
        self._limit = inspect_bytes
        self._reading, self._acting = self._blank(0), self._blank(ACTION)
        self.session_fields = frozenset(self._tables.fields)  # those of a request that may name a session themselves
        self.request_fields = self._tables.request_fields()
        self.response_fields = self._tables.response_fields()

    def request(self, method: bytes, target: bytes, marks: Marks, has_body: bool, upgrade: bytes) -> Sighting:
        """What a request says about its session.

        `marks`: those of its fields that are among `request_fields`, their names in lower case, their values as they
        came, in order. `upgrade`: what it asks to switch to, in lower case.
        """
        tables = self._tables
        # There may be something in the target if it has a `?`, or one of the words that are in all paths that matter.
        hinted = 63 in target or tables.hinted.find(target) >= 0
        safe = method == b"GET" or method == b"HEAD" or method == b"OPTIONS"
        if not marks and not hinted and not has_body and not upgrade:
            return self._reading if safe else self._acting
        sighting = Sighting(tables)
        if not safe:
            sighting.places = ACTION
        fields = tables.fields
        for name, value in marks:
            rules = fields.get(name)
            if rules is not None:
                self._fields(sighting, method, rules, value, marks)
        if hinted:
            self._target(sighting, method, target)
        if upgrade or tables.own_cookie:
            self._others(sighting, upgrade)
        if has_body and tables.best is not None and not (sighting.keys and sighting.keys[0].rank <= tables.best):
            self._body(sighting, marks)
        sighting.settle()
        if method == b"GET" and sighting.preset in tables.listening:
            sighting.listens = True
        return sighting

    def _blank(self, places: int) -> Sighting:
        """What a request says that says nothing."""
        sighting = Sighting(self._tables)
        sighting.places = places
        self._others(sighting, b"")
        sighting.settle()
        return sighting

    def _fields(self, sighting: Sighting, method: bytes, rules: list[FieldRule], raw: bytes, marks: Marks) -> None:
        """The keys in a field, into the sighting."""
        for rule in rules:
            value = raw.strip(b" \t")
            if not rule.plain:
                found = _within(rule.field, value, marks)
                if found is None:
                    continue
                value = found
            deleted = method == b"DELETE" and rule.speaker.delete_ends
            self._take(sighting, rule.speaker, Key(rule.space, value, rule.rank), deleted)

    def _target(self, sighting: Sighting, method: bytes, target: bytes) -> None:
        """The keys in the path and the query, into the sighting, and where the path leads."""
        tables = self._tables
        path, _, query = target.partition(b"?")
        found = tables.hints.search(path)
        met: list[bytes] = []  # a path may have one of them a thousand times, which says no more than once
        while found is not None:
            hint = found[0]
            if hint not in met:
                met.append(hint)
                for rule in tables.paths[hint]:
                    if path.find(rule.hint) >= 0:
                        self._path(sighting, method, path, rule)
            found = tables.hints.search(path, found.start() + 1)
        if query:
            for name, raw in tables.query_names.findall(target, len(path)):
                for speaker, parameter in tables.queries[name]:
                    if parameter.path is None or parameter.path.search(path) is not None:
                        self._take(sighting, speaker, Key(parameter.space, unquoted(raw), parameter.rank), False)

    def _path(self, sighting: Sighting, method: bytes, path: bytes, rule: PathRule) -> None:
        match = rule.pattern.search(path)
        if match is None:
            return
        sighting.places |= rule.place
        if not rule.parts:
            return
        deleted = rule.ends and method == b"DELETE" and match.end() == len(path)
        if rule.parts == 1:
            self._take(sighting, rule.speaker, Key(rule.space, unquoted(match[1]), rule.rank), deleted)
        elif (value := joined_id([unquoted(piece) for piece in match.groups()])) and not sighting.knows(rule.space):
            sighting.take(rule.speaker, Key(rule.space, value, rule.rank), deleted)
        else:
            sighting.ignored += 1

    def _take(self, sighting: Sighting, speaker: Speaker, key: Key, deleted: bool) -> None:
        """A key, unless it can be none. Of several of one kind the first is the one that counts."""
        if is_id(key.value) and not sighting.knows(key.space):
            sighting.take(speaker, key, deleted)
        else:
            sighting.ignored += 1

    def _others(self, sighting: Sighting, upgrade: bytes) -> None:
        """What needs no key: a connection that is a session, and a cookie of our own."""
        tables = self._tables
        preset = tables.connection
        if preset is not None and upgrade == b"websocket":
            sighting.connection = True
            if not sighting.keys:
                sighting.preset = preset.name
                sighting.sticky_host = preset.sticky_host
        if not sighting.keys:
            sighting.own_cookie = tables.own_cookie

    def _body(self, sighting: Sighting, marks: Marks) -> None:
        """Let the body be read, if it may hold a more specific key than the head does."""
        plan = sighting.case().plan
        if plan is not None and not (sighting.keys and sighting.keys[0].rank <= plan.best):
            kind = b""
            for name, value in marks:
                if name == b"content-encoding" and value.strip(b" \t").lower() not in (b"", b"identity"):
                    sighting.unread = "compressed"
                elif name == b"content-type":
                    kind = value
            if not sighting.unread and not is_json(kind):
                sighting.unread = "not_json"
            if not sighting.unread:
                sighting.body = BodyReader(sighting, plan, self._limit)


def _within(field: Field, value: bytes, marks: Marks) -> bytes | None:
    """The id within a field's value; None where there is none, b"" where it is wrong."""
    if field.needs and not _needs_met(field, marks):
        return None
    if field.cookie is not None:
        match = field.cookie.search(value)
        return match[1] if match is not None else None
    if field.form == "credentials":
        return credentials_hash(value).hex().encode() if value else None
    encoded = _ENCODED.fullmatch(value)
    if encoded is None:
        return value
    try:
        return a2b_base64(encoded[1])
    except BadBase64:
        return b""


def _needs_met(field: Field, marks: Marks) -> bool:
    """Whether the fields are there without which this one means nothing."""
    return all(
        any(found == name and pattern.fullmatch(value.strip(b" \t")) is not None for found, value in marks)
        for name, pattern in field.needs
    )
