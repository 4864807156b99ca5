"""How long others must have heard nothing of a node before they may count it out.

Time comes in from the caller's own monotonic clock, which no step of a wall clock touches. Of clocks one thing is
assumed: that no two of them differ in their rate by more than `CLOCK_RATE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CLOCK_RATE: Final = 0.2
"""One that is being corrected runs this much faster than another at most: chronyd lets one run 8.3 % fast, or slow."""


class Observer:
    """What one process has seen of the nodes' beats. It believes a node silent from its own first sight of a beat on,
    which is later than the beat was sent: so its silences are never too long."""

    __slots__ = ("_fence_after", "_node_ttl", "_seen")

    def __init__(self, node_ttl: float, fence_after: float = 0.0) -> None:
        """In seconds, as all nodes have them; `fence_after` 0: nodes do not fence themselves."""
        self._node_ttl = node_ttl
        self._fence_after = fence_after
        self._seen: dict[str, tuple[int, float]] = {}  # a node's last serial, and when it was first seen

    def see(self, serials: Mapping[str, int], now: float) -> None:
        """All registered nodes with the serials of their last beats, read at `now` or a little before."""
        unseen = (-1, now)
        self._seen = {
            node: seen if (seen := self._seen.get(node, unseen))[0] == serial else (serial, now)
            for node, serial in serials.items()
        }

    def silence(self, node_id: str, now: float) -> float:
        """Seconds that a node has not beaten, at least; 0 for one that was not seen."""
        seen = self._seen.get(node_id)
        return now - seen[1] if seen is not None else 0.0

    def fenced(self, node_id: str, now: float) -> bool:
        """Whether a node that is cut off, and keeps its fence, admits nothing new by now.

        It holds as long as the node's serial stays the same: who acts on it must check that in the same step.
        """
        if not self._fence_after:
            return False
        return self.silence(node_id, now) > (self._node_ttl + self._fence_after) * (1 + CLOCK_RATE)
