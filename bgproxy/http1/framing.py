"""Where a message ends: body lengths, chunks, trailers. Every way to smuggle a request ends in this file.

Strict on purpose (RFC 9112 §6, §7): one Content-Length of plain digits, `chunked` alone as Transfer-Encoding, chunk
sizes of plain hex digits. What goes on is framed by us: chunk extensions are dropped, trailers are filtered.
"""

from __future__ import annotations

import re
from typing import Final

from mypy_extensions import i64

from bgproxy.http1.fields import may_trail
from bgproxy.http1.head import CHUNKED, FIELD_LINE, UNTIL_CLOSE, Malformed
from bgproxy.http1.scan import COMPILED

_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
# A size line: up to 16 hex digits, then extensions (RFC 9112 §7.1.1) of visible characters, spaces and tabs.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[\t\x20-\x7e\x80-\xff]*+)?)")
_MAX_CHUNK: Final = 1 << 60
# What a `ChunkReader` waits for.
_SIZE: Final = 0
_PAYLOAD: Final = 1
_PAYLOAD_END: Final = 2
_TRAILER: Final = 3

# Bytes of chunk extensions in one message: nobody has a use for them, and they are dropped.
MAX_EXTENSIONS: Final = 4_096
LAST_CHUNK: Final = b"0\r\n\r\n"


def plain_length(value: bytes) -> int:
    """A Content-Length of at most 15 digits and nothing else, as they all are; -1 for what must be looked at again."""
    if not COMPILED:
        return int(value) if value.isdigit() and len(value) < 16 else -1
    length: i64 = 0
    at: i64 = 0
    size: i64 = len(value)
    if size == 0 or size > 15:
        return -1
    while at < size:
        digit: i64 = value[at] - 48
        if digit < 0 or digit > 9:
            return -1
        length = length * 10 + digit
        at += 1
    return length


def content_length(value: bytes) -> int:
    """The one Content-Length (RFC 9112 §6.3); lists, signs, repetitions and overflows are refused."""
    value = value.rstrip(b" \t")
    if _DIGITS.fullmatch(value) is None:
        raise Malformed("bad_length", "Content-Length is not one plain number of bytes (RFC 9110 §8.6)")
    return int(value)


def request_length(length: bytes | None, encoding: bytes | None, minor: int) -> int:
    """How a request's body is framed: bytes, or CHUNKED (RFC 9112 §6.1, §6.3). None: the field is not there."""
    if encoding is None:
        return content_length(length) if length is not None else 0
    if length is not None:
        raise Malformed("bad_length", "Transfer-Encoding and Content-Length together (RFC 9112 §6.1)")
    if minor == 0:
        raise Malformed("bad_transfer_encoding", "Transfer-Encoding in an HTTP/1.0 request (RFC 9112 §6.1)")
    # White space behind the word would be allowed, but known parsers then frame the message otherwise.
    if encoding != b"chunked":
        raise Malformed("unknown_transfer_encoding", "a Transfer-Encoding other than `chunked` alone (RFC 9112 §6.1)")
    return CHUNKED


def response_length(length: bytes | None, encoding: bytes | None, minor: int) -> int:
    """How a response's body is framed: bytes, CHUNKED or UNTIL_CLOSE (RFC 9112 §6.3). Conflicts are never passed on."""
    if encoding is None:
        if length is None:
            return UNTIL_CLOSE
        try:
            return content_length(length)
        except Malformed as error:
            raise Malformed("bad_response", "of the agent's answer: " + error.detail) from None
    if length is not None or encoding != b"chunked" or minor == 0:
        raise Malformed("bad_response", "of the agent's answer: its Transfer-Encoding is not `chunked` alone")
    return CHUNKED


