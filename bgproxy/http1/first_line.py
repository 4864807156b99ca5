"""The first line of a head: where its parts end. As in `scan`, there are two ways to look, which the tests compare.

RFC 9112 §3 and §4, strictly: single spaces, CRLF, no white space around.
"""

from __future__ import annotations

import re
from typing import Final

from librt.strings import read_i64_le
from mypy_extensions import i64

from bgproxy.http1.scan import COMPILED, IN_VALUE, TOKEN

# RFC 3986 §2: no space, control character, raw non-ASCII byte; `#` starts a fragment, which is never sent.
_TARGET: Final = rb"[\x21\x22\x24-\x7e]"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]"
_IN_TOKEN: Final = bytes(c in TOKEN for c in range(256))
_IN_TARGET: Final = bytes(33 <= c <= 126 and c != 35 for c in range(256))
# Eight bytes as one number.
_SP_HTTP_1: Final = int.from_bytes(b" HTTP/1.", "little")
_HTTP_1: Final = int.from_bytes(b"HTTP/1.", "little")
_SEVEN: Final = 0xFFFFFFFFFFFFFF
VERSION_END: Final = 11  # bytes from a target's end to the line's: ` HTTP/1.1` and CRLF

# An empty reason may lack its space, as many send it. A status from 600 on belongs to no class of RFC 9110 §15: nobody
# downstream would know what to make of it.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: %s*+)?\r\n" % _VALUE)


class RequestLine:
    """The first line of a request whose target has at most so many bytes."""

    __slots__ = ("_most", "_pattern")

    def __init__(self, max_target: int) -> None:
        self._most = max_target
        token = b"[" + re.escape(TOKEN) + b"]"
        self._pattern = re.compile(rb"(%s++) (%s{1,%d}+) HTTP/1\.[01]\r\n" % (token, _TARGET, max_target))

    def find(self, head: bytes) -> tuple[i64, i64]:
        """Where the method ends, and where the target; two zeros for a line that is malformed.

        `head` ends with its empty line. The version's minor digit is the eighth byte behind the target's end.
        """
        return self.walk(head) if COMPILED else self.match(head)

    def match(self, head: bytes) -> tuple[i64, i64]:
        """`find` by a pattern."""
        match = self._pattern.match(head)
        return (match.end(1), match.end(2)) if match is not None else (0, 0)

    def walk(self, head: bytes) -> tuple[i64, i64]:
        """`find` byte by byte. Neither a method nor a target has a CR, so no index runs out before the version."""
        at: i64 = 0
        while _IN_TOKEN[head[at]]:
            at += 1
        method: i64 = at
        if at == 0 or head[at] != 32:
            return 0, 0
        at += 1
        while _IN_TARGET[head[at]]:
            at += 1
        size: i64 = at - method - 1
        if size == 0 or size > self._most or at + VERSION_END > len(head) or read_i64_le(head, at) != _SP_HTTP_1:
            return 0, 0
        if (head[at + 8] != 48 and head[at + 8] != 49) or head[at + 9] != 13 or head[at + 10] != 10:
            return 0, 0
        return method, at


def status_line(head: bytes) -> tuple[i64, i64]:
    """A response's status, and where its first line ends; two zeros for a line that is malformed.

    `head` ends with its empty line. The version's minor digit is byte 7.
    """
    return walk_status(head) if COMPILED else match_status(head)


def match_status(head: bytes) -> tuple[i64, i64]:
    """`status_line` by a pattern."""
    match = _STATUS_LINE.match(head)
    return (int(match[1]), match.end()) if match is not None else (0, 0)


def walk_status(head: bytes) -> tuple[i64, i64]:
    """`status_line` byte by byte. A reason has no CR, so no index runs out."""
    if len(head) < 14 or read_i64_le(head, 0) & _SEVEN != _HTTP_1:
        return 0, 0
    if (head[7] != 48 and head[7] != 49) or head[8] != 32:
        return 0, 0
    hundreds: i64 = head[9] - 48
    tens: i64 = head[10] - 48
    ones: i64 = head[11] - 48
    if not (1 <= hundreds <= 5 and 0 <= tens <= 9 and 0 <= ones <= 9):
        return 0, 0
    at: i64 = 12
    if head[at] == 32:
        at += 1
        while IN_VALUE[head[at]]:
            at += 1
    if head[at] != 13 or head[at + 1] != 10:
        return 0, 0
    return hundreds * 100 + tens * 10 + ones, at + 2
