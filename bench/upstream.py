"""The agents of the bench: one color's worth of cheap, exact answers on uvloop.

    python -m bench.upstream --port 9101 --color blue

`POST /turn` answers the color and notes the request's X-Bench-Id; `GET /noted` hands the notes over and forgets them.
`GET /stream` sends an event of known size every 20 ms until the client leaves, `GET /idle` one event and then silence.
`POST /v1/chat/completions` and `POST /mcp` answer as the demo's agent does: a chat that counts, a stateless MCP server
with a tool `ask`. Anything else is answered like a turn. Requests have a Content-Length or no body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import cast

import uvloop

EVENT_INTERVAL = 0.02
SLOTS = 20  # the streams of one interval are spread over so many moments, 1 ms apart
MARK = b"~"  # stands once in each event and nowhere else in an answer: counting it counts events
ORDER = re.compile(r"count to (?P<to>[0-9]{1,6}) every (?P<every_ms>[0-9]{1,5}) ms for (?P<tag>\S{1,64})")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(content: str, release: str) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    whole = {"object": "chat.completion.chunk", "system_fingerprint": release, "choices": [choice]}
    return b"data: " + json.dumps(whole, separators=(",", ":")).encode() + b"\n\n"


EVENT = _chunk(_event("token" + MARK.decode(), "bench"))
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _json_answer(body: object, status: str = "200 OK") -> bytes:
    payload = json.dumps(body, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


class Emitter:
    """Writes EVENT to every stream each EVENT_INTERVAL; late ticks are made up for, so the rate holds."""

    def __init__(self) -> None:
        self._slots: list[set[asyncio.WriteTransport]] = [set() for _ in range(SLOTS)]
        self._streams = 0
        self._at = 0
        self._due = 0.0
        self._ticking = False

    def add(self, transport: asyncio.WriteTransport) -> None:
        min(self._slots, key=len).add(transport)
        if not self._ticking:
            self._ticking = True
            self._due = time.perf_counter()
            self._tick()

    def discard(self, transport: asyncio.WriteTransport) -> None:
        for slot in self._slots:
            slot.discard(transport)

    def _tick(self) -> None:
        now = time.perf_counter()
        while self._due <= now:
            for transport in self._slots[self._at]:
                transport.write(EVENT)
            self._at = (self._at + 1) % SLOTS
            self._due += EVENT_INTERVAL / SLOTS
        self._ticking = any(self._slots)
        if self._ticking:
            asyncio.get_running_loop().call_later(EVENT_INTERVAL / SLOTS, self._tick)


class Agent:
    """What all connections of one color share."""

    def __init__(self, color: str) -> None:
        self.color = color
        self.emitter = Emitter()
        self.noted: list[bytes] = []
        self.turn_answer = _json_answer({"color": color})
        self.routes: dict[bytes, Callable[[Connection, bytes, bytes], None]] = {
            b"/turn": _turn,
            b"/noted": _noted,
            b"/stream": _stream,
            b"/idle": _idle,
            b"/v1/chat/completions": _chat,
            b"/mcp": _mcp,
        }


class Connection(asyncio.Protocol):
    """Requests one after another; each is handed over when it is whole."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.agent.emitter.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.held = self.held + data if self.held else data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[: end + 2]
            whole = end + 4 + _content_length(head)
            if len(self.held) < whole:
                return
            body, self.held = self.held[end + 4 : whole], self.held[whole:]
            target = head.split(b" ", 2)[1].partition(b"?")[0]
            self.agent.routes.get(target, _turn)(self, head, body)


def _field(head: bytes, name: bytes) -> bytes:
    """A field's value; `name` in small letters. Empty where the field is absent."""
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


def _content_length(head: bytes) -> int:
    return int(_field(head, b"content-length") or 0)


def _turn(connection: Connection, head: bytes, _body: bytes) -> None:
    if number := _field(head, b"x-bench-id"):
        connection.agent.noted.append(number)
    connection.transport.write(connection.agent.turn_answer)


def _noted(connection: Connection, _head: bytes, _body: bytes) -> None:
    agent = connection.agent
    agent.noted, numbers = [], b" ".join(agent.noted)
    connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(numbers), numbers))


def _stream(connection: Connection, _head: bytes, _body: bytes) -> None:
    connection.transport.write(STREAM_HEAD)
    connection.agent.emitter.add(connection.transport)


def _idle(connection: Connection, _head: bytes, _body: bytes) -> None:
    connection.transport.write(STREAM_HEAD + EVENT)


def _chat(connection: Connection, _head: bytes, body: bytes) -> None:
    asked = json.loads(body)
    order = ORDER.search(asked["messages"][-1]["content"])
    if order is None:
        answer = {"error": {"message": "ask for `count to 10 every 50 ms for ann`", "type": "invalid_request_error"}}
        connection.transport.write(_json_answer(answer, "400 Bad Request"))
        return
    words = [f"{order['tag']}:{number} " for number in range(int(order["to"]))]
    release = connection.agent.color
    if asked.get("stream"):
        connection.transport.write(STREAM_HEAD)
        _chat_event(connection.transport, release, words, int(order["every_ms"]) / 1000)
        return
    message = {"role": "assistant", "content": "".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "chatcmpl-bench", "object": "chat.completion", "system_fingerprint": release, "choices": [choice]}
    connection.transport.write(_json_answer(whole))


def _chat_event(transport: asyncio.Transport, release: str, words: list[str], every: float) -> None:
    """Send the next word and set a timer for the rest."""
    if transport.is_closing():
        return
    if not words:
        transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return
    transport.write(_chunk(_event(words[0], release)))
    asyncio.get_running_loop().call_later(every, _chat_event, transport, release, words[1:], every)


def _mcp(connection: Connection, _head: bytes, body: bytes) -> None:
    asked = json.loads(body)
    if "id" not in asked:
        connection.transport.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        return
    params, release = asked.get("params", {}), connection.agent.color
    reply = {"release": release, "tag": params.get("arguments", {}).get("tag"), "steps": 1}
    results: dict[str, object] = {
        "initialize": {
            "protocolVersion": params.get("protocolVersion"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "bench", "version": release},
        },
        "tools/list": {"tools": [{"name": "ask", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": json.dumps(reply)}], "structuredContent": reply},
    }
    answer = {"jsonrpc": "2.0", "id": asked["id"], "result": results.get(asked["method"], {})}
    connection.transport.write(_json_answer(answer))


async def serve(port: int, color: str) -> None:
    """Serve until cancelled."""
    agent = Agent(color)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(agent), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="The agents of the bench.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--color", default="blue")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.color))


if __name__ == "__main__":
    main()
