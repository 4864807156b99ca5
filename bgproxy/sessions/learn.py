"""What an agent's answer mints: the keys by which the next request will name this session."""

from __future__ import annotations

from collections.abc import Sequence

from bgproxy.sessions.keys import Key, add_key, is_id, unquoted
from bgproxy.sessions.preset import Field, Path, Preset

_LOCATIONS = (b"location", b"content-location")


class Learner:
    """Reads one answer. `keys` are those that its head mints; `done` says that its body has nothing to tell."""

    __slots__ = ("_known", "done", "ignored", "keys", "unread")

    def __init__(self, known: Sequence[Key]) -> None:
        self.keys: list[Key] = []
        self.done = False
        self.ignored = 0  # values that stood where a key stands, and were none
        self.unread = ""  # why a body that may mint a key was not read: compressed, oversized
        self._known = list(known)

    def add(self, key: Key) -> bool:
        """Take a key for minted, unless the request named it."""
        return key not in self._known and add_key(self.keys, key)

    def feed(self, data: bytes) -> list[Key]:
        """Bytes of the answer's body, framing removed; the keys that they mint. Never raises."""
        return [] if self.done or not data else self.keys[:0]


class HeadRules:
    """Where one preset's ids stand in an answer's head."""

    __slots__ = ("_fields", "_locations", "names")

    def __init__(self, preset: Preset) -> None:
        self._fields: dict[bytes, list[Field]] = {}
        for field in preset.learn_fields:
            self._fields.setdefault(field.name, []).append(field)
        self._locations: tuple[Path, ...] = preset.learn_locations
        self.names = frozenset(self._fields) | (frozenset(_LOCATIONS) if preset.learn_locations else frozenset())

    def read(self, marks: Sequence[tuple[bytes, bytes]], learner: Learner) -> None:
        """The keys in an answer's head, into the learner."""
        for name, raw in marks:
            value = raw.strip(b" \t")
            for field in self._fields.get(name, ()):
                if field.form == "cookie":
                    first = value.partition(b";")[0].partition(b"=")
                    if first[0].strip(b" \t") != field.cookie:
                        continue
                    value = first[2].strip(b' \t"')
                self._take(learner, field.space, field.rank, value)
            if self._locations and name in _LOCATIONS:
                for rule in self._locations:
                    match = rule.pattern.search(value)
                    if match is not None:
                        self._take(learner, rule.space, rule.rank, b" ".join(map(unquoted, match.groups())))

    def _take(self, learner: Learner, space: str, rank: int, value: bytes) -> None:
        if is_id(value):
            learner.add(Key(space, value, rank))
        else:
            learner.ignored += 1
