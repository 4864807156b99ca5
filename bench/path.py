"""What one request costs within the data path: the same bytes again and again, through sockets that are none.

    python bench/path.py

Everything between the client's bytes and the agent's is the product's own code; the kernel and the event loop are left
out. So small differences show, which between real sockets drown in the noise of the machine.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop

from bgproxy.config import Settings
from bgproxy.proxy.client import ClientConnection
from bgproxy.proxy.plane import DataPlane
from bgproxy.proxy.upstream import UpstreamConnection
from bgproxy.rules.fleet import bootstrap
from bgproxy.rules.route import RouteTable
from bgproxy.store.memory import MemoryStore
from bgproxy.store.mirror import Mirror
from bgproxy.store.pins import PinCache
from bgproxy.telemetry.access import AccessLog
from bgproxy.telemetry.metrics import Metrics

AGENT = "http://127.0.0.1:9"
SESSION = b"6f1c1d8e-52a7-4c5e-9f4a-0b7d8a3c2e11"
ROUNDS, CALLS = 15, 4_000

_OPEN, _CLOSE = b'{"model":"agent-1","stream":false,"messages":[{"role":"user","content":"', b'"}]}'
BODY = _OPEN + b"x" * (1024 - len(_OPEN) - len(_CLOSE)) + _CLOSE
ANSWER = json.dumps(
    {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "y" * 120}}]}
).encode()


class Wire:
    """A transport whose other end is nobody."""

    def write(self, data: bytes) -> None:
        """Take it."""

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is kept."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    resume_reading = close = abort = pause_reading


def head(first: str, *fields: str) -> bytes:
    """A head with its empty line."""
    return "\r\n".join((first, *fields, "", "")).encode()


_AGENT_FIELDS = (
    "Host: agents.example",
    "User-Agent: OpenAI/Python 3.54.0",
    "Accept: application/json, text/event-stream",
    "Accept-Encoding: gzip, deflate",
    "Connection: keep-alive",
    "Content-Type: application/json",
    "Authorization: Bearer sk-bench-0123456789abcdef0123456789abcdef0123",
    "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "X-Request-Id: 5e0f1d1c-8a2b-4a7e-b2b6-6d2f9c1b7a90",
    "X-Stainless-Lang: python",
    f"Content-Length: {len(BODY)}",
)
UNPINNED = head("POST /v1/chat/completions HTTP/1.1", *_AGENT_FIELDS, "X-Stainless-Os: Linux") + BODY
KNOWN = head("POST /mcp HTTP/1.1", *_AGENT_FIELDS, f"Mcp-Session-Id: {SESSION.decode()}") + BODY
SMALL = head("GET /health HTTP/1.1", "Host: agents.example", "Accept: */*")
REPLY = head("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(ANSWER)}") + ANSWER
STREAM = head("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" token"}}],"object":"chat.completion.chunk"}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class Rig:
    """A data path with one client and one agent."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self.client = ClientConnection(plane)
        self.client.connection_made(Wire())  # type: ignore[arg-type]
        upstream = plane.upstreams("blue")[0]
        self.agent = UpstreamConnection(upstream)
        self.agent.connection_made(Wire())  # type: ignore[arg-type]
        self.agent.address = next(iter(upstream.addresses), "")
        upstream.addresses = (self.agent.address,)
        upstream.open += 1
        upstream.idle.append(self.agent)

    def turn(self, request: bytes, answer: bytes) -> None:
        """One request and its answer."""
        self.client.data_received(request)
        self.agent.idle_since = time.monotonic()
        self.agent.data_received(answer)

    async def first(self, request: bytes, answer: bytes) -> None:
        """The first request of a session, which waits for the store."""
        self.client.data_received(request)
        await asyncio.sleep(0.1)
        self.agent.data_received(answer)

    def event(self) -> None:
        """One event of a stream that is open."""
        self.agent.data_received(CHUNK)


async def rig(presets: list[str] | None = None) -> Rig:
    """A data path on the memory store, configured as `bgproxy serve` would be; `presets`: other than the usual."""
    flags: dict[str, Any] = {"store": "memory://", "colors": {"blue": {"upstreams": [AGENT]}}, "active": "blue"}
    if presets is not None:
        flags["sessions"] = {"presets": presets}
    settings = Settings.load(None, flags, {})
    store = MemoryStore(settings.store())
    await store.open()
    await store.commit(bootstrap(settings.colors(), "blue", settings.releases(), "bench", time.time()), create=True)
    mirror = Mirror(store)
    pins = PinCache(store.pins, mirror, "bench", settings.pins())
    access = AccessLog(settings.access_log())
    plane = DataPlane(settings.proxy(), RouteTable(settings.routes()), settings.health(), Metrics(), access, pins)
    mirror.listen(plane.apply)
    await plane.start()
    await mirror.start()
    return Rig(plane)


def micros(call: Callable[[], None]) -> float:
    """The least of many rounds: what the code costs. What is above it is the machine's."""
    least = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        least = min(least, time.perf_counter() - began)
    return least / CALLS * 1e6


async def cost(presets: list[str] | None) -> dict[str, float]:
    """Microseconds for each kind of request, and for an event."""
    one = await rig(presets)
    await one.first(KNOWN, REPLY)
    found = {
        name: micros(partial(one.turn, request, REPLY))
        for name, request in (("unpinned", UNPINNED), ("known", KNOWN), ("small", SMALL))
    }
    one.client.data_received(UNPINNED)
    one.agent.data_received(STREAM)
    return {**found, "event": micros(one.event)}


async def main() -> None:
    """Measure, and print it as JSON: without presets and with the usual ones."""
    gc.collect()
    gc.freeze()
    print(json.dumps({"none": await cost([]), "usual": await cost(None)}))


if __name__ == "__main__":
    uvloop.run(main())
