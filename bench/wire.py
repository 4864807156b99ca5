"""The little HTTP/1.1 that the bench speaks itself: whole answers of known length, one at a time on a connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import cast


def post_json(path: str, body: object, host: str) -> bytes:
    """A POST with a JSON body, as bytes."""
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}"
    return head.encode() + b"\r\n\r\n" + payload


def split_answer(held: bytes) -> tuple[bytes, int] | None:
    """The head of an answer in small letters and the length of the whole message; None while the head is not whole.

    Raises ValueError for an answer without Content-Length: nothing that the bench asks for has another framing.
    """
    end = held.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = held[: end + 2].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"bench: an answer without Content-Length: {held[:200]!r}")
    length = int(head[at + 17 : head.index(b"\r\n", at + 17)])
    return head, end + 4 + length


def answer_is_whole(held: bytes) -> bool:
    """Whether `held` is at least one whole answer."""
    split = split_answer(held)
    return split is not None and len(held) >= split[1]


def parse_answer(held: bytes) -> tuple[int, bytes]:
    """Status and body of a whole answer."""
    return int(held[9:12]), held[held.index(b"\r\n\r\n") + 4 :]


class Line(asyncio.Protocol):
    """A connection on which one question is asked at a time; notes when the last byte of the answer came.

    The time (`time.perf_counter`; uvloop's own clock has steps of 1 ms) is taken in the callback that received it: a
    future would be woken one turn of the loop later.
    """

    def __init__(self) -> None:
        self.answered_at = 0.0
        self.closed = False
        self._held = b""
        self._whole: Callable[[bytes], bool] = bool
        self._waiter: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        if self._waiter and not self._waiter.done() and self._whole(self._held):
            self.answered_at = time.perf_counter()
            self._waiter.set_result(self._held)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(ConnectionError(f"closed before the answer was whole: {self._held[:200]!r}"))

    async def ask(self, question: bytes, whole: Callable[[bytes], bool]) -> bytes:
        """Send, and wait until `whole` says that the answer is. Raises ConnectionError, TimeoutError (10 s)."""
        assert self._transport is not None
        self._held = b""
        self._whole = whole
        self._waiter = self._loop.create_future()
        self._transport.write(question)
        return await asyncio.wait_for(self._waiter, 10.0)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
