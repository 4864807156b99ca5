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


async def verify(store: Store, kept: str = "") -> Report:
    """What the audit's chain is worth. `kept`: a hash from an earlier time. Raises `StoreUnavailable` and its kinds."""
    page = await store.trail(limit=PAGE)
    walk = Walk(await store.head() or EMPTY, kept)
    while page:
        for entry in page:
            walk.take(entry)
        await asyncio.sleep(0)
        page = await store.trail(limit=PAGE, after=str(page[-1].get("id", OLDEST)))
    return walk.report(await store.head() or EMPTY)
