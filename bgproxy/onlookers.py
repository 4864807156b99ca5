"""Who looks at a worker's live traffic: they see copies of what has passed, and never steer it."""

from __future__ import annotations

from typing import Any

from bgproxy.config.plan import plan_from
from bgproxy.proxy.plane import DataPlane
from bgproxy.proxy.tap import Tap
from bgproxy.rollout.mirroring import Mirroring
from bgproxy.store.mirror import Mirror


class Onlookers:
    """All of them, on one tap."""

    def __init__(self, plane: DataPlane, known: Mirror) -> None:
        self.tap = Tap(plane)
        self._mirroring = Mirroring(self.tap, known, plan_from)

    def mirrored(self) -> dict[str, Any]:
        """See `Mirroring.report`."""
        return self._mirroring.report()

    async def stop(self) -> None:
        """Look no more."""
        await self._mirroring.stop()
