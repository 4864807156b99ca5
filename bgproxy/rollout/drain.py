"""From STANDBY to DRAINED: a color that is no longer active is drained when no session lives on its release any more
and no node has anything in flight on it.

It is computed from the store's count of live pins and from what every node of the fleet reports, never assumed: a node
that has not applied the newest epoch yet may still admit to the old color, so its zero does not count.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bgproxy.errors import Problem
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Event, Phase
from bgproxy.store.base import NodeReport
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.pinning import PinCount
from bgproxy.tasks import spawn, stop

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks
# In a row that must find nothing. Longer than a beat together: a node that was not listed for a moment, as when the
# store's clock was set forward or its data were lost, has reported again by then.
LOOKS = 3
ACTOR = "bgproxy"


def is_empty(color: str, epoch: int, nodes: Sequence[NodeReport]) -> bool:
    """Whether every node has applied `epoch` and holds nothing on the color; without any node nothing is known."""
    return bool(nodes) and all(node.epoch >= epoch and not node.in_flight.get(color, 0) for node in nodes)


class Drainer:
    """Watches every color that traffic has left until it is empty."""

    def __init__(
        self,
        ledger: Ledger,
        mirror: Mirror,
        nodes: Callable[[], Awaitable[Sequence[NodeReport]]],
        sessions: Callable[[], Awaitable[Mapping[tuple[str, str], PinCount]]],
    ) -> None:
        """`sessions`: live pins by color and release, as `PinStore.counts`."""
        self._ledger = ledger
        self._mirror = mirror
        self._nodes = nodes
        self._sessions = sessions
        self._found_empty: dict[tuple[str, int], int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = spawn(self._run(), "watch drains")

    async def stop(self) -> None:
        await stop(self._task)

    async def look(self) -> None:
        """One look at what is draining."""
        state = self._mirror.state
        leaving = _leaving(state) if state is not None else {}
        if state is None or not leaving:
            self._found_empty.clear()
            return
        nodes = await self._nodes()
        # After the nodes: what was in flight may have begun a session there before it ended.
        sessions = await self._sessions()
        epoch = state.pointer.epoch
        before, self._found_empty = self._found_empty, {}
        for color, label in leaving.items():
            if (color, label) in sessions or not is_empty(color, epoch, nodes):
                continue
            looks = before.get((color, epoch), 0) + 1
            if looks >= LOOKS:
                evidence = {"nodes": len(nodes), "in_flight": 0, "sessions": 0}
                reason = "no session lives on it and nothing is in flight"
                await self._ledger.step(color, label, Event.DRAINED, actor=ACTOR, reason=reason, evidence=evidence)
            else:
                self._found_empty[color, epoch] = looks

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL * random.uniform(0.75, 1.25))
            try:
                await self.look()
            except Problem as error:
                log.debug("the drain cannot be looked at now: %s", error)
            except Exception:
                log.exception("a look at the drain failed")


def _leaving(state: FleetState) -> dict[str, str]:
    """The colors that traffic has left and that are not known to be empty, with their labels."""
    return {
        color: release.label
        for color, release in state.releases.items()
        if release.phase in (Phase.STANDBY, Phase.ROLLED_BACK) and color != state.pointer.active
    }
