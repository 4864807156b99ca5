"""A small admin API on a free loopback port, in a thread of its own: it answers what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web


@dataclass
class FakeAdmin:
    """`answers`: method and path → a JSON document, a (status, document) pair, or a handler."""

    url: str = ""
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    knocks: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/livez"):
            self.knocks += 1
            return web.json_response({"alive": True})
        text = await request.text()
        self.asked.append((request.method, request.path_qs, json.loads(text) if text else None))
        self.fields.append(dict(request.headers))
        found = self.answers.get((request.method, request.path), (404, {"detail": "not in this test"}))
        if callable(found):
            return await found(request)
        return _response(found)


class Served(threading.Thread):
    def __init__(self, admin: FakeAdmin, unix: Path | None, shared: bool) -> None:
        super().__init__(daemon=True)
        self._admin, self._unix, self._shared = admin, unix, shared
        self.ready = threading.Event()
        self._loop = asyncio.new_event_loop()

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._admin.answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        if self._unix is not None:
            await web.UnixSite(runner, str(self._unix)).start()
            self._admin.url = f"unix:{self._unix}"
        else:
            await web.TCPSite(runner, "127.0.0.1", 0, reuse_port=self._shared).start()
            self._admin.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._end = asyncio.Event()
        self.ready.set()
        await self._end.wait()
        await runner.cleanup()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self.join()


def problem(status: int, code: str, detail: str, **extra: Any) -> tuple[int, dict[str, Any]]:
    """A problem document as the admin API sends it."""
    kind = f"urn:bgproxy:problem:{code}"
    return status, {"type": kind, "title": "No", "status": status, "detail": detail, "code": code, **extra}


def in_turn(*documents: Any) -> Any:
    """Answers one after the other, the last one for ever."""
    left = list(documents)

    async def answer(_: web.Request) -> web.StreamResponse:
        return _response(left.pop(0) if len(left) > 1 else left[0])

    return answer


def _response(found: Any) -> web.Response:
    status, document = found if isinstance(found, tuple) else (200, found)
    kind = "application/problem+json" if status >= 400 else "application/json"
    return web.Response(status=status, text=json.dumps(document), content_type=kind)
