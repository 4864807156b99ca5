"""This node's sign of life: a report into the store at each beat, and off the list when the node stops.

A store that is away is no error here: the node is forgotten after `node_ttl` and listed again at the next beat that
gets through. Must not know what the report says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.store.base import NodeReport, Store

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats from `start` to `stop`. `report` is called at each beat and must be quick."""

    def __init__(
        self,
        store: Store,
        report: Callable[[], NodeReport],
        *,
        interval: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`interval` in seconds, well below the store's `node_ttl`."""
        self._store = store
        self._report = report
        self._interval = interval
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat in the background."""
        if self._task is None:
            self._task = tasks.spawn(self._beat_for_ever(), "nodes.beat")

    async def stop(self) -> None:
        """Stop, and leave the list at once if the store can be told."""
        await tasks.stop(self._task)
        self._task = None
        with contextlib.suppress(StoreUnavailable):
            await self._store.leave(self._report().id)

    async def _beat_for_ever(self) -> None:
        while True:
            try:
                await self._store.beat(self._report())
            except StoreUnavailable:
                pass  # the mirror tells of a store that is away; twice would be noise
            except Exception:
                log.exception("the node could not report")
            await self._sleep(self._interval * random.uniform(0.75, 1.0))
