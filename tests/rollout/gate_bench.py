"""An agent in this process that answers as a test says, and what a gate finds there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from bgproxy.rollout.gates.kinds import try_gate
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules.gate import Finding
from bgproxy.rules.plan import Gate
from bgproxy.rules.release import Release
from bgproxy.rules.route import Route, RouteTable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ONE_ROUTE = RouteTable((Route("default"),))


class Bench:
    """`answer` is exchanged by a test; `asked` is what came."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Handler = self.well
        self.came = asyncio.Event()

    async def well(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"ok": True})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        self.came.set()
        return await self.answer(request)

    def says(self, status: int = 200, **parts: Any) -> None:
        """Answer so from now on."""

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, **parts)

        self.answer = answer

    def hangs(self) -> None:
        """Answer nothing from now on."""

        async def never(_: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError("nobody comes here")

        self.answer = never

    def trial(self, *, active: Release | None = None, options: RolloutOptions | None = None, **more: Any) -> Trial:
        release = more.pop("release", Release("v2", (self.url,)))
        environ = more.pop("environ", {"PATH": "/usr/bin:/bin"})
        return Trial(
            "green", release, active, ONE_ROUTE, options or RolloutOptions(), {"run": "r2"}, environ=environ, **more
        )

    async def found(self, gate: Gate, **more: Any) -> Finding:
        return await try_gate(gate, self.trial(**more))


@asynccontextmanager
async def bench(unix: str = "") -> AsyncIterator[Bench]:
    """A bench that serves for as long as the block runs."""
    made = Bench()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        if unix:
            await web.UnixSite(runner, unix).start()
            made.url = f"unix:{unix}"
        else:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
