"""Which pins are in use on this node, told to the store in batches, so that they do not expire.

Promises that nothing is told twice in one go, and that what could not be told is kept. A pin that the store does not
know is asked about once more, a moment later: its end may have been on its way. Must not know what becomes of those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bgproxy.errors import StoreUnavailable
from bgproxy.store.batch import LARGEST
from bgproxy.store.pin_table import Held
from bgproxy.store.pinning import NodePins


class Uses:
    """Keys that are in use; put them into `due`."""

    def __init__(self, pins: NodePins, by_key: Mapping[bytes, Held], clock: Callable[[], float]) -> None:
        self.due: dict[bytes, None] = {}
        self._suspects: dict[bytes, Held] = {}  # not known to the store when it was last told
        self._pins = pins
        self._by_key = by_key
        self._clock = clock

    def prune(self) -> None:
        """The store is away, and may be for long: what this node does not remember any more is not told later."""
        if len(self.due) > len(self._by_key):
            for key in [key for key in self.due if key not in self._by_key]:
                del self.due[key]

    async def tell(self, lost: Callable[[bytes, Held], None]) -> int:
        """Tell the store what is in use; how many pins that has prolonged. Raises `StoreUnavailable`.

        `lost` is called with what the store did not know, now and the last time, while this node still holds it.
        """
        for key, held in [*self._suspects.items()]:
            del self._suspects[key]
            if self._by_key.get(key) is held:
                lost(key, held)
        told = 0
        while self.due:
            keys, now = [*self.due][:LARGEST], self._clock()
            for key in keys:
                del self.due[key]
            try:
                gone = set(await self._pins.refresh(keys))
            except StoreUnavailable:
                self.due.update(dict.fromkeys(keys))
                raise
            for key in keys:
                if (held_now := self._by_key.get(key)) is None:
                    continue
                if key in gone:
                    self._suspects[key] = held_now
                else:
                    held_now.prolonged(now)
            told += len(keys) - len(gone)
        return told