class ChunkReader:
    """The chunked coding, read piece by piece (RFC 9112 §7.1). Holds at most one partial line, never payload.

    `feed` appends payload pieces to `out` and returns how many bytes of the data belong to the message; `done` says
    that its end was seen, `trailers` then holds what may go on of its trailer section. Broken framing: `Malformed`.
    """

    __slots__ = ("_budget", "_extensions", "_left", "_line", "_state", "done", "fields", "trailers")

    def __init__(self, max_extra_bytes: int, max_fields: int) -> None:
        self._left = 0  # payload bytes to come of the open chunk
        self._line = b""  # a line that has not ended yet
        self._state = _SIZE
        self._budget = max_extra_bytes  # for the trailers of this message
        self._extensions = min(max_extra_bytes, MAX_EXTENSIONS)
        self.fields = max_fields
        self.done = False
        self.trailers: list[bytes] = []

    def __repr__(self) -> str:
        return f"<ChunkReader state {self._state} left {self._left} done {self.done}>"

    def at_boundary(self) -> bool:
        """Whether nothing of a chunk is open, so that something else may be written between two of them."""
        return self._state == _SIZE and not self._line

    def feed(self, data: bytes, out: list[bytes]) -> int:
        """Read on; returns the bytes taken: all of them, or up to the message's end."""
        at = 0
        size = len(data)
        while at < size and not self.done:
            if self._state == _PAYLOAD:
                end = min(size, at + self._left)
                out.append(data if at == 0 and end == size else data[at:end])
                self._left -= end - at
                at = end
                if not self._left:
                    self._state = _PAYLOAD_END
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._keep(data[at:])
                return size
            line = self._line + data[at : end + 1] if self._line else data[at : end + 1]
            self._line = b""
            at = end + 1
            if line[-2:] != b"\r\n":
                raise Malformed("bad_chunk", "a bare LF in chunked framing (RFC 9112 §7.1)")
            self._take(line[:-2])
        return at

    def _keep(self, part: bytes) -> None:
        self._line += part
        limit = 2 if self._state == _PAYLOAD_END else self._budget + 18
        if len(self._line) > limit:
            raise Malformed("bad_chunk", "a chunk's size line, extension or trailer is too long")
        if b"\r" in self._line[:-1]:
            raise Malformed("bad_chunk", "a bare CR in chunked framing (RFC 9112 §7.1)")

    def _take(self, line: bytes) -> None:
        if self._state == _PAYLOAD_END:
            if line:
                raise Malformed("bad_chunk", "a chunk is longer than its size says (RFC 9112 §7.1)")
            self._state = _SIZE
        elif self._state == _SIZE:
            self._take_size(line)
        else:
            self._take_trailer(line)

    def _take_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None or (size := int(match[1], 16)) > _MAX_CHUNK:
            raise Malformed("bad_chunk", "a chunk size is not a plain hexadecimal number (RFC 9112 §7.1)")
        if match[2]:
            self._extensions -= len(match[2])
            if self._extensions < 0:
                raise Malformed("bad_chunk", "the chunk extensions are too long")
        self._left = size
        self._state = _PAYLOAD if size else _TRAILER

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._spend(len(line))
        self.fields -= 1
        match = FIELD_LINE.fullmatch(line)
        if match is None:
            raise Malformed("bad_chunk", "a trailer field is malformed (RFC 9112 §7.1.2)")
        if self.fields < 0:
            raise Malformed("bad_chunk", "too many trailer fields")
        if may_trail(match[1].lower()):
            self.trailers.append(line)

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise Malformed("bad_chunk", "the trailers are too long")


_WHOLE_CHUNK_SIZE: Final = re.compile(rb"([1-9A-Fa-f][0-9A-Fa-f]{0,6})\r\n")
_HEX_VALUE: Final = bytes(int(chr(c), 16) if chr(c) in "0123456789abcdefABCDEF" else 255 for c in range(256))


def whole_chunk(data: bytes) -> int:
    """Where the payload begins of data that are exactly one canonical chunk with payload: what an agent's SSE event
    mostly looks like. 0 for what is not.

    Such data may go on as they are, which spares a stream the work of being framed again.
    """
    return walk_whole_chunk(data) if COMPILED else match_whole_chunk(data)


def match_whole_chunk(data: bytes) -> int:
    """`whole_chunk` by a pattern."""
    match = _WHOLE_CHUNK_SIZE.match(data)
    if match is None or match.end() + int(match[1], 16) + 2 != len(data) or not data.endswith(b"\r\n"):
        return 0
    return match.end()


def walk_whole_chunk(data: bytes) -> int:
    """`whole_chunk` byte by byte."""
    end: i64 = len(data)
    if end < 6 or data[0] == 48:
        return 0
    size: i64 = 0
    at: i64 = 0
    while at < 8 and at < end and data[at] != 13:
        digit: i64 = _HEX_VALUE[data[at]]
        if digit == 255:
            return 0
        size = size * 16 + digit
        at += 1
    if at == 0 or at == 8 or at + 4 + size != end or data[at + 1] != 10 or data[end - 2] != 13 or data[end - 1] != 10:
        return 0
    return at + 2


def chunk(payload: bytes) -> bytes:
    """The payload as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: list[bytes]) -> bytes:
    """The end of a chunked message, with its trailers."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n\r\n" % b"\r\n".join(trailers)
