"""The connections that a flip finds open, which are the proof that a color can take traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from bgproxy.proxy.pool import Upstream
from bgproxy.proxy.routing import Routing


async def warm_up(color: str, upstreams: Sequence[Upstream], routing: Routing | None, count: int) -> str:
    """Open `count` connections to each of a color's upstreams; why it cannot take traffic, or nothing.

    It can while one upstream of every route takes connections and no health check speaks against it.
    """
    # An open connection is proof enough. Then nothing is waited for: under load each wait is a turn of a busy loop.
    now = monotonic()
    cold = [upstream for upstream in upstreams if not upstream.is_warm(now)]
    said = {}
    if cold:
        answers = await asyncio.gather(*(upstream.warm(max(count, 1)) for upstream in cold))
        said = dict(zip(cold, answers, strict=True))
    trouble = {
        upstream: said.get(upstream) or ("" if upstream.health.up else upstream.health.reason or "unhealthy")
        for upstream in upstreams
    }
    groups = routing.groups.values() if routing is not None else ()
    for group in groups:
        if group.color == color and not any(trouble.get(upstream) == "" for upstream in group.upstreams):
            reasons = "; ".join(f"{upstream.url}: {trouble[upstream]}" for upstream in group.upstreams)
            return f"{color} has no healthy upstream for route {group.route}: {reasons or 'none is configured'}"
    return ""
