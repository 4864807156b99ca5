"""A fleet whose state is real and whose agents are pretended."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import NodeReport, StoreOptions, open_store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.pinning import PinCount


class World:
    """A fleet on a memory store: blue is active, green is ready, red is empty. Agents are well unless it is said."""

    def __init__(self) -> None:
        self.store = open_store(StoreOptions())
        self.mirror = Mirror(self.store)
        self.ledger = Ledger(self.store, self.mirror, lambda: 1.0)
        self.trouble: dict[str, str | Exception] = {}  # by color: what its agents' look like, or what the look raises
        self.probed: list[str] = []
        self.spreads: list[str] = []  # the active color at each time that the other workers were made to catch up
        self.reports: list[NodeReport] | Exception = []
        self.pins: Mapping[tuple[str, str], PinCount] | Exception = {}
        # The store as the drainer sees it: of it only the flips are real.
        pins = SimpleNamespace(counts=self.sessions)
        self.watched: Any = SimpleNamespace(nodes=self.nodes, now=self.now, flips=self.store.flips, pins=pins)
        self.later = 0.0  # seconds by which the store's clock is ahead of when the test began

    async def start(self) -> None:
        releases = {"blue": release("v1", Phase.READY), "green": release("v2", Phase.READY)}
        await self.ledger.bootstrap(("blue", "green", "red"), "blue", releases, actor="test")

    @property
    def state(self) -> FleetState:
        assert self.mirror.state is not None
        return self.mirror.state

    def phase(self, color: str) -> Phase:
        return self.state.releases[color].phase

    async def flip(self, to: str, *, bake: bool = False) -> None:
        await self.ledger.flip(to, actor="test", reason="", bake=bake)

    async def stage(self, color: str, label: str) -> None:
        await self.ledger.stage(color, release(label), actor="test", reason="")

    async def probe(self, color: str) -> str:
        """Stands in for warming a color's connections."""
        self.probed.append(color)
        found = self.trouble.get(color, "")
        if isinstance(found, Exception):
            raise found
        return found

    async def spread(self) -> None:
        """Stands in for the other workers of the host."""
        self.spreads.append(self.state.pointer.active)

    async def nodes(self) -> list[NodeReport]:
        """Stands in for the store's list of nodes."""
        if isinstance(self.reports, Exception):
            raise self.reports
        return self.reports

    async def sessions(self) -> Mapping[tuple[str, str], PinCount]:
        """Stands in for the store's count of live pins."""
        if isinstance(self.pins, Exception):
            raise self.pins
        return self.pins

    async def now(self) -> float:
        """Stands in for the store's clock."""
        return await self.store.now() + self.later

    async def steps(self) -> list[dict[str, object]]:
        """The phases that changed without the pointer, oldest first."""
        entries = await self.ledger.audit(limit=100)
        return [dict(entry.facts["phases"]) for entry in reversed(entries) if entry.verb == "phase"]  # type: ignore[call-overload]


def release(label: str, phase: Phase = Phase.STAGED) -> Release:
    return Release(label, (f"http://127.0.0.1:{1000 + int(label[1:])}",), phase=phase)
