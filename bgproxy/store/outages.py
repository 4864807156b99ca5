"""Outages of the store go on record once it is back: by the first node that says so, with what it went through.

Many nodes see one outage. Each waits a moment of its own length, and says nothing where another one has said it. Must
not know how the store is lost and found: the mirror does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from bgproxy import tasks
from bgproxy.errors import Problem
from bgproxy.rules.fleet import Change, FleetState, changed
from bgproxy.store.base import Store
from bgproxy.store.ledger import Ledger

log = logging.getLogger(__name__)

LEAST: Final = 1.0
"""Seconds; what is shorter is a hiccup, which metrics tell."""

_SPREAD = 2.0  # seconds within which the nodes speak up
_COUNTS = ("journalled", "refused", "dropped")  # sessions that were placed, or not, without the store
_LOOKED_AT = 16  # newest entries in which another node's word is looked for


class Outages:
    """One per node. `counted`: what it counts of sessions, see `PinCache.counted`."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        node: str,
        counted: Callable[[], Mapping[str, Any]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._node = node
        self._counted = counted
        self._before = self._counts()
        self._sleep = sleep

    def over(self, seconds: float) -> None:
        """The store answers again, after so long."""
        now = self._counts()
        new = {name: count - self._before.get(name, 0) for name, count in now.items()}
        self._before = now
        if seconds >= LEAST:
            tasks.spawn(self._record(seconds, new), "store.outage")

    def _counts(self) -> dict[str, int]:
        counted = self._counted()
        return {name: counted.get(name, 0) for name in _COUNTS}

    async def _record(self, seconds: float, counts: dict[str, int]) -> None:
        try:
            back = await self._store.now()
            await self._sleep(random.uniform(0, _SPREAD))
            entries = await self._store.audit(limit=_LOOKED_AT)
            if any(entry.verb == "outage" and entry.at > back - _SPREAD for entry in entries):
                return
            facts = {"node": self._node, "seconds": round(seconds, 1), **{n: c for n, c in counts.items() if c}}
            await self._ledger.make(lambda state: _noted(state, facts))
        except Problem as error:
            log.warning("an outage of the store, of %.1f s, is not on record: %s", seconds, error)


def _noted(state: FleetState, facts: dict[str, object]) -> Change:
    return changed(state, {}, "outage", facts, "bgproxy", "the store was away")
