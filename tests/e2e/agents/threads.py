"""LangGraph's threads and runs, as far as its SDK needs them, kept in the memory of this process.

A streamed run breaks off after its second event where its input asks for that, so that the client must take it up again
where its `Location` says, with `Last-Event-ID`: only the process that holds the run can go on.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from agents.memory import Memory

PROTOCOL = "langgraph"
_STEP = 0.02  # seconds between two events
_BREAKS_AFTER = 2  # events


def routes(memory: Memory) -> list[BaseRoute]:
    api = Threads(memory)
    return [
        Route("/threads", api.create, methods=["POST"]),
        Route("/threads/{thread}/state", api.state, methods=["GET"]),
        Route("/threads/{thread}/runs/wait", api.wait, methods=["POST"]),
        Route("/threads/{thread}/runs/stream", api.stream, methods=["POST"]),
        Route("/threads/{thread}/runs/{run}", api.run, methods=["GET"]),
        Route("/threads/{thread}/runs/{run}/stream", api.join, methods=["GET"]),
    ]


class Threads:
    """The endpoints."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._runs: dict[str, dict[str, Any]] = {}  # what each run will have said

    async def create(self, request: Request) -> Response:
        thread = str(uuid.uuid4())
        self._memory.begin(PROTOCOL, thread)
        return JSONResponse({"thread_id": thread, "status": "idle", "metadata": {}, "values": {}})

    async def state(self, request: Request) -> Response:
        said = self._memory.recall(PROTOCOL, request.path_params["thread"])
        return JSONResponse({"values": said, "next": [], "checkpoint": {}, "metadata": {}, "tasks": []})

    async def wait(self, request: Request) -> Response:
        at, run, _ = await self._begin(request)
        return JSONResponse(self._runs[run], headers={"Content-Location": at})

    async def stream(self, request: Request) -> Response:
        at, run, breaks = await self._begin(request)
        return _streaming(self._events(run, 0, breaks), {"Content-Location": at, "Location": f"{at}/stream"})

    async def run(self, request: Request) -> Response:
        self._known(request)
        return JSONResponse({"run_id": request.path_params["run"], "status": "success"})

    async def join(self, request: Request) -> Response:
        after = int(request.headers.get("last-event-id", 0))
        return _streaming(self._events(self._known(request), after), {"Location": request.url.path})

    async def _begin(self, request: Request) -> tuple[str, str, bool]:
        """A new run on a thread: its path, its id, and whether its stream is to break off."""
        thread, given = request.path_params["thread"], (await request.json())["input"]
        said = self._memory.turn(PROTOCOL, thread, given["word"])
        run = str(uuid.uuid4())
        self._runs[run] = said
        return f"/threads/{thread}/runs/{run}", run, bool(given.get("breaks"))

    def _known(self, request: Request) -> str:
        """The run that a request names; raises Stranger."""
        self._memory.recall(PROTOCOL, request.path_params["thread"])
        return str(request.path_params["run"])

    async def _events(self, run: str, after: int, breaks: bool = False) -> AsyncIterator[str]:
        said = self._runs[run]
        events = [("metadata", {"run_id": run}), ("updates", {}), ("updates", {}), ("values", said), ("end", None)]
        for number, (name, data) in enumerate(events, start=1):
            if number <= after:
                continue
            if breaks and number > _BREAKS_AFTER:
                raise ConnectionAbortedError("broken off, so that it must be taken up again")
            yield f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
            await asyncio.sleep(_STEP)


def _streaming(events: AsyncIterator[str], fields: dict[str, str]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream", headers=fields)
