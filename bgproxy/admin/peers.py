"""The workers of one host know one another through Unix sockets in a private directory, so that any of them can speak
for all: each tells its own snapshot there, and asks the others for theirs. For one that does not answer, dead or too
busy, the counters that it left on the disk are told, so that the host's totals never fall."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from bgproxy.errors import StoreUnavailable
from bgproxy.telemetry import legacy
from bgproxy.telemetry.metrics import counters_of, merge

log = logging.getLogger(__name__)

TIMEOUT = 0.5  # seconds: a worker that is busier than that is left out this time

Snapshot = dict[str, Any]


class HostPeers:
    """This worker's door for its siblings, and its view of them."""

    def __init__(
        self, directory: Path, slot: int, own: Callable[[], Snapshot], refresh: Callable[[], Awaitable[object]]
    ) -> None:
        """`slot`: this worker's number on this host; `own`: this worker's snapshot, quick to make; `refresh`: reads
        the store and applies what is newer."""
        self._directory = directory
        self._slot = slot
        self._path = self._door(slot)
        self._own = own
        self._refresh = refresh
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Open the door. A socket that a dead predecessor left is replaced."""
        app = web.Application()
        app.router.add_get("/snapshot", self._tell)
        app.router.add_post("/refresh", self._catch_up)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self._path)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._path.unlink(missing_ok=True)

    async def snapshots(self) -> list[Snapshot]:
        """Every living worker's snapshot, this one's first, which tells the counters of the absent as well.

        Never raises; who does not answer, and has left nothing, is left out.
        """
        others = [slot for slot in self._slots() if slot != self._slot]
        told = await asyncio.gather(*(_call(self._door(slot), "GET", "/snapshot") for slot in others))
        absent = [slot for slot, snapshot in zip(others, told, strict=True) if snapshot is None]
        return [self._for(absent), *(snapshot for snapshot in told if snapshot is not None)]

    async def catch_up(self) -> None:
        """Let every other worker of this host apply what the store holds by now, and return when they have.

        Never raises. A worker that does not answer in time is not waited for: the store's own bell reaches it too.
        """
        doors = [self._door(slot) for slot in self._slots() if slot != self._slot]
        await asyncio.gather(*(_call(door, "POST", "/refresh") for door in doors))

    def _slots(self) -> list[int]:
        """Every worker's number that has a door, or a file that it left."""
        names = {path.stem.removeprefix("worker-") for path in self._directory.glob("worker-*.*")}
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _for(self, absent: list[int]) -> Snapshot:
        own = self._own()
        left = [found for slot in absent if (found := self._left_by(slot)) is not None]
        return {**own, "metrics": merge([own["metrics"], *left])} if left else own

    def _left_by(self, slot: int) -> Snapshot | None:
        left = legacy.read(self._directory, slot)
        try:
            return counters_of(left) if left is not None else None
        except (KeyError, TypeError, ValueError) as error:
            log.debug("the counters of worker %d cannot be told: %s", slot, error)
            return None

    def _door(self, slot: int) -> Path:
        return self._directory / f"worker-{slot}.sock"

    async def _tell(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self._own()), content_type="application/json")

    async def _catch_up(self, _: web.Request) -> web.Response:
        try:
            await self._refresh()
        except StoreUnavailable as error:
            log.debug("could not catch up: %s", error)
        return web.Response(body=b"{}", content_type="application/json")


async def _call(path: Path, method: str, what: str) -> Snapshot | None:
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(os.fspath(path))) as session,
            session.request(method, f"http://worker{what}") as answer,
        ):
            told: Snapshot = orjson.loads(await answer.read())
            return told
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
        log.debug("%s did not answer: %s", path.name, error)
        return None
