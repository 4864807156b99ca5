"""The workers of one host know one another through Unix sockets in a private directory, so that any of them can speak
for all: each tells its own snapshot there, and asks the others for theirs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

log = logging.getLogger(__name__)

TIMEOUT = 0.5  # seconds: a worker that is busier than that is left out this time

Snapshot = dict[str, Any]


class HostPeers:
    """This worker's door for its siblings, and its view of them."""

    def __init__(self, directory: Path, slot: int, own: Callable[[], Snapshot]) -> None:
        """`slot`: this worker's number on this host; `own`: this worker's snapshot, quick to make."""
        self._directory = directory
        self._path = directory / f"worker-{slot}.sock"
        self._own = own
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Open the door. A socket that a dead predecessor left is replaced."""
        app = web.Application()
        app.router.add_get("/snapshot", self._tell)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self._path)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._path.unlink(missing_ok=True)

    async def snapshots(self) -> list[Snapshot]:
        """Every living worker's snapshot, this one's first. Never raises; who does not answer is left out."""
        others = [path for path in sorted(self._directory.glob("worker-*.sock")) if path != self._path]
        told = await asyncio.gather(*(_ask(path) for path in others))
        return [self._own(), *(snapshot for snapshot in told if snapshot is not None)]

    async def _tell(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self._own()), content_type="application/json")


async def _ask(path: Path) -> Snapshot | None:
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(os.fspath(path))) as session,
            session.get("http://worker/snapshot") as answer,
        ):
            snapshot: Snapshot = orjson.loads(await answer.read())
            return snapshot
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
        log.debug("%s did not answer: %s", path.name, error)
        return None
