"""What is looked for in one JSON document, by the groups of several presets at once, and which keys it has.

A document is walked only once one of the names of interest was seen in it; most never are. Reading ends as soon as one
protocol's group is complete and what an operator named is there: what stands behind is not looked at. What a group
needs beside its members (its guard) must be there too, or it says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from bgproxy.sessions.jsonpath import Node, compile_paths
from bgproxy.sessions.jsonscan import Scanner
from bgproxy.sessions.keys import MAX_ID, MAX_KEYS, Key, is_id, joined_id
from bgproxy.sessions.preset import Group, Member
from bgproxy.sessions.words import Words

MAX_OPAQUE: Final = 16_384  # bytes of a text that is no id, but whose hash may stand for one
_MAX_TEXT: Final = 6 * MAX_ID  # each character may be written as \uXXXX
NO_KEYS: Final[list[tuple[int, Key]]] = []  # nothing is ever added to a reading's list: there is a new one
_SPACE: Final = 32
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:@$-]+")
_EVERYDAY: Final = frozenset({b"message", b"response", b"result", b"params", b"method", b"type", b"id"})
_BACKSLASH: Final = 92
# Of what a plain name is made of, and needs no escape. Those that serializers do write, as of `<` or `&`, are not here.
_ESCAPED: Final = re.compile(rb"\\u00(?:2[4DEde]|3[0-9Aa]|4[0-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9Aa])")


class Plan:
    """The groups that one document is read for, each with the number of its preset."""

    __slots__ = ("_groups", "_named", "_protocols", "best", "names", "overlap", "root", "slots")

    def __init__(self, groups: Sequence[tuple[int, bool, Group]]) -> None:
        """`groups`: preset's number, whether that is a protocol (and not an operator's own place), and the group."""
        limits: dict[tuple[str, ...], int] = {}
        for _, _, group in groups:
            for member in group.members:
                limits[member.at] = max(limits.get(member.at, 0), MAX_OPAQUE if member.opaque else _MAX_TEXT)
            if group.guard:
                limits.setdefault(group.guard, _MAX_TEXT)
        slots = {path: slot for slot, path in enumerate(limits)}
        self._groups = [_Compiled(preset, protocol, group, slots) for preset, protocol, group in groups]
        self.slots = len(slots)
        self.root: Node = compile_paths(list(limits), list(limits.values()))
        self._protocols = [group for group in self._groups if group.protocol]
        named: dict[int, list[_Compiled]] = {}
        for compiled in self._groups:
            if not compiled.protocol:
                named.setdefault(compiled.preset, []).append(compiled)
        self._named = list(named.values())  # what an operator named, each with its alternatives
        self.best = min(member.rank for _, _, group in groups for member in group.members)
        # In each document that has a key there is one of these names, if only with escapes.
        words = {_telling((*member.at, *group.guard)) for _, _, group in groups for member in group.members}
        # Where one of them cannot be told, whatever has a name at all may have a key.
        self.names = Words([b'"%b"' % word for word in words] if all(words) else [b'"'])
        self.overlap = max(len(word) for word in words) + 6  # bytes that may be the beginning of a name

    def mentions(self, data: bytes) -> bool:
        """Whether there may be a key in a document with these bytes in it."""
        if self.names.find(data) >= 0:
            return True
        return _BACKSLASH in data and _ESCAPED.search(data) is not None

    def enough(self, found: int, values: list[bytes]) -> bool:
        """Whether a document has said all that can be asked of it."""
        for alternatives in self._named:
            if not any(found & group.mask == group.mask for group in alternatives):
                return False
        for group in self._protocols:
            if found & group.mask == group.mask and group.holds(found, values):
                return True
        return not self._protocols

    def read(self, found: int, values: list[bytes], reading: Reading) -> None:
        """The keys of a document, into `reading`. Of several protocols the first one speaks."""
        spoken = -1
        for group in self._groups:
            if not found & group.mask or not group.holds(found, values):
                continue
            if group.protocol:
                if spoken >= 0 and spoken != group.preset:
                    continue
                if group.read(found, values, reading):
                    spoken = group.preset
            else:
                group.read(found, values, reading)


class Reading:
    """Reads one document by a plan: what it holds is a few keys, each with its preset's number."""

    __slots__ = ("_begun", "_plan", "_scanner", "_seen", "_waiting", "ignored", "json", "keys")

    def __init__(self, plan: Plan) -> None:
        self.keys = NO_KEYS
        self.ignored = 0  # values that stood where a key stands, and were none
        self.json = True  # False: it does not even begin like a document
        self._plan = plan
        self._begun = False
        self._waiting: list[bytes] | None = None  # what was looked at, and not walked yet
        self._seen = b""  # the last bytes of it, but for its last piece
        self._scanner: Scanner | None = None

    def feed(self, data: bytes) -> bool:
        """The next bytes. True: the rest does not matter. The caller bounds how many there are."""
        scanner = self._scanner
        if scanner is not None:
            return scanner.feed(data)
        if not self._begun:
            if not data or data[0] <= _SPACE:
                data = data.lstrip()
                if not data:
                    return False
            self._begun = True
            self.json = data[0] == 123 or data[0] == 91  # { or [
        if not self.json:
            return True
        plan = self._plan
        waiting = self._waiting
        if waiting is None:
            if not plan.mentions(data):
                self._waiting = [data]
                return False
        else:
            self._seen = (self._seen + waiting[-1])[-plan.overlap :]
            waiting.append(data)
            if not plan.mentions(self._seen + data):
                return False
            data = b"".join(waiting)
            self._waiting = None
        scanner = self._scanner = Scanner(plan.root, plan.slots, self)
        return scanner.feed(data)

    def end(self) -> None:
        """There are no more bytes, or no more are read."""
        if self._scanner is not None:
            self._scanner.end()
            self.ignored += self._scanner.over_long
            self._scanner = None
        self._waiting = None

    def enough(self, found: int, values: list[bytes]) -> bool:
        """See `Taker`. In a batch this is asked of each element, and the first that is complete ends it."""
        return self._plan.enough(found, values)

    def document(self, found: int, values: list[bytes]) -> bool:
        """See `Taker`."""
        self._plan.read(found, values, self)
        return len(self.keys) >= MAX_KEYS

    def add(self, preset: int, member: Member, value: bytes) -> None:
        """One more key; b"" stands for a value that can be none."""
        if not value:
            self.ignored += 1
        elif len(self.keys) < MAX_KEYS:
            self.keys = [*self.keys, (preset, Key(member.space, value, member.rank))]


