"""The admin application on its sockets: started, exchanged for one with new options, stopped."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from aiohttp import web

from bgproxy.admin.app import build
from bgproxy.admin.seams import AdminDeps

SHUTDOWN_TIMEOUT = 1.0  # seconds for admin calls that are under way; event streams end at once
KEEPALIVE_TIMEOUT = 75.0  # seconds; above what dashboards and scrapers keep idle connections for
LINGER_TIMEOUT = 2.0  # seconds for the rest of a refused body, so that a reset does not eat the answer

library_log = logging.getLogger(f"{__name__}.http")


def _without_trace(record: logging.LogRecord) -> bool:
    """What the HTTP library logs are malformed requests, and the trace would quote them, credentials and all."""
    record.exc_info = None
    return True


library_log.addFilter(_without_trace)


class AdminServer:
    """Serves the admin API of one worker."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        """`sockets`: bound and listening; they stay open over `replace`."""
        self._sockets = sockets
        self._runner: web.AppRunner | None = None

    async def start(self, deps: AdminDeps) -> None:
        """Serve on the sockets. Raises ConfigError for options that must not be served with."""
        runner = web.AppRunner(
            build(deps),
            access_log=None,
            logger=library_log,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            keepalive_timeout=KEEPALIVE_TIMEOUT,
            lingering_time=LINGER_TIMEOUT,
            auto_decompress=False,  # a compressed body is refused, not unpacked first
        )
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
        """End event streams, let calls under way finish, close the sockets."""
        if self._runner is not None:
            await self._runner.cleanup()
        for sock in self._sockets:
            sock.close()
