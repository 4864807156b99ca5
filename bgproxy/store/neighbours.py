"""What this node sees of the others: who has been silent for how long, by this process's own clock, and who of its host
has died and is signed off at once.

One that has been silent for `node_forget_after` is taken off the list. Whether it has is told by the store's clock, as
no process may live that long; but nobody is forgotten who has beaten while this node looked on, so a store's clock that
is set forward costs no node that lives its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.lease import Observer
from bgproxy.store.badge import Badges
from bgproxy.store.base import PROTOCOL, SCHEMA, NodeReport, Store

log = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 30.0  # seconds; whoever needs to know sooner looks
_AGAIN: Final = 0.5  # seconds between two tries to sign off the dead, while they cannot be
_REMEMBERED: Final = 256  # nodes that were signed off here, the last ones
_WATCHED: Final = 60.0  # seconds that a node must have been silent under our eyes before it is forgotten


class Neighbours:
    """Looks from `start` to `stop`, and whenever it is told to."""

    def __init__(
        self,
        store: Store,
        badges: Badges,
        forgotten: Callable[[NodeReport], Awaitable[object]],
        *,
        node_ttl: float,
        forget_after: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`badges`: of this host. `forgotten` puts on record whom this process has taken off. Times in seconds."""
        self.listed = 0  # nodes that were registered at the last look
        self._store = store
        self._badges = badges
        self._forgotten = forgotten
        self._forget_after = forget_after
        self._observer = Observer(node_ttl)
        self._strangers: set[str] = set()
        self._clock = clock
        self._sleep = sleep
        self._buried: dict[str, None] = {}  # signed off by this process, the last one last: a failover may lose that
        self._deaths = 0  # of which it was told, and that are still to be signed off
        self._looking: asyncio.Task[None] | None = None
        self._burying: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = tasks.spawn(self._look_for_ever(), "look at the other nodes")

    async def stop(self) -> None:
        await tasks.stop(self._looking, self._burying)

    async def look(self) -> list[NodeReport]:
        """All registered nodes, but for those that have just been forgotten, or that were signed off here and stand on
        the list again. Raises `StoreUnavailable`."""
        nodes = await self._store.nodes()
        for node_id in [node.id for node in nodes if node.id in self._buried]:
            log.warning("node %s was signed off as dead, and the store has lost that: it is signed off again", node_id)
            await self._sign_off(node_id)
        nodes = [node for node in nodes if node.id not in self._buried]
        self.listed = len(nodes)
        self._observer.see({node.id: (node.serial, node.fence_after) for node in nodes}, self._clock())
        self._listen_for_strangers(nodes)
        return [node for node in nodes if not (self._is_gone(node) and await self._forget(node))]

    def bury(self) -> None:
        """A worker of this host has died: sign it off, as soon as that may be."""
        self._deaths += 1
        if self._burying is None or self._burying.done():
            self._burying = tasks.spawn(self._bury(), "sign off dead workers")

    async def sign_off_dead(self, *, at_once: bool = False) -> bool:
        """Take the dead nodes of this host off the list; whether that is done, as far as there are any.

        They wait while the store is away, and (unless `at_once`) while one that lives here is not registered: that one
        was started without the store, in the place of a dead one maybe, and admits by what was known there. A flip is
        to wait for either of the two.
        """
        living, dead = self._badges.look()
        if not dead:
            return True
        with contextlib.suppress(StoreUnavailable):
            if at_once or living <= {node.id for node in await self._store.nodes()}:
                await self._badges.sign_off_dead(self._sign_off)
                return True
        return False

    async def _sign_off(self, node_id: str) -> None:
        await self._store.leave(node_id, dead=True)
        self._buried[node_id] = None
        if len(self._buried) > _REMEMBERED:
            del self._buried[next(iter(self._buried))]

    def fenced(self, node_id: str, serial: int | None = None) -> bool:
        """Whether a silent node admits nothing new by now, as far as was seen at the last look. `serial`: of its last
        beat, where that is known by now: one that has beaten since that look is not fenced."""
        if serial is not None and serial != self._observer.serial(node_id):
            return False
        return self._observer.fenced(node_id, self._clock())

    async def fenced_among(self, nodes: Sequence[str], look: bool) -> dict[str, int]:
        """Those of these nodes that admit nothing new, by the serials for which that holds, see `Observer.fenced`.

        Unless it is to `look`, it costs nothing where the last look speaks against it; with it their silences are
        counted from now on at least. Raises `StoreUnavailable`.
        """
        if not look and not any(self.fenced(node_id) for node_id in nodes):
            return {}
        serials = {node.id: node.serial for node in await self.look()}  # they may have beaten since the last one
        return {node_id: serials[node_id] for node_id in nodes if node_id in serials and self.fenced(node_id)}

    def _listen_for_strangers(self, nodes: list[NodeReport]) -> None:
        """None joins beside live ones; but one that was cut off may come back when others have taken its place."""
        strangers = {node.id for node in nodes if node.live and (node.schema, node.protocol) != (SCHEMA, PROTOCOL)}
        if strangers - self._strangers:
            log.error(
                "these nodes serve this fleet and speak otherwise than this one (schema %d, protocol %d): %s; end "
                "them, or run one version everywhere",
                *(SCHEMA, PROTOCOL, ", ".join(sorted(strangers))),
            )
        self._strangers = strangers

    def _is_gone(self, node: NodeReport) -> bool:
        watched = self._observer.silence(node.id, self._clock())
        return node.age > self._forget_after and watched >= min(self._forget_after, _WATCHED)

    async def _forget(self, node: NodeReport) -> bool:
        gone = await self._store.leave(node.id, node.serial)
        if gone:
            log.warning("node %s was silent for %.0f s and is forgotten", node.id, node.age)
            await self._forgotten(node)
        return gone

    async def _bury(self) -> None:
        while deaths := self._deaths:
            if await self.sign_off_dead():
                self._deaths -= deaths
            else:
                await self._sleep(_AGAIN)

    async def _look_for_ever(self) -> None:
        while True:
            await self._sleep(LOOK_INTERVAL * random.uniform(0.75, 1.0))
            try:
                await self.sign_off_dead()
                await self.look()
            except StoreUnavailable:
                pass  # the mirror tells of it
            except Exception:
                log.exception("the other nodes could not be looked at")
