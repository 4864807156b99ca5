"""The admin application on its sockets: started, exchanged for one with new options, stopped."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from aiohttp import web

from bgproxy.admin.app import build
from bgproxy.admin.seams import AdminDeps

SHUTDOWN_TIMEOUT = 1.0  # seconds for admin calls that are under way; event streams end at once


class AdminServer:
    """Serves the admin API of one worker."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        """`sockets`: bound and listening; they stay open over `replace`."""
        self._sockets = sockets
        self._runner: web.AppRunner | None = None

    async def start(self, deps: AdminDeps) -> None:
        runner = web.AppRunner(build(deps), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
        await runner.setup()
        for sock in self._sockets:
            await web.SockSite(runner, sock.dup()).start()
        self._runner = runner

    async def replace(self, deps: AdminDeps) -> None:
        """Serve with other options (tokens, allowed hosts) from now on; calls under way finish on the old ones."""
        old = self._runner
        await self.start(deps)
        if old is not None:
            await old.cleanup()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        for sock in self._sockets:
            sock.close()
