"""From STAGED to READY: a release may take traffic once an upstream of every route takes connections.

Every node looks; the ledger lets one of them make each step, and the others find it made. A release whose agents are
still starting simply stays STAGED until they answer. One that a plan is run on is left to that.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bgproxy.errors import Problem
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Event, Phase, Release
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.tasks import spawn, stop

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks at what is staged
ACTOR = "bgproxy"


class Validator:
    """Looks at every staged release until it is ready."""

    def __init__(self, ledger: Ledger, mirror: Mirror, probe: Callable[[str], Awaitable[str]]) -> None:
        self._ledger = ledger
        self._mirror = mirror
        self._probe = probe
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = spawn(self._run(), "validate releases")

    async def stop(self) -> None:
        await stop(self._task)

    def wake(self) -> None:
        """Something was staged: look now."""
        self._wake.set()

    async def admit(self, color: str, looked_at: Release | None = None) -> None:
        """The color's upstreams have just answered: make its release READY if it waits for that.

        `looked_at`: the release that stood there when they were asked; if another one was staged meanwhile, that one
        has not answered anything. None: the one that stands.
        """
        state = self._mirror.state
        if state is None or color not in _waiting(state):
            return
        release = state.releases[color]
        if looked_at is not None and not release.same_content(looked_at):
            return
        evidence = {"upstreams": list(release.upstreams), "check": "a connection to an upstream of every route"}
        for event in (Event.VALIDATE, Event.PASSED):
            await self._ledger.step(
                color, release.label, event, actor=ACTOR, reason="its upstreams answer", evidence=evidence
            )

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL * random.uniform(0.75, 1.25)):
                    await self._wake.wait()

    async def _look(self) -> None:
        state = self._mirror.state
        if state is None:
            return
        for color in _waiting(state):
            try:
                if not await self._probe(color):
                    await self.admit(color, state.releases[color])
            except Problem as error:
                log.debug("%s cannot be validated now: %s", color, error)
            except Exception:
                log.exception("the look at %s failed", color)


def _waiting(state: FleetState) -> list[str]:
    """The colors whose releases wait for nothing but their connections."""
    return [
        color
        for color, release in state.releases.items()
        if release.phase in (Phase.STAGED, Phase.VALIDATING)
        and not (state.run is not None and state.run.decides(color))
    ]
