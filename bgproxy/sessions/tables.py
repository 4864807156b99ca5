"""The presets of a route, sorted by where they look: what all its requests have in common.

Which rules hold depends on which protocols have spoken and on where the path leads; each such case is worked out once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from bgproxy.sessions.learn import AnswerRules
from bgproxy.sessions.plan import Plan
from bgproxy.sessions.preset import Field, Group, Path, Preset, Query
from bgproxy.sessions.words import Words

ACTION: Final = 1
"""Among the bits of places: the request may have made something (RFC 9110 §9.2.1)."""


class Speaker:
    """What of a preset matters to a request that it has found a key in."""

    __slots__ = ("bit", "delete_ends", "ending", "gone", "name", "sticky_host", "unknown")

    def __init__(self, number: int, preset: Preset) -> None:
        self.bit = 1 << number
        self.name = preset.name
        self.sticky_host = preset.sticky_host
        self.gone = preset.gone
        self.delete_ends = preset.delete_ends
        self.ending: str = preset.ending
        self.unknown = dict(preset.unknown)


class FieldRule:
    """A field of a request, and who speaks by it."""

    __slots__ = ("field", "plain", "rank", "space", "speaker")

    def __init__(self, field: Field, speaker: Speaker) -> None:
        self.field = field
        self.space = field.space
        self.rank = field.rank
        self.plain = field.form == "whole" and not field.needs  # the whole value is the id
        self.speaker = speaker


class PathRule:
    """A pattern of paths, and who speaks by it."""

    __slots__ = ("ends", "hint", "parts", "pattern", "place", "rank", "space", "speaker")

    def __init__(self, path: Path, place: int, speaker: Speaker) -> None:
        self.pattern = path.pattern
        self.hint = path.hint
        self.parts = path.pattern.groups  # of the id; 0: there is none here
        self.place = place  # its bit
        self.space = path.space
        self.rank = path.rank
        self.ends = path.ends
        self.speaker = speaker


class Case:
    """What is asked of a request's body and of its answer, where these protocols have a say and the path leads there.

    `plan`: what the body is read for, None for nothing.
    """

    __slots__ = ("answer", "plan")

    def __init__(self, plan: Plan | None, answer: AnswerRules) -> None:
        self.plan = plan
        self.answer = answer


class Tables:
    """Presets are numbered by their order; a set of them is an integer, one bit for each."""

    __slots__ = (
        "_cases",
        "_limit",
        "all",
        "best",
        "connection",
        "fields",
        "hinted",
        "hints",
        "listening",
        "own_cookie",
        "paths",
        "places",
        "presets",
        "protocols",
        "queries",
        "query_names",
        "speakers",
    )

    def __init__(self, presets: Sequence[Preset], limit: int) -> None:
        """`limit`: bytes of a body that are read, of a request's as of an answer's."""
        self.presets = tuple(presets)
        self.all = (1 << len(self.presets)) - 1
        self.protocols = 0
        self.connection: Preset | None = None  # for which a WebSocket is a session
        self.own_cookie = b""
        self.listening = frozenset(preset.name for preset in self.presets if preset.get_listens)
        self.speakers = [Speaker(number, preset) for number, preset in enumerate(self.presets)]
        self.fields: dict[bytes, list[FieldRule]] = {}
        self.queries: dict[bytes, list[tuple[Speaker, Query]]] = {}
        self.places: dict[tuple[int, str], int] = {}  # by preset, each with its bit
        # The most specific that a key in a body can be; None where there are none.
        self.best = min((m.rank for p in self.presets for group in p.groups for m in group.members), default=None)
        self._limit = limit
        self._cases: dict[tuple[int, int], Case] = {}
        for number, preset in enumerate(self.presets):
            self._add(number, preset)
        short = _shortest([rule.hint for preset in presets for rule in preset.paths])
        self.paths = {hint: self._rules_with(hint) for hint in short}  # by what is in each path that matches
        # One look says of most targets that there is nothing in them, and of the others, which rules to ask.
        rest = b"|".join(re.escape(hint[1:]) for hint in short)
        self.hints = re.compile(rb"/(?:%b)" % rest if rest else rb"(?!)")
        self.hinted = Words(short)
        names = b"|".join(re.escape(name) for name in sorted(self.queries))
        self.query_names = re.compile(rb"[?&](%b)=([^&#]*)" % (names or rb"(?!)"))
        for places in (0, *self.places.values()):  # the usual cases, which no request is to wait for
            self.case(self.all, places)
            self.case(self.all, places | ACTION)

    def _add(self, number: int, preset: Preset) -> None:
        if preset.protocol:
            self.protocols |= 1 << number
        if preset.connection and self.connection is None:
            self.connection = preset
        self.own_cookie = self.own_cookie or preset.own_cookie
        for field in preset.fields:
            self.fields.setdefault(field.name, []).append(FieldRule(field, self.speakers[number]))
        for query in preset.queries:
            self.queries.setdefault(query.name, []).append((self.speakers[number], query))
        for path in preset.paths:
            if path.place:
                self.places.setdefault((number, path.place), 2 << len(self.places))

    def _rules_with(self, hint: bytes) -> list[PathRule]:
        return [
            PathRule(rule, self.places.get((number, rule.place), 0), self.speakers[number])
            for number, preset in enumerate(self.presets)
            for rule in preset.paths
            if hint in rule.hint
        ]

    def case(self, asked: int, places: int) -> Case:
        """What holds if only the presets in `asked` have a say, and the path leads to these places."""
        key = (asked, places)
        case = self._cases.get(key)
        if case is None:
            chosen = [(number, preset) for number, preset in enumerate(self.presets) if asked >> number & 1]
            case = self._cases[key] = Case(self._body(chosen, places), self._answer(chosen, places))
        return case

    def _body(self, chosen: Sequence[tuple[int, Preset]], places: int) -> Plan | None:
        groups = [
            (number, preset.protocol, group)
            for number, preset in chosen
            for group in self._holding(number, preset.groups, places)
        ]
        return Plan(groups) if groups else None

    def _answer(self, chosen: Sequence[tuple[int, Preset]], places: int) -> AnswerRules:
        """What a protocol mints anywhere, it mints by a request that makes something."""
        groups = [
            (number, preset.protocol, group)
            for number, preset in chosen
            for group in self._holding(number, preset.learn_groups, places)
            if group.place or places & ACTION or not preset.protocol
        ]
        return AnswerRules([preset for _, preset in chosen], groups, self._limit)

    def _holding(self, number: int, groups: Sequence[Group], places: int) -> list[Group]:
        """Those groups of a preset that hold where the path has led."""
        return [group for group in groups if not group.place or places & self.places.get((number, group.place), 0)]

    def request_fields(self) -> frozenset[bytes]:
        """The fields of a request that must be known, their names in lower case."""
        names = set(self.fields)
        names.update(need for rules in self.fields.values() for rule in rules for need, _ in rule.field.needs)
        if self.best is not None:
            names.update((b"content-type", b"content-encoding"))
        return frozenset(names)

    def response_fields(self) -> frozenset[bytes]:
        """The fields of an answer that must be known."""
        everywhere = (2 << len(self.places)) - 1
        return self.case(self.all, everywhere).answer.fields


def _shortest(hints: Sequence[bytes]) -> list[bytes]:
    """Those of the hints that have none of the others in them."""
    return sorted({hint for hint in hints if not any(other != hint and other in hint for other in hints)})
