"""What may be in flight when something ends: an answer that is waited for, a stream of events, a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from serving import Agent, Serve, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from wire import Wire


@contextlib.asynccontextmanager
async def asking(serve: Serve, path: str) -> AsyncIterator[Wire]:
    wire = await serve.connect()
    try:
        await wire.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        yield wire
    finally:
        wire.close()


def talking(serve: Serve) -> connect:
    return connect(f"ws://127.0.0.1:{serve.port}/socket", close_timeout=5, ping_interval=None)


@contextlib.asynccontextmanager
async def one_of_each(serve: Serve, agent: Agent) -> AsyncIterator[tuple[Wire, Wire, ClientConnection]]:
    """A request that the agent holds, a stream after its first event, and a WebSocket that nothing was said on."""
    async with asking(serve, "/hold") as request, asking(serve, "/events") as stream, talking(serve) as line:
        await until(lambda: agent.held == 1)
        await stream.head()
        await event(stream, 1)
        yield request, stream, line


async def event(wire: Wire, number: int) -> None:
    assert await wire.chunk() == b"id: %d\ndata: v1\n\n" % number


async def closed(line: ClientConnection) -> tuple[int, str]:
    """The code and reason with which the proxy closes a WebSocket."""
    with pytest.raises(ConnectionClosed) as caught:
        await asyncio.wait_for(line.recv(), 10)
    assert caught.value.rcvd is not None, "the connection broke without a close frame"
    return caught.value.rcvd.code, caught.value.rcvd.reason
