"""The bell of the pins, followed for ever: it says which pins others have ended or changed.

Promises that every new subscription is told before what rings on it, so that whoever listens knows that something may
have been missed; and that whoever asks the store hears what rings before the answer comes (`Overheard`). Survives
whatever the store does. Must not know what is done about it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import cast

from bgproxy.errors import StoreUnavailable
from bgproxy.store.pinning import NodePins

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds before the next subscription; doubled at each failure


class Overheard:
    """What rings while a question is under way: its answer may be older than that."""

    def __init__(self) -> None:
        self._questions: dict[int, set[bytes]] = {}

    @contextmanager
    def meanwhile(self) -> Iterator[set[bytes]]:
        """The pins that have rung since, to be looked at when the answer is there."""
        rung: set[bytes] = set()
        self._questions[id(rung)] = rung
        try:
            yield rung
        finally:
            del self._questions[id(rung)]

    def rang(self, pin_id: bytes) -> None:
        for rung in self._questions.values():
            rung.add(pin_id)


async def follow(
    pins: NodePins,
    subscribed: Callable[[], None],
    changed: Callable[[Iterable[bytes]], None],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Call `subscribed` at each new subscription, and `changed` with what rings; never returns."""
    pause = _FIRST_PAUSE
    while True:
        try:
            async with aclosing(cast("AsyncGenerator[tuple[bytes, ...], None]", pins.watch())) as bells:
                async for ids in bells:
                    if ids:
                        changed(ids)
                    else:
                        subscribed()
                        pause = _FIRST_PAUSE
        except StoreUnavailable:
            pass  # the mirror tells of a store that is away
        except Exception:
            log.exception("the pins' bell failed")
        await sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, _LONGEST_PAUSE)
