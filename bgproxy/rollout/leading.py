"""How a node leads what stands in the fleet's state: the run of a plan, or the retirement of a release.

Every node looks at it at each change of the state, and once a second. It is led by the node that is named there; where
that one is not live at so many looks in a row, the first that finds out takes over. What a leader has found out goes on
record whatever the store does meanwhile. Must not know what is led, nor when that is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from bgproxy.errors import Problem, Refused, StoreUnavailable
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.store.base import Store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks where nothing rings
LOOKS = 2  # in a row that must not find the leader live before it is taken over
PAUSE = 1.0  # seconds before something is asked of the store again


class Bell:
    """Rings at each change of the state."""

    def __init__(self, mirror: Mirror) -> None:
        self._next = asyncio.Event()
        mirror.listen(self._ring)

    @property
    def next(self) -> asyncio.Event:
        """Set by the next change: taken before a look, so that none is missed during it."""
        return self._next

    def _ring(self, _state: FleetState) -> None:
        self._next.set()
        self._next = asyncio.Event()


async def rung(change: asyncio.Event) -> None:
    """Wait for that change, `INTERVAL` at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(INTERVAL):
            await change.wait()


async def look_for_ever(bell: Bell, look: Callable[[], Awaitable[None]], what: str) -> None:
    """Look at each change, and in between, whatever comes of a look. `what` is looked at, in words."""
    while True:
        change = bell.next
        try:
            await look()
        except Problem as error:
            log.debug("%s cannot be looked at now: %s", what, error)
        except Exception:
            log.exception("a look at %s failed", what)
        await rung(change)


class Absences:
    """Which leaders were not found live, and at how many looks in a row."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._before: dict[tuple[str, str], int] = {}  # by what is led, and leader
        self._now: dict[tuple[str, str], int] = {}

    def begin(self) -> None:
        """A look begins."""
        self._before, self._now = self._now, {}

    async def is_gone(self, leader: str, what: str) -> bool:
        """Whether that node, which leads it, has not been live for so long that another one is to take over."""
        self._now[what, leader] = self._before.get((what, leader), 0)  # of what cannot be looked at nothing is known
        if any(node.id == leader and node.live for node in await self._store.nodes()):
            del self._now[what, leader]
            return False
        self._now[what, leader] += 1
        return self._now[what, leader] >= LOOKS


async def put_on_record(ledger: Ledger, store: Store, decide: Callable[..., Change | None], what: str) -> None:
    """Make a change, whatever the store does meanwhile: what was found out is not lost. `what` it is about, in words.

    `decide`: takes the state and, as `at`, the store's time. It may see its own change, where the answer to that was
    lost, and must not make it twice.
    """
    while True:
        try:
            await ledger.make(partial(decide, at=await store.now()))
        except (StoreUnavailable, Refused) as error:
            log.warning("%s cannot be put on record now: %s", what, error)
            await asyncio.sleep(PAUSE)
        else:
            return


def failed_in_itself(what: str, error: Exception) -> Finding:
    """What a step comes to that ended with an error of our own, which is logged."""
    log.error("%s failed in itself", what, exc_info=error)
    return Finding(Verdict.UNDECIDED, f"it failed in itself: {type(error).__name__}; the proxy's log says more")
