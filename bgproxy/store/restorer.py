"""Puts a store right that has lost what this node holds, as soon as the mirror finds it out.

Every node that holds more than the store does the same at about the same moment: one of them is the first, and the one
that holds most is the last. What only an operator can put right stays an alarm. Must not know how it is put right.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from bgproxy import tasks
from bgproxy.errors import Problem
from bgproxy.rules.restore import Contradiction
from bgproxy.store.heal import BY, patience
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror

log = logging.getLogger(__name__)

_SPREAD: Final = 0.05  # seconds over which the nodes of a fleet come, so that most of them find it done


class Restorer:
    """Writes back what the store has lost, from its making to `stop`."""

    def __init__(
        self, ledger: Ledger, mirror: Mirror, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._ledger = ledger
        self._mirror = mirror
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        mirror.contradicted = self._contradicted

    def __repr__(self) -> str:
        return f"<Restorer {'at work' if self._task is not None and not self._task.done() else 'at rest'}>"

    async def stop(self) -> None:
        """Give up what is under way; it is whole or not there."""
        await tasks.stop(self._task)

    def _contradicted(self, found: Contradiction) -> None:
        """Called at each reading that shows it, so what fails is tried again."""
        if found.heals and (self._task is None or self._task.done()):
            self._task = tasks.spawn(self._restore(found), "store.restore")

    async def _restore(self, found: Contradiction) -> None:
        await self._sleep(random.uniform(0, _SPREAD) + patience(self._mirror))
        try:
            outcome = await self._ledger.restore(actor=BY, reason=found.text)
        except Problem as error:
            log.warning("what the store has lost was not written back: %s", error)
            return
        if outcome.changed:
            log.warning("the store was put right: it is at revision %d again", outcome.state.revision)
