"""From STANDBY to DRAINED: a color that is no longer active is drained when no session lives on its release any more
and no node has anything in flight on it.

It is computed from the store's count of live pins and from what every node of the fleet reports, never assumed: a node
that has not applied the newest epoch yet may still admit to the old color, so its zero does not count. What a silent
node said last counts until it is registered no more: nobody knows whether it still serves.

Where an operator has set a deadline, this ends the sessions that still live there once it has passed; then they do not
hold the release any more, what is in flight still does. Of clocks one thing is assumed: that the store's goes on. The
deadline was stamped by it and is compared with it, so a node whose own clock is wrong ends neither early nor late.
Where the store's clock is set forward the deadline comes sooner by as much; while the store is away none passes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import replace

from bgproxy.errors import Problem
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import LEAVING, Event, Release
from bgproxy.store.base import NodeReport, Store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.tasks import spawn, stop

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks
# In a row that must find nothing. Longer than a beat together: a node that was not listed for a moment, as when the
# store's data were lost, has reported again by then.
LOOKS = 3
ACTOR = "bgproxy"


def is_empty(color: str, epoch: int, nodes: Sequence[NodeReport], revision: int = 0) -> bool:
    """Whether every node has applied `epoch` and `revision` and holds nothing on the color.

    Without any node nothing is known.
    """
    return bool(nodes) and all(
        node.epoch >= epoch and node.revision >= revision and not node.in_flight.get(color, 0) for node in nodes
    )


class Drainer:
    """Watches every color that traffic has left until it is empty."""

    def __init__(self, ledger: Ledger, mirror: Mirror, store: Store) -> None:
        """`store`: what the nodes report, how many pins live where, and the time."""
        self._ledger = ledger
        self._mirror = mirror
        self._store = store
        self._ended: dict[tuple[str, int], int] = {}  # by color and epoch of leaving: the first revision seen so
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
            self._ended.clear()
            return
        nodes = await self._store.nodes()
        # After the nodes: what was in flight may have begun a session there before it ended.
        sessions = await self._store.pins.counts()
        epoch = state.pointer.epoch
        before, self._found_empty = self._found_empty, {}
        for color, release in leaving.items():
            label = release.label
            if release.ended:
                # A node that has not heard of it yet may still let a session's request in, so its zero does not count.
                since = self._ended.setdefault((color, release.left), state.revision)
            elif (color, label) in sessions:
                continue
            else:
                since = 0
            if not is_empty(color, epoch, nodes, since):
                continue
            looks = before.get((color, epoch), 0) + 1
            if looks >= LOOKS:
                evidence = {"nodes": len(nodes), "in_flight": 0, "sessions": 0, **await self._flip(release)}
                reason = "no session lives on it and nothing is in flight"
                await self._ledger.step(color, label, Event.DRAINED, actor=ACTOR, reason=reason, evidence=evidence)
            else:
                self._found_empty[color, epoch] = looks

    async def end_what_is_due(self) -> float:
        """End the sessions of each release whose deadline has passed; seconds to the next deadline, inf for none."""
        state = self._mirror.state
        leaving = _leaving(state) if state is not None else {}
        due = [(color, release) for color, release in leaving.items() if release.deadline and not release.ended]
        if not due:
            return math.inf
        now = await self._store.now()
        for color, release in due:
            if release.deadline <= now:
                await self._end(color, release, now)
        return min((release.deadline - now for _, release in due if release.deadline > now), default=math.inf)

    async def _end(self, color: str, release: Release, now: float) -> None:
        """The evidence is how much it ends, at that moment."""
        nodes, sessions = await self._store.nodes(), await self._store.pins.counts()
        live = sessions[color, release.label].live if (color, release.label) in sessions else 0
        in_flight = sum(node.in_flight.get(color, 0) for node in nodes)
        flip = await self._flip(release, ended=live)
        evidence = {"sessions": live, "in_flight": in_flight, "nodes": len(nodes), **flip}
        reason = "the deadline of its drain has passed"
        await self._ledger.end_sessions(color, release.label, actor=ACTOR, reason=reason, at=now, evidence=evidence)

    async def _flip(self, release: Release, ended: int = 0) -> dict[str, object]:
        """The ledger of the flip by which traffic left the release, if it is known; with so many more ended."""
        found = await self._store.flips([release.left])
        return {"flip": replace(found[0], ended=found[0].ended + ended).document()} if found else {}

    async def _run(self) -> None:
        to_look, to_deadline = 0.0, math.inf  # seconds
        while True:
            if to_look <= 0:
                to_look = INTERVAL * random.uniform(0.75, 1.25)
            nap = min(to_look, to_deadline)
            await asyncio.sleep(nap)
            to_look, to_deadline = to_look - nap, math.inf
            try:
                to_deadline = await self.end_what_is_due()
                if to_look <= 0:
                    await self.look()
            except Problem as error:
                log.debug("the drain cannot be looked at now: %s", error)
            except Exception:
                log.exception("a look at the drain failed")


def _leaving(state: FleetState) -> dict[str, Release]:
    """The colors that traffic has left and that are not known to be empty."""
    return {
        color: release
        for color, release in state.releases.items()
        if release.phase in LEAVING and color != state.pointer.active
    }
