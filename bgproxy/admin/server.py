"""The admin application on its sockets: started, exchanged for one with new options, stopped."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiohttp import web

from bgproxy.admin.app import build
from bgproxy.admin.problems import COMMON_FIELDS, UNFORESEEN, BadRequest, Unexpected, respond
from bgproxy.admin.seams import AdminDeps

SHUTDOWN_TIMEOUT = 1.0  # seconds for admin calls that are under way; event streams end at once
KEEPALIVE_TIMEOUT = 75.0  # seconds; above what dashboards and scrapers keep idle connections for
BACKLOG = 128  # callers whose connections the kernel keeps until they are accepted
LINGER_TIMEOUT = 2.0  # seconds for the rest of a refused body, so that a reset does not eat the answer

library_log = logging.getLogger(f"{__name__}.http")


def _without_trace(record: logging.LogRecord) -> bool:
    """What the HTTP library logs are malformed requests, and the trace would quote them, credentials and all."""
    record.exc_info = None
    return True


library_log.addFilter(_without_trace)

_HTTP: Final[Mapping[str, Any]] = {
    "access_log": None,
    "logger": library_log,
    "keepalive_timeout": KEEPALIVE_TIMEOUT,
    "lingering_time": LINGER_TIMEOUT,
    "auto_decompress": False,  # a compressed body is refused, not unpacked first
}
_NOT_HTTP: Final = "the request is no HTTP/1.1 that is understood here; nothing of it was done"


class _Connection(web.RequestHandler):
    """One caller's. What is no HTTP never comes to the application, and is told as a problem all the same."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs it, and raises where an answer has begun
        answer = respond(BadRequest(_NOT_HTTP) if status < 500 else Unexpected(UNFORESEEN))
        answer.headers.update(COMMON_FIELDS)
        answer.force_close()
        return answer


class AdminServer:
    """Serves the admin API of one worker."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        """`sockets`: bound and listening; they stay open over `replace`."""
        self._sockets = sockets
        self._runner: web.AppRunner | None = None
        self._doors: list[asyncio.Server] = []

    async def start(self, deps: AdminDeps) -> None:
        """Serve on the sockets. Raises ConfigError for options that must not be served with."""
        runner = web.AppRunner(build(deps), shutdown_timeout=SHUTDOWN_TIMEOUT)
        await runner.setup()
        assert runner.server is not None  # `setup` has made it
        loop = asyncio.get_running_loop()
        connection = partial(_Connection, runner.server, loop=loop, **_HTTP)
        self._doors = [await loop.create_server(connection, sock=sock.dup(), backlog=BACKLOG) for sock in self._sockets]
        self._runner = runner

    async def replace(self, deps: AdminDeps) -> None:
        """Serve with other options (tokens, allowed hosts) from now on; calls under way finish on the old ones.

        Nothing is done before `start` and after `stop`.
        """
        runner, doors = self._runner, self._doors
        if runner is None:
            return
        await self.start(deps)
        await _end(runner, doors)

    async def stop(self) -> None:
        """End event streams, let calls under way finish, close the sockets."""
        runner, self._runner = self._runner, None
        await _end(runner, self._doors)
        for sock in self._sockets:
            sock.close()


async def _end(runner: web.AppRunner | None, doors: Sequence[asyncio.Server]) -> None:
    """Accept nobody any more, end event streams, and let calls under way finish."""
    for door in doors:
        door.close()
    if runner is not None:
        await runner.cleanup()
