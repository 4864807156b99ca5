"""`/v1/events`: one server-sent event per change of the pointer, of a release or of its run (WHATWG HTML §9.2).

`event: pointer`, `event: release` or `event: run`, `id:` the revision that brought it. The first events always tell the
state as it stands: that closes every gap, whatever `Last-Event-ID` a caller comes back with (it may have got a part of
a revision's events only). Whoever reads too slowly misses states in between, never the last: what is kept for a reader
is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web

from bgproxy.admin.call import Call
from bgproxy.admin.problems import TooManyWatchers
from bgproxy.admin.run import run_json
from bgproxy.rules.fleet import FleetState
from bgproxy.store.mirror import Mirror

HEARTBEAT_INTERVAL = 15.0  # s; shorter than what proxies and load balancers call idle
RETRY_MS = 1_000  # after which a client comes back by itself
MAX_WATCHERS = 128  # streams of one worker
MAX_WAITING = 64  # states kept for one stream


class Watcher:
    """What one stream has still to tell."""

    def __init__(self) -> None:
        self._states: deque[FleetState] = deque(maxlen=MAX_WAITING)
        self._changed = asyncio.Event()
        self._closed = False

    def tell(self, state: FleetState) -> None:
        """Take one more state; the oldest one gives way where too many wait."""
        self._states.append(state)
        self._changed.set()

    def close(self) -> None:
        """End the stream after what waits."""
        self._closed = True
        self._changed.set()

    async def next(self, timeout: float) -> FleetState | None:
        """The next state; None after `timeout` seconds without one. Raises EOFError at the end."""
        if not self._states:
            self._changed.clear()
            if not self._closed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._changed.wait()
        if self._states:
            return self._states.popleft()
        if self._closed:
            raise EOFError
        return None


class Watchers:
    """All open streams of this worker; each newer state of the mirror goes to every one."""

    def __init__(self, mirror: Mirror) -> None:
        self._open: set[Watcher] = set()
        self._closed = False
        mirror.listen(self._tell)

    def __len__(self) -> int:
        return len(self._open)

    def _tell(self, state: FleetState) -> None:
        for watcher in self._open:
            watcher.tell(state)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watcher]:
        """A watcher for as long as the block runs. Raises TooManyWatchers."""
        if len(self._open) >= MAX_WATCHERS:
            raise TooManyWatchers(f"{MAX_WATCHERS} event streams are open on this worker already")
        watcher = Watcher()
        if self._closed:
            watcher.close()
        self._open.add(watcher)
        try:
            yield watcher
        finally:
            self._open.discard(watcher)

    async def close(self, _app: web.Application) -> None:
        """End every stream: the server shuts down."""
        self._closed = True
        for watcher in self._open:
            watcher.close()


WATCHERS = web.AppKey("watchers", Watchers)


async def events(call: Call) -> web.StreamResponse:
    """Tell changes until the client leaves or the server ends."""
    with call.request.app[WATCHERS].watch() as watcher:
        seen = call.deps.state()
        fields = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=fields)
        # The writes fail once the client is gone; there is nobody left to tell it to.
        with contextlib.suppress(ConnectionError):
            await response.prepare(call.request)
            await response.write(f"retry: {RETRY_MS}\n\n".encode())
            await response.write(encode(None, seen))
            await _follow(response, watcher, seen)
        return response


async def _follow(response: web.StreamResponse, watcher: Watcher, seen: FleetState) -> None:
    with contextlib.suppress(EOFError):
        while True:
            state = await watcher.next(HEARTBEAT_INTERVAL)
            if state is None:
                await response.write(b": still here\n\n")
            else:
                await response.write(encode(seen, state))
                seen = state


def encode(old: FleetState | None, new: FleetState) -> bytes:
    """The events between two states, as they go over the wire."""
    return b"".join(
        b"event: %b\nid: %d\ndata: %b\n\n" % (name.encode(), new.revision, orjson.dumps(data))
        for name, data in changes(old, new)
    )


def changes(old: FleetState | None, new: FleetState) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is different: the pointer first, then each color's release, the run. All of it where nothing is known."""
    if old is None or old.pointer != new.pointer:
        yield "pointer", {**asdict(new.pointer), "revision": new.revision}
    for color in new.colors:
        release = new.releases.get(color)
        if old is None or color not in old.colors or old.releases.get(color) != release:
            yield (
                "release",
                {
                    "color": color,
                    "release": release and release.label,
                    "phase": release and str(release.phase),
                    "upstreams": list(release.upstreams) if release else [],
                    "at": release and release.at,
                    "epoch": new.pointer.epoch,
                    "revision": new.revision,
                },
            )
    if new.run is not None and (old is None or old.run != new.run):
        yield "run", {**run_json(new.run), "revision": new.revision}
