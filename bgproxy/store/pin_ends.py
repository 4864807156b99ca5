"""Sessions that are over, told to the store in batches, and who it was that ended each.

Promises that whoever waits is told exactly once. Where the store cannot say, whoever asks counts as the one: rather
twice than never. The store hears of it when it is back, before it is asked for anything that may have the same id.
Must not know why a session ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from typing import Final

from bgproxy.errors import StoreUnavailable
from bgproxy.store.batch import LARGEST, Batch
from bgproxy.store.pin_outage import Known
from bgproxy.store.pinning import NodePins

log = logging.getLogger(__name__)

MOST: Final = 10_000
"""Ends that wait for the store; beyond it their pins idle out."""

Ended = Callable[[bool], None]
"""Called with whether it was this that ended the session, and not another node before it."""


class Ends:
    """One per node."""

    def __init__(self, pins: NodePins, known: Known) -> None:
        self._untold: dict[bytes, None] = {}
        self._pins = pins
        self._known = known
        self._batch = Batch(self._end, "pins.end")

    def add(self, pin_id: bytes, done: Ended | None) -> None:
        """End this session."""
        self._batch.add((pin_id, done))

    async def tell(self) -> None:
        """Tell the store what it was not there to hear. Raises `StoreUnavailable`."""
        while self._untold:
            pin_ids = [*islice(self._untold, LARGEST)]
            await self._pins.end(pin_ids)
            for pin_id in pin_ids:
                self._untold.pop(pin_id, None)

    async def _end(self, ends: list[tuple[bytes, Ended | None]]) -> None:
        by_this: list[bool] = []
        try:
            if self._known.connected:
                by_this = await self._pins.end([pin_id for pin_id, _ in ends])
        except StoreUnavailable:
            pass  # the mirror tells of a store that is away
        finally:
            for at, (pin_id, done) in enumerate(ends):
                if not by_this and len(self._untold) < MOST:
                    self._untold[pin_id] = None
                try:
                    if done is not None:
                        done(not by_this or by_this[at])
                except Exception:
                    log.exception("what waited for a session's end failed")
