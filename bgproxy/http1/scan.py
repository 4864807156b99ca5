"""The field lines of a head: let in by the grammar, and the few that matter found, in one walk over the bytes.

There are two ways to walk. Compiled (see setup.py) it is a loop over the bytes, as it would be in C; interpreted, two
patterns do the same several times faster than such a loop could. Both are made from the same names, and the tests hold
them against each other on whatever bytes there are.

The grammar is an allow-list (RFC 9110 §5, RFC 9112 §5): a token, a colon at once, then visible characters, spaces and
tabs, then CRLF. Anything else, obs-fold and bare CR or LF included, is no field line.
"""

from __future__ import annotations

import re
from types import FunctionType
from typing import Final

from librt.strings import read_i64_le
from mypy_extensions import i64

Found = list[tuple[bytes, bytes]]

TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SPACES: Final = b" \t"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
IN_VALUE: Final = bytes(c == 9 or (c >= 32 and c != 127) for c in range(256))
_SLOTS: Final = 1023  # of the table of hashed names, less one: few enough to stay in the cache, with hardly a false hit
_ONES: Final = 0x0101010101010101  # the lowest bit of each of eight bytes
_CASE: Final = ~0x2020202020202020  # all bits but those by which small letters differ from capital ones
# What a slot's name, or one of several, is.
_WANTED: Final = 1
_EXACT: Final = 2


