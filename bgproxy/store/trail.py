"""Walks a store's whole audit and tells whether it is what was written.

Reads by pages, so that a long record takes no more memory than a short one, and gives way between two of them: it runs
beside the traffic. Changes and retention go on meanwhile and are no faults: the head is read after the first page, so
that nothing that this page has can be newer, and once more at the end.
"""

from __future__ import annotations

import asyncio
from typing import Final

from bgproxy.rules.chain import EMPTY, Report, Walk
from bgproxy.store.base import OLDEST, Store

PAGE: Final = 100
"""Entries at once: some four milliseconds of one worker."""

_TRIES = 3  # walks, where retention takes entries from under each of them


async def verify(store: Store, kept: str = "") -> Report:
    """What the audit's chain is worth. `kept`: a hash from an earlier time. Raises `StoreUnavailable` and its kinds."""
    for _ in range(_TRIES - 1):
        report, steady = await _walked(store, kept)
        if report.fault is None or steady:
            return report
    return (await _walked(store, kept))[0]


async def _walked(store: Store, kept: str) -> tuple[Report, bool]:
    """One walk; False where retention took entries from under it, so that a lack of some is none to be told."""
    page = await store.trail(limit=PAGE)
    head = await store.head() or EMPTY
    walk = Walk(head, kept)
    while page:
        for entry in page:
            walk.take(entry)
        await asyncio.sleep(0)
        page = await store.trail(limit=PAGE, after=str(page[-1].get("id", OLDEST)))
    now = await store.head() or EMPTY
    return walk.report(now), now.first == head.first
