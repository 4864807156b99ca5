"""What was decided about pins while the store was away, to be written when it is back.

Promises a bound: beyond it the oldest is given up and counted, as its session then may be pinned anew. The first
writer wins: what the store holds by then stands. Must not know when the store is back.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from bgproxy.store.batch import LARGEST
from bgproxy.store.pinning import Learned, NodePins, Resolved, Want

Told = Callable[[Want | Learned, Resolved], None]


class Journal:
    """Pins made or kept (`Want.was`) and keys learned, in order, each once."""

    def __init__(self, size: int) -> None:
        """`size`: how many entries at most."""
        self._entries: dict[tuple[bytes, ...], Want | Learned] = {}
        self._size = size
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Want | Learned) -> None:
        """Keep this; what was kept for the same keys is replaced."""
        self._entries[entry.keys] = entry
        while len(self._entries) > self._size:
            del self._entries[next(iter(self._entries))]
            self.dropped += 1

    def forget(self, pin_id: bytes) -> None:
        """That pin is over."""
        for keys in [keys for keys, entry in self._entries.items() if _owner(entry) == pin_id]:
            del self._entries[keys]

    async def write(self, pins: NodePins, told: Told) -> None:
        """Write all of it, calling `told` with what stands. What cannot be written stays: raises `StoreUnavailable`."""
        while self._entries:
            entries = [*islice(self._entries.values(), LARGEST)]
            wants = [entry for entry in entries if isinstance(entry, Want)]
            learned = [entry for entry in entries if isinstance(entry, Learned)]
            for want, found in zip(wants, await pins.resolve(wants) if wants else (), strict=True):
                self._written(want, found, told)  # None: an old one that would have to be made anew, during a pause
            for one, found in zip(learned, await pins.learn(learned) if learned else (), strict=True):
                self._written(one, found, told)

    def _written(self, entry: Want | Learned, found: Resolved | None, told: Told) -> None:
        if self._entries.get(entry.keys) is entry:  # else something newer is to be written
            del self._entries[entry.keys]
        if found is not None:
            told(entry, found)


def _owner(entry: Want | Learned) -> bytes | None:
    if isinstance(entry, Learned):
        return entry.pin_id or entry.keys[0]
    return entry.was.id if entry.was is not None else None
