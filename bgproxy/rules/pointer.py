"""The pointer: which color is active, and the epoch by which every node knows whether it has heard the newest.

Decides nothing but its own successor. The epoch only grows, by one at each move; a higher epoch wins everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where new traffic goes, where it went before, and who moved it.

    `at` is unix seconds by the store's clock. It is for people; nothing is ordered by it, the epoch orders.
    """

    active: str
    previous: str | None
    epoch: int
    actor: str
    reason: str
    at: float

    def moved(self, to: str, actor: str, reason: str, at: float) -> Pointer:
        """The pointer after a move to `to`; the color it leaves becomes `previous`."""
        return Pointer(active=to, previous=self.active, epoch=self.epoch + 1, actor=actor, reason=reason, at=at)
