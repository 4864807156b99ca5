"""A request's body on its way to the agent, where it did not come whole with its head.

A body of known length goes on as it comes; a chunked one is framed anew, so that the agent never sees the client's own
framing (RFC 9112 §7.1). Most requests need none of this, and make no Upload.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from bgproxy.http1.framing import ChunkReader, chunk, last_chunk
from bgproxy.http1.head import CHUNKED, Malformed

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange


class Upload:
    """The rest of one body. It tells its exchange what to forward, when the body has ended, and what is wrong."""

    chunks: ChunkReader | None = None

    def __init__(self, exchange: Exchange, length: int, come: int) -> None:
        """`come`: how many bytes of a body of known length have come with the head."""
        self._exchange = exchange
        self._client = exchange.client
        self._left = length - come
        self._size = 0
        if length == CHUNKED:
            limits = self._client.plane.limits
            self.chunks = ChunkReader(limits.max_trailer_bytes, limits.max_fields)

    def feed(self, data: bytes) -> None:
        """More from the client; what is beyond the body belongs to its next request."""
        if self.chunks is not None:
            self._chunked(self.chunks, data)
            return
        left = self._left - len(data)
        rest = b""
        if left > 0:
            self._left = left
            self._exchange.expect_next(monotonic())
        else:
            data, rest = data[: self._left], data[self._left :]
            self._exchange.request_ended()
        self._exchange.forward(data)
        if rest:  # before the request may be refused: its end leads to the next one
            self._exchange.bytes_in -= len(rest)
            self._client.stash(rest)
        self._exchange.look_into([data])

    def _chunked(self, chunks: ChunkReader, data: bytes) -> None:
        exchange, plane = self._exchange, self._client.plane
        pieces: list[bytes] = []
        try:
            taken = chunks.feed(data, pieces)
        except Malformed as error:
            exchange.refuse(error.code, error.detail)
            return
        self._size += sum(map(len, pieces))
        limit = plane.limits.max_body_bytes
        if limit and self._size > limit:
            exchange.refuse("body_too_large", f"the body is longer than {limit} bytes")
            return
        framed = [chunk(piece) for piece in pieces]
        if chunks.done:
            framed.append(last_chunk(chunks.trailers if plane.forward_trailers else []))
            exchange.request_ended()
        else:
            exchange.expect_next(monotonic())
        if framed:
            exchange.forward(b"".join(framed))
        if taken < len(data):
            exchange.bytes_in -= len(data) - taken
            self._client.stash(data[taken:])
        if framed:
            exchange.look_into(pieces)
