"""One agent process: every protocol's agent on one port, one memory, and the count of who came that it does not know.

    python -m agents.serve v1/0

It prints where it listens. `GET /memory`, asked for beside the proxy, tells what it counted.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agents import responses, sockets, tasks, threads, tools
from agents.memory import Memory, Stranger

READY = "listens on "
_Scope = MutableMapping[str, Any]
_Send = Callable[[_Scope], Awaitable[None]]


def build(memory: Memory) -> Callable[..., Awaitable[None]]:
    """All agents as one ASGI app."""
    streamable, sse = tools.streamable(memory), tools.sse(memory)

    async def tell(_: Request) -> Response:
        return JSONResponse(memory.document())

    async def unknown(_: Request, stranger: Exception) -> Response:
        """As OpenAI's API and as LangGraph's server say it."""
        error = {"message": str(stranger), "type": "invalid_request_error", "param": None, "code": "not_found"}
        return JSONResponse({"error": error, "detail": str(stranger)}, status_code=404)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with streamable.router.lifespan_context(streamable), sse.router.lifespan_context(sse):
            yield

    app = Starlette(lifespan=lifespan, routes=[Route("/memory", tell)], exception_handlers={Stranger: unknown})
    for each in (streamable.routes, sse.routes, threads.routes(memory), responses.routes(memory)):
        app.router.routes += each
    app.router.routes += [*sockets.routes(memory), *tasks.routes(memory)]
    return _counting(app, memory)


def _counting(app: Starlette, memory: Memory) -> Callable[..., Awaitable[None]]:
    """The `mcp` package answers 404 to a session that is not its own before any tool hears of it; and to one that was
    its own until it ended.
    """

    async def counting(scope: _Scope, receive: Any, send: _Send) -> None:
        async def counted(message: _Scope) -> None:
            if message["type"] == "http.response.start" and message["status"] == 404:
                request = Request(scope)
                named = (
                    (tools.SESSION, request.headers.get("mcp-session-id")),
                    (tools.SSE, request.query_params.get("session_id")),
                )
                for protocol, session in named:
                    if session and not memory.knows(protocol, session):
                        memory.stranger(protocol)
            await send(message)

        await app(scope, receive, counted if scope["type"] == "http" else send)

    return counting


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"{READY}http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    # A stream that was broken off on purpose would be logged as a fault each time.
    config = uvicorn.Config(build(Memory(sys.argv[1])), log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
