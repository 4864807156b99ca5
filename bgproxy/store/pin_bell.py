"""The bell of the pins, followed for ever: it says which pins others have ended or changed.

Promises that every new subscription is told before what rings on it, so that whoever listens knows that something may
have been missed. Survives whatever the store does. Must not know what is done about it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import cast

from bgproxy.errors import StoreUnavailable
from bgproxy.store.pinning import NodePins

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds before the next subscription; doubled at each failure


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
