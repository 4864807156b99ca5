"""What an agent's answer mints: the keys by which the next request will name this session.

An answer is tapped, never held: bytes come in, keys come out, and what is kept of the bytes is bounded. An answer
speaks one protocol: once it has named the session, it is read no further.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from bgproxy.sessions.events import Event, EventReader
from bgproxy.sessions.keys import Key, add_key, is_id, joined_id, unquoted
from bgproxy.sessions.plan import NO_KEYS, Plan, Reading
from bgproxy.sessions.preset import SESSION, EventLink, Field, Group, Path, Preset
from bgproxy.sessions.words import Words

Marks = Sequence[tuple[bytes, bytes]]

_JSON_TYPE: Final = re.compile(
    rb"[ \t]*+(?:application/(?:[\w.+-]+\+)?json|text/json|application/x-ndjson)[ \t]*+(?:;.*+)?", re.IGNORECASE
)
_EVENTS_TYPE: Final = re.compile(rb"[ \t]*+text/event-stream[ \t]*+(?:;.*+)?", re.IGNORECASE)
_PATH: Final = re.compile(rb"\A(?:[A-Za-z][A-Za-z0-9+.-]*+:)?+//[^/?#]*+|[?#].*+", re.DOTALL)  # what is not of it
_REMEMBERED: Final = 16  # keys of an endless answer, so that they are told once
_NONE: Final[list[Key]] = []
_LOCATIONS: Final = (b"location", b"content-location")


def is_json(kind: bytes) -> bool:
    """Whether a Content-Type is of JSON."""
    return kind == b"application/json" or _JSON_TYPE.fullmatch(kind) is not None


class AnswerRules:
    """Where the ids of some presets stand in an answer."""

    __slots__ = (
        "_event_ids",
        "_fields",
        "_limit",
        "_links",
        "_locations",
        "_plan",
        "_words",
        "endless",
        "mint",
        "streams",
    )

    def __init__(self, presets: Sequence[Preset], groups: Sequence[tuple[int, bool, Group]], limit: int) -> None:
        """`groups`: those of the presets' `learn_groups` that hold. `limit`: bytes of a body, or of an event."""
        self._fields: dict[bytes, list[Field]] = {}
        self._locations: list[Path] = []
        self._links: list[EventLink] = []
        self._event_ids: list[tuple[str, int]] = []
        for preset in presets:
            for field in preset.learn_fields:
                self._fields.setdefault(field.name, []).append(field)
            self._locations += preset.learn_locations
            self._links += preset.learn_links
            self._event_ids += preset.learn_event_ids
        self.streams = frozenset([link.space for link in self._links])  # of keys whose session is the stream itself
        self._plan = Plan(groups) if groups else None
        self._limit = limit
        self._words = self._event_words()
        self.mint = bool(self._fields or self._locations or self._words)  # an answer may have an id at all
        # Places that an operator named, and events' own ids, may be new in each event.
        self.endless = bool(self._event_ids) or any(not protocol for _, protocol, _ in groups)

    @property
    def fields(self) -> frozenset[bytes]:
        """The fields of an answer that must be known."""
        names = set(self._fields)
        if self._locations:
            names.update(_LOCATIONS)
        if self._words:
            names.update((b"content-type", b"content-encoding"))
        return frozenset(names)

    def _event_words(self) -> tuple[Words | None, tuple[bytes, ...]] | None:
        """What is in each event that may have a key: one of the names, or one of the words."""
        words = tuple(link.event for link in self._links)
        if self._event_ids:
            words += (b"id:",)
        if self._plan is None and not words:
            return None
        return self._plan.names if self._plan is not None else None, words

    def learner(self, known: Sequence[Key], marks: Marks) -> Learner | None:
        """What reads an answer with this head; None where it can mint nothing. `known`: keys that are no news."""
        learner: Learner | None = None
        kind = b""
        encoding = b""
        for name, raw in marks:
            if name == b"content-type":
                kind = raw
            elif name == b"content-encoding":
                encoding = raw.strip(b" \t").lower()
            if name in self._fields or (self._locations and name in _LOCATIONS):
                learner = learner or Learner(self, known)
                self._head(name, raw.strip(b" \t"), learner)
        if self._words is None or (learner is not None and learner.keys and learner.keys[0].rank <= SESSION):
            pass
        elif encoding and encoding != b"identity":
            learner = learner or Learner(self, known)
            learner.unread = "compressed"
        elif self._plan is not None and is_json(kind):
            learner = learner or Learner(self, known)
            learner.reading = Reading(self._plan)
            learner.left = self._limit
            learner.done = False
        elif kind == b"text/event-stream" or _EVENTS_TYPE.fullmatch(kind) is not None:
            learner = learner or Learner(self, known)
            learner.events = EventReader(*self._words, self._limit)
            learner.done = False
        return learner

    def _head(self, name: bytes, value: bytes, learner: Learner) -> None:
        for field in self._fields.get(name, ()):
            if field.cookie is not None:
                match = field.cookie.match(value)
                if match is not None:
                    learner.mint(Key(field.space, joined_id([match[1]]), field.rank))
            else:
                learner.mint(Key(field.space, joined_id([value]), field.rank))
        if name in _LOCATIONS:
            path = _PATH.sub(b"", value)
            for rule in self._locations:
                match = rule.pattern.search(path)
                if match is not None:
                    learner.mint(Key(rule.space, joined_id([unquoted(part) for part in match.groups()]), rule.rank))

    def event(self, event: Event) -> Reading | None:
        """The keys in the data of an event."""
        if self._plan is None or not event.data:
            return None
        reading = Reading(self._plan)
        reading.feed(event.data)
        reading.end()
        return reading

    def links(self, event: Event) -> list[Key]:
        """The keys in an event whose data is an address, and its own id as one."""
        keys = [Key(space, event.id, rank) for space, rank in self._event_ids if is_id(event.id)]
        for link in self._links:
            if link.event == event.kind:
                for name in link.parameters:
                    match = re.search(rb"[?&]%b=([^&#\s]*)" % re.escape(name), event.data)
                    if match is not None and is_id(value := unquoted(match[1])):
                        keys.append(Key(link.space, value, link.rank))
        return keys


