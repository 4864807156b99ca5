"""How long a node may admit new requests by what it knows, and how long others must have heard nothing of it before
they may count it out.

A node that keeps a fence stops admitting by itself once its last beat is too long ago; so whoever has heard nothing of
it for longer than that, and some more, knows that it admits nothing, and a flip may leave it behind. Times come in,
each from one process's own clock that only goes forward: no step of a wall clock touches them. Of clocks one thing is
assumed: that no two of them differ in their rate by more than `CLOCK_RATE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

CLOCK_RATE: Final = 0.2
"""One that is being corrected runs this much faster than another at most: chronyd lets one run 8.3 % fast, or slow."""


class Lease:
    """A node's own right to admit. Held for `fence_after` from when its last acknowledged beat was sent; one that has
    run out is held again only after a beat, and after a reading of the state that was begun once that beat was
    acknowledged. So whatever the store did in the belief that the node was out, the node has read.
    """

    __slots__ = ("_fence_after", "_owed", "_read", "_sent")

    def __init__(self, fence_after: float) -> None:
        """In seconds; 0: held for ever."""
        self._fence_after = fence_after
        self._sent = -inf  # when the last acknowledged beat was sent
        self._owed = 1  # readings that had to be begun anew, the first one with them
        self._read = 0  # of these, the last that was made

    def __repr__(self) -> str:
        return f"<Lease of {self._fence_after:g} s, {self._owed - self._read} readings owed>"

    def beaten(self, sent: float, now: float, *, known: bool) -> None:
        """The store has acknowledged a beat; `known`: the node was registered until then."""
        if not known or now > self._sent + self._fence_after:
            self._owed += 1
        self._sent = max(self._sent, sent)

    def begin_reading(self) -> int:
        """A reading of the state is about to be asked for; what to say when it has been applied."""
        return self._owed

    def has_read(self, begun: int) -> None:
        """That reading has been applied."""
        self._read = max(self._read, begun)

    def is_held(self, now: float) -> bool:
        """Whether this node may admit what is new to it."""
        if not self._fence_after:
            return True
        return self._read == self._owed and now <= self._sent + self._fence_after


class Observer:
    """What one process has seen of the nodes' beats. It believes a node silent from its own first sight of a beat on,
    which is later than the beat was sent: so its silences are never too long."""

    __slots__ = ("_node_ttl", "_seen")

    def __init__(self, node_ttl: float) -> None:
        """In seconds: how long a beat may be on its way, or be late."""
        self._node_ttl = node_ttl
        self._seen: dict[str, tuple[int, float, float]] = {}  # by node: its last serial, its fence, when first seen so

    def see(self, beats: Mapping[str, tuple[int, float]], now: float) -> None:
        """All registered nodes: the serials of their last beats, and after how many seconds they fence themselves (0:
        never). Read at `now` or a little before."""
        seen = {}
        for node, (serial, fence_after) in beats.items():
            before = self._seen.get(node)
            since = before[2] if before is not None and before[0] == serial else now
            seen[node] = serial, fence_after, since
        self._seen = seen

    def serial(self, node_id: str) -> int | None:
        """Of the last beat that was seen of a node; None for one that was not seen."""
        seen = self._seen.get(node_id)
        return seen[0] if seen is not None else None

    def silence(self, node_id: str, now: float) -> float:
        """Seconds that a node has not beaten, at least; 0 for one that was not seen."""
        seen = self._seen.get(node_id)
        return now - seen[2] if seen is not None else 0.0

    def fenced(self, node_id: str, now: float) -> bool:
        """Whether a node that is cut off admits nothing new by now, as it fences itself.

        It holds as long as the node's serial stays the same: who acts on it must check that in the same step.
        """
        fence_after = self._seen[node_id][1] if node_id in self._seen else 0.0
        if not fence_after:
            return False
        return self.silence(node_id, now) > (self._node_ttl + fence_after) * (1 + CLOCK_RATE)
