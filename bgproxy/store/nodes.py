"""This node's sign of life: a report into the store at each beat, and off the list when the node stops.

A node joins (its first beat) before it reads the state that it will admit by: whoever changes the state after that
knows of it. One that finds at a beat that it was registered no more has missed what happened meanwhile, and reads the
state at once. A store that is away is no error here: the node beats again and again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from bgproxy import tasks
from bgproxy.errors import CannotJoin, StoreUnavailable
from bgproxy.store.base import NodeReport, Store
from bgproxy.store.fence import Fence

log = logging.getLogger(__name__)

BEAT_INTERVAL: Final = 2.0  # seconds: with one a second, 100 nodes would cost Redis more than 1 % of a core
_UNTIL_JOINED: Final = 0.25  # seconds, for one that was started without the store: until then no flip waits for it


class Heartbeat:
    """Beats from `start` to `stop`. `report` is called at each beat and must be quick."""

    def __init__(
        self,
        store: Store,
        report: Callable[[], NodeReport],
        catch_up: Callable[[], Awaitable[object]],
        *,
        fence: Fence | None = None,
        interval: float = BEAT_INTERVAL,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`catch_up` reads the state that stands. `interval` in seconds, well below the store's `node_ttl`, and half of
        the fence's time at most."""
        self.serial = 0  # of the last beat that was sent
        self._store = store
        self._report = report
        self._catch_up = catch_up
        self._fence = fence or Fence()
        self._interval = interval
        self._sleep = sleep
        self.joined = False  # it was registered once
        self._refused = False
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """The first beat. What is read of the state from now on, nobody changes without knowing of this node.

        Raises `CannotJoin`, or a kind of `StoreUnavailable`: then it joins at the first beat that gets through.
        """
        await self._beat()

    def start(self) -> None:
        """Begin to beat in the background."""
        if self._task is None:
            self._task = tasks.spawn(self._beat_for_ever(), "nodes.beat")

    def again(self) -> None:
        """Beat now: the store was away, and may have forgotten this node, of which no flip would know until it does."""
        if self._task is not None and (self._again is None or self._again.done()):
            self._again = tasks.spawn(self._beat_once(), "nodes.again")

    async def stop(self) -> bool:
        """Stop, and leave the list at once if the store can be told; whether this node is registered no more."""
        await tasks.stop(self._task, self._again)
        self._task = None
        if self.serial:
            try:
                await self._store.leave(self._report().id, dead=True)
            except StoreUnavailable:
                return False
        return True

    async def _beat(self) -> bool:
        """Whether the node was registered already."""
        self.serial += 1
        sent = self._fence.clock()
        known = await self._store.beat(self._report())
        self._fence.lease.beaten(sent, self._fence.clock(), known=known)
        if not known and self.joined:
            log.warning("this node was registered no more: it has joined anew, and reads the state")
        self.joined, self._refused = True, False
        return known

    async def _beat_for_ever(self) -> None:
        while True:
            await self._beat_once()
            is_awaited = self.joined or self._refused
            interval = self._interval if is_awaited else min(self._interval, _UNTIL_JOINED)
            await self._sleep(interval * random.uniform(0.9, 1.0))

    async def _beat_once(self) -> None:
        try:
            if not await self._beat() or self._fence.is_closed():
                await self._catch_up()
        except StoreUnavailable:
            pass  # the mirror tells of a store that is away; twice would be noise
        except CannotJoin as error:
            if not self._refused:
                log.error("%s", error)
            self._refused = True
        except Exception:
            log.exception("the node could not report")
