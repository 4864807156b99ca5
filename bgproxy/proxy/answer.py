"""How an answer goes to the client: its head once, then its body as it comes, event by event, never held back.

The body is framed for the client's version (RFC 9112 §6, §7): a length stays a length; chunks stay chunks for HTTP/1.1
and become bytes until close for HTTP/1.0; an answer that ends with the agent's connection becomes chunks.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import TYPE_CHECKING, Final

from bgproxy.http1.framing import ChunkReader, chunk, last_chunk, whole_chunk
from bgproxy.http1.head import CHUNKED, UNTIL_CLOSE, ResponseHead

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange

# How the body is framed towards the client.
_LENGTH: Final = 0
_CHUNKED: Final = 1
_UNCHUNKED: Final = 2
_INTO_CHUNKS: Final = 3
_RAW: Final = 4

_LINES: Final = re.compile(rb"\ncontent-type:[ \t]*+application/x-ndjson", re.IGNORECASE)
_CODED: Final = re.compile(rb"\ncontent-encoding:[ \t]*+(?!identity[ \t]*+\r)", re.IGNORECASE)
# The last bytes of an event: an empty line, with any of the line ends (HTML §9.2.5).
_EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r", b"\n\r\n", b"\r\r\n")
_SHORT: Final = 9  # bytes of a chunk, framing and all, whose payload may be shorter than what `tail` keeps
# The last word of a stream that ends early: come again in a second. A field counts from its line on (HTML §9.2.6); with
# an empty line behind it some clients, OpenAI's among them, would take it for an event without data, and fail on that.
RETRY: Final = b"retry: 1000\n"


class Answer:
    """The relay of one final response."""

    chunks: ChunkReader | None = None
    done = False
    left = 0  # bytes to come of a body of known length
    held: list[bytes] | None = None  # what waits for a pin to be written
    tail = b""  # the last bytes of a stream's payload: whether an event is open
    lines = False  # a stream of lines, not of events
    coded = False  # a stream that cannot be looked into

    def __init__(self, exchange: Exchange, response: ResponseHead) -> None:
        client = exchange.client
        request = exchange.request
        self._client = client
        self.turn = exchange.turn
        self.keeps_agent = response.keep_alive
        self.keeps_client = request.keep_alive and exchange.request_done and not client.must_close()
        status = response.status
        length = response.length
        if request.method == b"HEAD" or status == 204 or status == 304:
            length = 0  # no body, whatever is declared (RFC 9112 §6.3, item 1)
        elif length >= 0:
            self.left = length
        if length >= 0:
            self._mode = _LENGTH
        elif length == CHUNKED:
            limits = client.plane.limits
            self.chunks = ChunkReader(limits.max_trailer_bytes, limits.max_fields)
            self._mode = _CHUNKED if request.minor else _UNCHUNKED
        else:
            self._mode = _INTO_CHUNKS if request.minor else _RAW
        if self._mode in (_UNCHUNKED, _RAW):
            self.keeps_client = False
        self.ends_with_connection = length == UNTIL_CLOSE
        # A client can tell a broken answer by its framing; without any, only a reset tells.
        self.close_can_be_seen = self._mode not in (_UNCHUNKED, _RAW)
        self.is_stream = response.event_stream and length < 0
        if self.is_stream:
            self.coded = _CODED.search(response.fields) is not None
            self.lines = _LINES.search(response.fields) is not None

    def begin(self, exchange: Exchange, response: ResponseHead, data: bytes, now: float) -> None:
        """The head, and what of the body has come with it, in one write. `Malformed`: nothing was written yet."""
        client = self._client
        body = self._framed(data) if data else b""
        turn = self.turn
        if self._mode == _LENGTH and not self.left:
            self.done = True
        parts = [response.fields]
        if not response.has_date:
            parts.append(b"Date: %b\r\n" % client.plane.date)  # RFC 9110 §6.6.1
        if self._mode in (_CHUNKED, _INTO_CHUNKS):
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if not self.keeps_client:
            parts.append(b"Connection: close\r\n")
        elif not exchange.request.minor:
            parts.append(b"Connection: keep-alive\r\n")
        if client.plane.debug_header:
            parts.append(exchange.group.debug)
        if turn is not None and turn.cookie:
            parts.append(turn.cookie)
        parts.append(b"\r\n")
        parts.append(body)
        if self.is_stream:
            exchange.group.slot.streams += 1
        client.answer_begun(now)
        self._write(b"".join(parts))

    def body(self, data: bytes) -> None:
        """More of the body. `Malformed`: nothing of these data was written."""
        payload = whole_chunk(data) if self._mode == _CHUNKED else 0
        if not payload or not self._at_boundary():
            data = self._framed(data)
        elif len(data) < _SHORT or (self.turn is not None and self.turn.learner is not None):
            self._tap(data[payload:-2])
        elif self.is_stream:
            self.tail = data[-6:-2]
        client = self._client
        if client.stream_idle:
            client.answer_begun(monotonic())
        if data:
            self._write(data)

    def hold(self) -> None:
        """Keep what is to be written, until `let_go`."""
        if self.held is None:
            self.held = []

    def let_go(self) -> None:
        """Write what was kept."""
        held, self.held = self.held, None
        if held:
            self._client.transport.write(b"".join(held))

    def _write(self, data: bytes) -> None:
        if self.held is None:
            self._client.transport.write(data)
        else:
            self.held.append(data)

    def _tap(self, payload: bytes) -> None:
        """A piece of the body: the session's turn may see it, and where it mints an id, it waits for its pin."""
        if self.is_stream:
            self.tail = payload[-4:] if len(payload) > 3 else (self.tail + payload)[-4:]
        if self.turn is not None and self.turn.learner is not None and self.turn.tap(payload):
            self.hold()

    def ended(self) -> None:
        """The agent closed, and with that its answer is whole (RFC 9112 §6.3, item 8)."""
        self.done = True
        if self._mode == _INTO_CHUNKS:
            self._write(last_chunk([]))

    def end_stream(self) -> bool:
        """End an event stream between two of its events, in a way that its client can go on from; False: not now."""
        if not self.is_stream or self.held is not None or self.done or not self._between_events():
            return False
        word = b"" if self.lines or self.coded else RETRY
        if self._mode in (_CHUNKED, _INTO_CHUNKS):
            word = (chunk(word) if word else b"") + last_chunk([])
        self._client.transport.write(word)
        return True

    def _between_events(self) -> bool:
        """Whether no event is open. Of a coded stream only its agent's chunks tell: who encodes events flushes them one
        by one, or they would not come in time; and nothing of ours can be written into it."""
        if self.coded:
            return self._at_boundary()
        return not self.tail or self.tail.endswith(b"\n" if self.lines else _EVENT_ENDS)

    def probe(self) -> bool:
        """Write a byte that changes nothing, to learn whether a client that closed its side still reads.

        Our chunks always end with our writes, and a chunk size may have leading zeros (RFC 9112 §7.1).
        """
        if self._mode not in (_CHUNKED, _INTO_CHUNKS) or self.held is not None:
            return False
        self._client.transport.write(b"0")
        return True

    def _at_boundary(self) -> bool:
        return self.chunks is not None and self.chunks.at_boundary()

    def _framed(self, data: bytes) -> bytes:
        """The data in the client's framing."""
        chunks = self.chunks
        if chunks is None:
            if self._mode == _LENGTH:
                data = self._within_length(data)
            self._tap(data)
            return chunk(data) if self._mode == _INTO_CHUNKS else data
        pieces: list[bytes] = []
        taken = chunks.feed(data, pieces)
        for piece in pieces:
            self._tap(piece)
        if chunks.done:
            self.done = True
            if taken < len(data):
                self.keeps_agent = False  # bytes beyond the answer's end: never the next request's (RFC 9112 §9.2)
        if self._mode == _UNCHUNKED:
            return b"".join(pieces)
        framed = [chunk(piece) for piece in pieces]
        if self.done:
            framed.append(last_chunk(chunks.trailers if self._client.plane.forward_trailers else []))
        return b"".join(framed)

    def _within_length(self, data: bytes) -> bytes:
        left = self.left - len(data)
        if left > 0:
            self.left = left
            return data
        self.done = True
        if left < 0:
            self.keeps_agent = False
            data = data[: self.left]
        self.left = 0
        return data
