"""A real agent, small enough to read: what the demo runs twice, as two releases, behind the proxy.

It speaks what agents speak, each by its official means: MCP over Streamable HTTP (`/mcp`, the `mcp` package), the
OpenAI chat API (`/v1/chat/completions`, plain JSON and streamed) and a WebSocket conversation (`/ws`), one ASGI app on
uvicorn. Every part of every answer carries its number, the release that made it and the caller's own tag, so that a
client can tell a gap, a mixture or somebody else's answer from the right one. It knows of neither proxy nor colors.

    python -m bgproxy.cli.demo.agent --release v1 --port 9101
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

READY_LINE = "agent {release} listens on {url}"  # what `main` prints, and whoever started the agent waits for

_ORDER = re.compile(r"count to (?P<to>[0-9]{1,6}) every (?P<every_ms>[0-9]{1,5}) ms for (?P<tag>\S{1,64})")
_GRACE_TIMEOUT = 2  # seconds for answers that are under way when the agent is told to end


class Reply(BaseModel):
    """The structured answer of a tool: who made it, for whom, and how many steps it took."""

    release: str
    tag: str
    steps: int


def build(release: str, host: str = "127.0.0.1", server: MCPServer[None] | None = None) -> Starlette:
    """The agent as an ASGI app. `host` is where it will listen; on loopback, MCP refuses foreign Host headers.
    `server`: other tools than its own.
    """
    # Stateless: no MCP session lives in a process, so each call may land on either release.
    app = (server or tools(release)).streamable_http_app(stateless_http=True, host=host)
    chat, talk = _Chat(release), _Talk(release)
    app.router.routes += [
        Route("/v1/chat/completions", chat.complete, methods=["POST"]),
        Route("/healthz", _healthy, methods=["GET"]),
        WebSocketRoute("/ws", talk.converse),
    ]
    return app


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def tools(release: str) -> MCPServer[None]:
    """What it can do over MCP."""
    server: MCPServer[None] = MCPServer("demo-agent", version=release, log_level="WARNING")

    @server.tool()
    async def ask(tag: str) -> Reply:
        """Answer at once, with the release that answers."""
        return Reply(release=release, tag=tag, steps=1)

    @server.tool()
    async def work(tag: str, steps: int, every_ms: int, ctx: Context[None, Any]) -> Reply:
        """Work in steps and tell the progress of each one before the answer."""
        for step in range(steps):
            await ctx.report_progress(step, steps, f"{tag} {release}")
            await asyncio.sleep(every_ms / 1000)
        return Reply(release=release, tag=tag, steps=steps)

    return server


class _Chat:
    """`POST /v1/chat/completions`: it counts as it is told to (`count to 10 every 50 ms for ann`), and answers all else
    with one word. The release stands in `system_fingerprint`, as the API has it for this.
    """

    def __init__(self, release: str) -> None:
        self._release = release

    async def complete(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            prompt = str(body["messages"][-1]["content"])
        except (ValueError, LookupError, TypeError):
            return _refusal("The body must be JSON with `messages`, the last of which has `content`.")
        words, every = ["pong "], 0.0
        if (order := _ORDER.search(prompt)) is not None:
            words = [f"{order['tag']}:{number} " for number in range(int(order["to"]))]
            every = int(order["every_ms"]) / 1000
        if body.get("stream"):
            return StreamingResponse(self._stream(words, every), media_type="text/event-stream")
        await asyncio.sleep(every)
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": 1 + len(words)}
        return JSONResponse({**self._frame("chat.completion"), "choices": [choice], "usage": usage})

    async def _stream(self, words: list[str], every: float) -> AsyncIterator[str]:
        frame = self._frame("chat.completion.chunk")
        for word in words:
            yield _event(frame, {"role": "assistant", "content": word}, None)
            await asyncio.sleep(every)
        yield _event(frame, {}, "stop")
        yield "data: [DONE]\n\n"

    def _frame(self, kind: str) -> dict[str, Any]:
        now = time.time_ns()
        return {
            "id": f"chatcmpl-{now}",
            "object": kind,
            "created": now // 1_000_000_000,
            "model": "counter",
            "system_fingerprint": self._release,
        }


def _event(frame: dict[str, Any], delta: dict[str, str], finish: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return f"data: {json.dumps({**frame, 'choices': [choice]})}\n\n"


def _refusal(message: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": "messages", "code": None}
    return JSONResponse({"error": error}, status_code=400)


class _Talk:
    """`/ws`: each text that comes is one turn; the answer carries the agent's own count of them."""

    def __init__(self, release: str) -> None:
        self._release = release

    async def converse(self, websocket: WebSocket) -> None:
        await websocket.accept()
        turn = 0
        try:
            while True:
                text = await websocket.receive_text()
                await websocket.send_text(json.dumps({"release": self._release, "turn": turn, "text": text}))
                turn += 1
        except WebSocketDisconnect:
            return


class _Server(uvicorn.Server):
    """uvicorn, but it says where it listens once connections are taken: with port 0 only the kernel knows before."""

    release = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(READY_LINE.format(release=self.release, url=f"http://{host}:{port}"), flush=True)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m bgproxy.cli.demo.agent", description="A small agent for demos.")
    parser.add_argument("--release", required=True, help="the label that every answer carries")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one; the line printed tells")
    given = parser.parse_args()
    config = uvicorn.Config(
        build(given.release, given.host),
        host=given.host,
        port=given.port,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_TIMEOUT,
    )
    server = _Server(config)
    server.release = given.release
    server.run()


if __name__ == "__main__":
    main()
