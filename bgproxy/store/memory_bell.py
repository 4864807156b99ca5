"""The bells of a single process, each one watcher's: what has rung is held until that watcher asks.

Both promise a bound. Of revisions only the newest is held. A watcher of pins that has fallen behind by more than
`MAX_RINGS` is told so, and has to ask for all that it knows again. Once another process has the store, both are told.
"""

from __future__ import annotations

import asyncio
from typing import Final

from bgproxy.errors import StoreUnavailable

MAX_RINGS: Final = 100_000  # ids that one watcher may be behind


class Bell:
    """One watcher's of either kind."""

    __slots__ = ("_is_over", "_rung")

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._is_over = False

    def end(self) -> None:
        """It rings no more: what is watched for happens elsewhere."""
        self._is_over = True
        self._rung.set()

    async def _wait(self) -> None:
        await self._rung.wait()
        self._rung.clear()
        if self._is_over:
            raise StoreUnavailable("store: another process of this host has it now")


class RevisionBell(Bell):
    """Holds the newest revision until its watcher asks: one that is slow skips, it never queues up."""

    __slots__ = ("_revision",)

    def __init__(self) -> None:
        super().__init__()
        self._revision = 0

    def ring(self, revision: int) -> None:
        """This revision stands."""
        self._revision = revision
        self._rung.set()

    async def rung(self) -> int:
        """The newest one since the last call. Raises `StoreUnavailable` once it rings no more."""
        await self._wait()
        return self._revision


class PinBell(Bell):
    """Holds the ids of pins."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        super().__init__()
        self._ids: dict[bytes, None] = {}

    def ring(self, pin_id: bytes) -> None:
        """This pin has ended or changed."""
        if len(self._ids) <= MAX_RINGS:
            self._ids[pin_id] = None
        self._rung.set()

    async def rung(self) -> tuple[bytes, ...]:
        """What has rung since the last call, at least one. Raises `StoreUnavailable` where that was too much, and once
        it rings no more."""
        await self._wait()
        ids, self._ids = (*self._ids,), {}
        if len(ids) > MAX_RINGS:
            raise StoreUnavailable("store: more pins have changed than could be told; what is known is asked for again")
        return ids