class _Compiled:
    """A group whose members are slots of a scanner."""

    __slots__ = ("_among", "_guard", "_joined", "_members", "mask", "preset", "protocol")

    def __init__(self, preset: int, protocol: bool, group: Group, slots: Mapping[tuple[str, ...], int]) -> None:
        self.preset = preset
        self.protocol = protocol
        self._members = [(slots[member.at], member) for member in group.members]
        self.mask = 0  # the members' slots, as bits
        for slot, _ in self._members:
            self.mask |= 1 << slot
        self._joined = group.joined
        self._guard = slots[group.guard] if group.guard else -1
        self._among = group.among

    def holds(self, found: int, values: list[bytes]) -> bool:
        """Whether what the group needs is there."""
        if self._joined and found & self.mask != self.mask:
            return False
        if self._guard < 0:
            return True
        return bool(found >> self._guard & 1) and (not self._among or values[self._guard] in self._among)

    def read(self, found: int, values: list[bytes], reading: Reading) -> bool:
        """The group's keys. False: there were none."""
        before = len(reading.keys)
        if self._joined:
            member = self._members[0][1]
            reading.add(self.preset, member, joined_id([values[slot] for slot, _ in self._members]))
            return len(reading.keys) > before
        for slot, member in self._members:
            if found >> slot & 1:
                value = values[slot]
                if not is_id(value):
                    value = _hashed(value) if member.opaque and value else b""
                reading.add(self.preset, member, value)
        return len(reading.keys) > before


def _hashed(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).hexdigest().encode()


def _telling(names: Sequence[str]) -> bytes:
    """The rarest of these names that has one spelling, but for needless escapes; b"" where there is none.

    That is the longest of those that are not everyday words. A name of digits may stand for a place in an array, and
    is not to be seen then.
    """
    plain = [name.encode() for name in names if _PLAIN.fullmatch(name) is not None and not name.isdigit()]
    return max(plain, key=lambda name: (name not in _EVERYDAY, len(name)), default=b"")