class Learner:
    """Reads one answer."""

    __slots__ = ("_known", "_rules", "done", "events", "ignored", "keys", "left", "reading", "stream", "unread")

    def __init__(self, rules: AnswerRules, known: Sequence[Key]) -> None:
        self.keys: list[Key] = []  # minted in the head
        self.done = True  # nothing more to learn: feeding is of no use
        self.stream = False  # the session that it names is this stream, and over with it
        self.ignored = 0  # values that stood where a key stands, and were none
        self.unread = ""  # why a body that may mint a key was not read (to its end): compressed, oversized
        self.events: EventReader | None = None
        self.reading: Reading | None = None
        self.left = 0  # bytes of the body that may still be read
        self._rules = rules
        self._known = list(known)

    def mint(self, key: Key) -> None:
        """A key in the head, unless it is no news; one without a value is none."""
        if not key.value:
            self.ignored += 1
        elif key not in self._known and add_key(self.keys, key):
            self._known.append(key)

    def feed(self, data: bytes) -> list[Key]:
        """Bytes of the answer's body, framing removed; the keys that they mint, the most specific first. Never raises.

        The list is for reading: that of no keys is always the same.
        """
        if self.done:
            return _NONE
        if self.events is not None:
            events = self.events.feed(data)
            if self.events.over_long:
                self.unread = "oversized"
            return _NONE if events is None else self._from_events(events)
        return self._from_body(data)

    def close(self) -> None:
        """There is no more of the answer."""
        self.done = True
        if self.reading is not None:
            self.reading.end()
            self.reading = None

    def _from_events(self, events: list[Event]) -> list[Key]:
        minted: list[Key] = []
        for event in events:
            named = False
            for key in self._rules.links(event):
                self.stream = self.stream or key.space in self._rules.streams
                self._news(key, minted)
                named = True
            reading = self._rules.event(event)
            if reading is not None:
                self.ignored += reading.ignored
                for _, key in reading.keys:
                    self._news(key, minted)
                    named = True
            if named and not self._rules.endless:
                self.done = True
                break
        return minted

    def _from_body(self, data: bytes) -> list[Key]:
        reading = self.reading
        assert reading is not None
        if len(data) >= self.left:
            self.done = True
            self.unread = "" if reading.feed(data[: self.left]) else "oversized"
        else:
            self.left -= len(data)
            self.done = reading.feed(data)
        if self.done:
            reading.end()
            self.ignored += reading.ignored
        if not reading.keys:
            return _NONE
        minted: list[Key] = []
        for _, key in reading.keys:
            self._news(key, minted)
        reading.keys = NO_KEYS
        return minted

    def _news(self, key: Key, minted: list[Key]) -> None:
        """Take a key of the body for minted, unless it is no news."""
        known = self._known
        if key not in known and add_key(minted, key):
            known.append(key)
            if len(known) > _REMEMBERED:
                del known[0]