class FieldScanner:
    """Finds fields by name. `names` are in lower case; `prefixes` stand for every name that begins with one.

    `line` and `line_end` say where, in the head that was looked at last, the last line of the `noted` field stands.
    """

    __slots__ = (
        "_exact",
        "_fold",
        "_grammar",
        "_hashes",
        "_limit",
        "_marks",
        "_named",
        "_names",
        "_noted",
        "_padded",
        "_prefixes",
        "_wanted",
        "line",
        "line_end",
    )

    def __init__(
        self,
        names: frozenset[bytes],
        prefixes: tuple[bytes, ...],
        token: bytes,
        limit: int,
        exact: frozenset[bytes] = frozenset(),
        noted: bytes = b"connection",
    ) -> None:
        """`token`: the characters of a name; `limit`: how many fields there may be; `exact`: further names, whose
        values are wanted in the sender's own letters, all white space around them off."""
        names |= exact
        self.line = 0
        self.line_end = 0
        self._noted = noted
        self._exact = exact
        self._names = names
        self._prefixes = prefixes
        thirds = {prefix[2] for prefix in prefixes}
        self._marks = bytes(c in thirds for c in range(256))
        self._fold = bytes((c | 32 if 65 <= c <= 90 else c) if c in token else 0 for c in range(256))
        self._limit = limit
        hashes = bytearray(_SLOTS + 1)
        self._named = [b""] * (_SLOTS + 1)  # the name of a slot; b"" for none, or where it takes a closer look
        for name in names:
            slot = _hash(name)
            # By `_CASE` alone `~` and `^` are the same.
            self._named[slot] = b"" if hashes[slot] or b"~" in name or b"^" in name else name
            hashes[slot] = _EXACT if name in exact or hashes[slot] == _EXACT else _WANTED
        self._hashes = bytes(hashes)
        self._padded = [name + b"\0" * 7 for name in self._named]
        name_set = b"[" + re.escape(token) + b"]++"
        self._grammar = re.compile(rb"(?:%b:%b\r\n){0,%d}+\r\n" % (name_set, _VALUE, limit))
        wanted = [re.escape(name) for name in sorted(names)] + [re.escape(prefix) + b"[^:]*+" for prefix in prefixes]
        self._wanted = re.compile(rb"\n(%b):[ \t]*+([^\r]*+)" % b"|".join(wanted))

    def find(self, head: bytes, start: int) -> Found | None:
        """The wanted fields from `start` on, in order, names and all but exact values in lower case; None where a line
        is malformed.

        `head` ends with its empty line.
        """
        return self.walk(head, start) if COMPILED else self.match(head, start)

    def match(self, head: bytes, start: int) -> Found | None:
        """`find` by patterns."""
        if self._grammar.fullmatch(head, start) is None:
            return None
        low = head.lower()
        found: Found = self._wanted.findall(low, start - 1)
        names = [name for name, _ in found]
        if self._noted in names:
            self.line = low.rfind(b"\n%b:" % self._noted) + 1
            self.line_end = low.index(b"\n", self.line) + 1
        exact = self._exact
        if not exact or exact.isdisjoint(names):
            return found
        at = start - 1
        for number, (name, value) in enumerate(found):
            if name in exact:
                at = low.find(b"\n%b:" % name, at) + len(name) + 2
                while head[at] in _SPACES:
                    at += 1
                found[number] = (name, head[at : at + len(value)].rstrip(_SPACES))
        return found

    def walk(self, head: bytes, start: i64) -> Found | None:
        """`find` byte by byte, but for values, where eight at a time are looked at.

        No index can run out: the head ends with CRLF, which neither a name nor a value has.
        """
        found: Found = []
        fold = self._fold
        hashes = self._hashes
        in_value = IN_VALUE
        marks = self._marks
        end: i64 = len(head) - 2
        eight: i64 = end - 6  # from here on there are less
        left: i64 = self._limit
        at = start
        while at < end:
            name: i64 = at
            mark: i64 = 0
            byte: i64 = fold[head[at]]
            while byte:
                mark = (mark * 33 + byte) & 0xFFFFFF
                at += 1
                byte = fold[head[at]]
            colon: i64 = at
            if head[at] != 58 or colon == name or left == 0:
                return None
            left -= 1
            at += 1
            while head[at] == 32 or head[at] == 9:
                at += 1
            value: i64 = at
            while at <= eight:
                word: i64 = read_i64_le(head, at)
                ones: i64 = word & (word >> 1)
                ones = ones & (ones >> 2)
                # Of each byte: are bits 5 to 7 zero, as in control characters, or bits 0 to 6 one, as in DEL?
                odd: i64 = (~(word >> 5 | word >> 6 | word >> 7) | (ones & (ones >> 3))) & _ONES
                if odd == 0:
                    at += 8
                    continue
                while odd & 1 == 0:
                    odd = odd >> 8
                    at += 1
                break
            while in_value[head[at]]:
                at += 1
            if head[at] != 13 or head[at + 1] != 10:
                return None
            slot: i64 = mark & _SLOTS
            if hashes[slot] or (colon - name > 2 and marks[head[name + 2] | 32]):
                text = self._name(head, name, colon - name, slot)
                if text is not None:
                    exact = hashes[slot] == _EXACT and text in self._exact
                    found.append((text, _trimmed(head, value, at) if exact else _lowered(head[value:at])))
                    if text == self._noted:
                        self.line = name
                        self.line_end = at + 2
            at += 2
        return found if at == end else None

    def _name(self, head: bytes, at: i64, size: i64, slot: i64) -> bytes | None:
        """The wanted name that the token at `at` is, if it is one."""
        if self._is_named(head, at, size, slot):
            return self._named[slot]
        text = head[at : at + size].lower()
        return text if text in self._names or text.startswith(self._prefixes) else None

    def _is_named(self, head: bytes, at: i64, size: i64, slot: i64) -> bool:
        """Whether the name at `at`, a token, is that of the slot, in whatever case. False may need a closer look."""
        name = self._named[slot]
        if len(name) != size or at + 8 > len(head):
            return False
        padded = self._padded[slot]
        if size < 8:
            return (read_i64_le(head, at) ^ read_i64_le(padded, 0)) & _CASE & ((1 << 8 * size) - 1) == 0
        done: i64 = 8
        while done < size:
            if (read_i64_le(head, at + done - 8) ^ read_i64_le(padded, done - 8)) & _CASE:
                return False
            done += 8
        return (read_i64_le(head, at + size - 8) ^ read_i64_le(padded, size - 8)) & _CASE == 0


def _trimmed(head: bytes, start: i64, end: i64) -> bytes:
    while end > start and (head[end - 1] == 32 or head[end - 1] == 9):
        end -= 1
    return head[start:end]


def _lowered(text: bytes) -> bytes:
    """The text in lower case, as it mostly is."""
    at: i64 = 0
    end: i64 = len(text)
    while at < end:
        byte: i64 = text[at]
        if 65 <= byte <= 90:
            return text.lower()
        at += 1
    return text


def _hash(name: bytes) -> int:
    mark = 0
    for byte in name:
        mark = (mark * 33 + byte) & 0xFFFFFF
    return mark & _SLOTS


COMPILED: Final = not isinstance(_hash, FunctionType)
