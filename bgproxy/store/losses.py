"""What this node has lost or cut, on its way to the ledger of the flip that it belongs to.

Promises that a count waits until the store has taken it, however long that is away. It may be taken twice where an
answer was lost: a loss is rather told twice than hidden. Must not know what was cut, or why.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.fleet import FleetState

_PAUSE = 1.0  # seconds between two tries


class Tally(Protocol):
    """Of a store, what is needed here."""

    async def tally(self, epoch: int, *, lost: int = 0, turns_cut: int = 0) -> None:
        """See `Store.tally`."""


class Losses:
    """Quick to count into; tells the store in the background, and only where there is something to tell."""

    def __init__(
        self,
        store: Tally,
        state: Callable[[], FleetState | None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`state`: what this process routes by; a count without an epoch belongs to its pointer's."""
        self._store = store
        self._state = state
        self._sleep = sleep
        self._lost: Counter[int] = Counter()
        self._cut: Counter[int] = Counter()
        self._telling: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Losses {self._lost.total()} sessions and {self._cut.total()} turns to be told>"

    def cut(self, turns: int, epoch: int = 0) -> None:
        """So many exchanges were broken off by bgproxy itself. `epoch`: of the flip that is to blame, 0: the last."""
        self._add(self._cut, turns, epoch)

    def lost(self, sessions: int = 1) -> None:
        """So many sessions were found on another release than they had been on, and nobody had moved them."""
        self._add(self._lost, sessions, 0)

    async def stop(self) -> None:
        """Tell what can still be told."""
        await tasks.stop(self._telling)
        await self._tell()

    def _add(self, counts: Counter[int], count: int, epoch: int) -> None:
        if count <= 0:
            return
        state = self._state()
        counts[epoch or (state.pointer.epoch if state is not None else 0)] += count
        if self._telling is None or self._telling.done():
            self._telling = tasks.spawn(self._tell_until_taken(), "tell losses")

    async def _tell_until_taken(self) -> None:
        while not await self._tell():
            await self._sleep(_PAUSE)

    async def _tell(self) -> bool:
        """Whether the store has taken all of it."""
        while epochs := self._lost.keys() | self._cut.keys():
            epoch = min(epochs)
            lost, cut = self._lost.pop(epoch, 0), self._cut.pop(epoch, 0)
            try:
                await self._store.tally(epoch, lost=lost, turns_cut=cut)
            except BaseException as error:  # a cancelled telling has not been heard either
                self._lost[epoch] += lost
                self._cut[epoch] += cut
                if not isinstance(error, StoreUnavailable):
                    raise
                return False
        return True
