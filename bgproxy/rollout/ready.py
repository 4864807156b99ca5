"""The first step of a run: the new release's agents are there. Each upstream of every route takes connections, and
answers where a health check has a path; one of many that does not come up is found here, and by no client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from bgproxy.rollout.health import look
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.health import HealthOptions

PAUSE = 0.25  # seconds between two looks


async def await_ready(urls: Sequence[str], health: HealthOptions, timeout: float) -> Finding:
    """Wait for all of them, `timeout` seconds at most."""
    if not urls:
        return Finding(Verdict.FAIL, "no route of this fleet leads to an upstream of the release")
    began = monotonic()
    waiting = list(urls)
    while True:
        said = await asyncio.gather(*(look(url, health) for url in waiting))
        faults = {url: reason for url, (reason, _) in zip(waiting, said, strict=True) if reason}
        took = monotonic() - began
        if not faults:
            count = f"{len(urls)} {'upstream answers' if len(urls) == 1 else 'upstreams answer'}"
            return Finding(Verdict.PASS, f"{count} after {took:.1f} s", {"upstreams": list(urls)})
        if took + PAUSE > timeout:
            why = "; ".join(f"{url}: {reason}" for url, reason in faults.items())
            return Finding(Verdict.FAIL, f"after {timeout:g} s, {why}", {"upstreams": list(urls), "faults": faults})
        await asyncio.sleep(PAUSE)
        waiting = list(faults)
