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

from mypy_extensions import i64

Found = list[tuple[bytes, bytes]]

TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SPACES: Final = b" \t"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
_IN_VALUE: Final = bytes(c == 9 or (c >= 32 and c != 127) for c in range(256))
_SLOTS: Final = 1023  # of the table of hashed names, less one: few enough to stay in the cache, with hardly a false hit


class FieldScanner:
    """Finds fields by name. `names` are in lower case; `prefixes` stand for every name that begins with one."""

    __slots__ = ("_exact", "_grammar", "_hashes", "_limit", "_marks", "_names", "_prefixes", "_token", "_wanted")

    def __init__(
        self,
        names: frozenset[bytes],
        prefixes: tuple[bytes, ...],
        token: bytes,
        limit: int,
        exact: frozenset[bytes] = frozenset(),
    ) -> None:
        """`token`: the characters of a name; `limit`: how many fields there may be; `exact`: further names, whose
        values are wanted in the sender's own letters."""
        names |= exact
        self._exact = exact
        self._names = names
        self._prefixes = prefixes
        thirds = {prefix[2] for prefix in prefixes}
        self._marks = bytes(c in thirds for c in range(256))
        self._token = bytes(c in token for c in range(256))
        self._limit = limit
        hashes = bytearray(_SLOTS + 1)
        for name in names:
            hashes[_hash(name)] = 1
        self._hashes = bytes(hashes)
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
        exact = self._exact
        if not exact or exact.isdisjoint([name for name, _ in found]):
            return found
        at = start - 1
        for number, (name, value) in enumerate(found):
            if name in exact:
                at = low.find(b"\n%b:" % name, at) + len(name) + 2
                while head[at] in _SPACES:
                    at += 1
                found[number] = (name, head[at : at + len(value)])
        return found

    def walk(self, head: bytes, start: i64) -> Found | None:
        """`find` byte by byte. No index can run out: the head ends with CRLF, which neither a name nor a value has."""
        found: Found = []
        token = self._token
        hashes = self._hashes
        in_value = _IN_VALUE
        marks = self._marks
        end: i64 = len(head) - 2
        left: i64 = self._limit
        at = start
        while at < end:
            name: i64 = at
            mark: i64 = 0
            byte: i64 = head[at]
            while token[byte]:
                mark = (mark * 33 + (byte | 32)) & 0xFFFFFF
                at += 1
                byte = head[at]
            colon: i64 = at
            if byte != 58 or colon == name or left == 0:
                return None
            left -= 1
            at += 1
            while head[at] == 32 or head[at] == 9:
                at += 1
            value: i64 = at
            while in_value[head[at]]:
                at += 1
            if head[at] != 13 or head[at + 1] != 10:
                return None
            if hashes[mark & _SLOTS] or (colon - name > 2 and marks[head[name + 2] | 32]):
                text = head[name:colon].lower()
                if text in self._names or text.startswith(self._prefixes):
                    found.append((text, head[value:at] if text in self._exact else head[value:at].lower()))
            at += 2
        return found if at == end else None


def _hash(name: bytes) -> int:
    mark = 0
    for byte in name:
        mark = (mark * 33 + (byte | 32)) & 0xFFFFFF
    return mark & _SLOTS


COMPILED: Final = not isinstance(_hash, FunctionType)
