"""One look at bytes for any of some words that all begin with the same byte: most bytes have none of them.

As in `http1.scan` there are two ways to look, which the tests hold against each other: compiled, eight bytes at a time;
interpreted, by a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import FunctionType
from typing import Final

from librt.strings import read_i64_le
from mypy_extensions import i64

_GLANCE: Final = 1_024  # bytes; the ids of most protocols stand at the beginning
_SLOTS: Final = 1_023  # of a table of hashed beginnings, less one
_FAR: Final = 64  # bytes without a first one, from which on the next one is looked for by other means
_NEVER: Final = 1 << 60  # no bytes are so long
_LONG: Final = 7  # bytes behind the first by which a word is told from others, if it has as many
_SEVEN: Final = 0xFFFFFFFFFFFFFF
# Of eight bytes every other one, with room for a carry; and the lowest bits of these, and of those between them.
_EVEN: Final = 0x00FF00FF00FF00FF
_LOW: Final = 0x0001000100010001
_BETWEEN: Final = 0x0100010001000100


class Words:
    """Finds the first of its words. Without any, it finds none."""

    __slots__ = ("_first", "_lanes", "_lead", "_least", "_long", "_mask", "_pattern", "_short", "_words")

    def __init__(self, words: Sequence[bytes]) -> None:
        """`words`: all of them begin with the same byte, an ASCII character."""
        self._words = sorted(words)
        self._pattern = re.compile(b"|".join(re.escape(word) for word in self._words) or rb"(?!)")
        self._first = self._words[0][0] if words else 0
        self._lead = self._words[0][:1] if words else b""
        self._least = min([len(word) for word in words], default=_NEVER)
        self._lanes: i64 = int.from_bytes(bytes([self._first]) * 8, "little")
        rests = [word[1:] for word in words]
        shortest = min([len(rest) for rest in rests if len(rest) < _LONG], default=0)
        self._mask: i64 = (1 << 8 * shortest) - 1
        # Whether a word may begin so: by its first bytes, as many as the shortest has, and by seven.
        self._short = _table([rest[:shortest] for rest in rests if len(rest) < _LONG])
        self._long = _table([rest[:_LONG] for rest in rests if len(rest) >= _LONG])

    def find(self, data: bytes, start: int = 0) -> int:
        """Where the first of them begins, from `start` on; -1 for nowhere."""
        return self.walk(data, start) if COMPILED else self.match(data, start)

    def match(self, data: bytes, start: int) -> int:
        """`find` by patterns."""
        match = self._pattern.search(data, start, start + _GLANCE)
        if match is None and len(data) > start + _GLANCE and any(data.find(word, start) >= 0 for word in self._words):
            match = self._pattern.search(data, start)
        return match.start() if match is not None else -1

    def walk(self, data: bytes, start: i64) -> i64:
        """`find` eight bytes at a time."""
        least: i64 = self._least
        first: i64 = self._first
        lanes = self._lanes
        mask = self._mask
        short = self._short
        long = self._long
        size: i64 = len(data)
        last: i64 = size - least  # where one may begin
        at = start
        seen = start  # where the last first one stood
        while at + 8 <= size:
            word: i64 = read_i64_le(data, at) ^ lanes  # zero is where the first byte of a word stands
            even: i64 = (word & _EVEN) + _EVEN
            odd: i64 = (word >> 8 & _EVEN) + _EVEN
            firsts: i64 = (~even >> 8 & _LOW) | (~odd & _BETWEEN)  # one bit for each, as far up as its byte is
            here = at
            at += 8
            if firsts:
                seen = at
            elif at - seen > _FAR:
                at = seen = data.find(self._lead, at)
                if at < 0:
                    return -1
            while firsts:
                while firsts & 1 == 0:
                    firsts = firsts >> 8
                    here += 1
                if here + 9 > size:
                    if here <= last and self._is_at(data, here):
                        return here
                else:
                    rest: i64 = read_i64_le(data, here + 1) & _SEVEN
                    beginning: i64 = rest & mask
                    # As `_slot` has it.
                    rest = (rest ^ rest >> 11 ^ rest >> 23 ^ rest >> 37 ^ rest >> 47) & _SLOTS
                    beginning = (
                        beginning ^ beginning >> 11 ^ beginning >> 23 ^ beginning >> 37 ^ beginning >> 47
                    ) & _SLOTS
                    if (long[rest] or short[beginning]) and self._is_at(data, here):
                        return here
                firsts = firsts >> 8
                here += 1
        while at <= last:
            if data[at] == first and self._is_at(data, at):
                return at
            at += 1
        return -1

    def _is_at(self, data: bytes, at: int) -> bool:
        return self._pattern.match(data, at) is not None


def _table(beginnings: Sequence[bytes]) -> bytes:
    table = bytearray(_SLOTS + 1)
    for beginning in beginnings:
        table[_slot(int.from_bytes(beginning, "little"))] = 1
    return bytes(table)


def _slot(number: int) -> int:
    return (number ^ number >> 11 ^ number >> 23 ^ number >> 37 ^ number >> 47) & _SLOTS


COMPILED: Final = not isinstance(_table, FunctionType)
