"""The bells of a single process, each one watcher's: what has rung is held until that watcher asks.

Both promise a bound. Of revisions only the newest is held. A watcher of pins that has fallen behind by more than
`MAX_RINGS` is told so, and has to ask for all that it knows again.
"""

from __future__ import annotations

import asyncio
from typing import Final

from bgproxy.errors import StoreUnavailable

MAX_RINGS: Final = 100_000  # ids that one watcher may be behind


class PinBell:
    """One watcher's."""

    __slots__ = ("_ids", "_rung")

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._ids: dict[bytes, None] = {}

    def ring(self, pin_id: bytes) -> None:
        """This pin has ended or changed."""
        if len(self._ids) <= MAX_RINGS:
            self._ids[pin_id] = None
        self._rung.set()

    async def rung(self) -> tuple[bytes, ...]:
        """What has rung since the last call, at least one. Raises `StoreUnavailable` where that was too much."""
        await self._rung.wait()
        self._rung.clear()
        ids, self._ids = (*self._ids,), {}
        if len(ids) > MAX_RINGS:
            raise StoreUnavailable("store: more pins have changed than could be told; what is known is asked for again")
        return ids


class RevisionBell:
    """Holds the newest revision until its watcher asks: one that is slow skips, it never queues up."""

    __slots__ = ("_revision", "_rung")

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._revision = 0

    def ring(self, revision: int) -> None:
        self._revision = revision
        self._rung.set()

    async def rung(self) -> int:
        await self._rung.wait()
        self._rung.clear()
        return self._revision
