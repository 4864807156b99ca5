"""What sessions' pins cost where they are kept: bytes in Redis and in a node, round trips, and flips beside them.

The pins are made by the product's own store, as a node makes them; the Redis is a real one, with nothing else in it.
"""

from __future__ import annotations

import asyncio
import os
import time
import tracemalloc
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from bench.processes import Stage
from bench.redis_server import start_redis
from bench.report import median, section, table
from bgproxy.rules.fleet import bootstrap
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import Store, StoreOptions, open_store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.pin_outage import PinOptions
from bgproxy.store.pinning import Want
from bgproxy.store.pins import PinCache

BATCH = 500  # sessions in one round trip while the store is filled
FLIPS = 40
CACHE = 20_000  # keys that the node remembers here


@dataclass(frozen=True, slots=True)
class Result:
    """What was found. Bytes for each pin; milliseconds for a flip, as the caller of the store's ledger waits."""

    pins: int
    redis_bytes: float
    node_bytes: float
    cached: int  # keys that the node remembers after it has met all these sessions
    flip_before_ms: float
    flip_after_ms: float
    first_trips: int  # round trips of a new session's first request
    known_trips: int  # of its next one


def measure(pins: int) -> Result | None:
    """Fill a Redis of its own; None where there is no redis-server."""
    with Stage() as stage:
        redis = start_redis(stage)
        if redis is None:
            return None
        return asyncio.run(_measure(redis.url, pins))


async def _measure(url: str, pins: int) -> Result:
    store = open_store(StoreOptions(url=url, fleet="bench", command_timeout=10.0))
    await store.open()
    mirror = Mirror(store)
    releases = {
        color: Release(f"{color}-1", (f"http://127.0.0.1:{port}",), phase=Phase.READY)
        for color, port in (("blue", 9101), ("green", 9102))
    }
    await store.commit(bootstrap(releases, "blue", releases, "bench", time.time()), create=True)
    await mirror.start()
    try:
        ledger = Ledger(store, mirror, time.time, timeout=10.0)
        flip_before = await _flips(ledger)
        before = await _used(url)
        node_bytes, cached = await _fill(store, mirror, pins)
        redis_bytes = (await _used(url) - before) / pins
        first, known = await _trips(store, mirror)
        return Result(pins, redis_bytes, node_bytes, cached, flip_before, await _flips(ledger), first, known)
    finally:
        await mirror.stop()
        await store.close()


def _want() -> Want:
    return Want((os.urandom(16),), "default", "mcp", 3_600.0, offer=("blue", "http://127.0.0.1:9101"))


async def _fill(store: Store, mirror: Mirror, pins: int) -> tuple[float, int]:
    """Let a node meet so many sessions; the bytes that each key takes there, and how many it remembers in the end."""
    cache = PinCache(store.pins, mirror, "bench", PinOptions(cache_size=CACHE))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    await _meet(cache, CACHE)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await _meet(cache, pins - CACHE)
    return (after - before) / CACHE, len(cache)


async def _meet(cache: PinCache, count: int) -> None:
    for begin in range(0, count, BATCH):
        answers: list[asyncio.Future[object]] = []
        for _ in range(min(BATCH, count - begin)):
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            cache.resolve(_want(), lambda pin, _, answer=answer: answer.set_result(pin))
            answers.append(answer)
        await asyncio.gather(*answers)


async def _trips(store: Store, mirror: Mirror) -> tuple[int, int]:
    """Round trips of a new session's first request and of its second."""
    cache = PinCache(store.pins, mirror, "bench", PinOptions())
    want = _want()
    found: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    cache.resolve(want, lambda pin, _: found.set_result(pin))
    await found
    first = _calls(cache)
    if cache.get(want.keys) is None:
        raise RuntimeError("bench: a session that was just pinned is not known")
    return first, _calls(cache) - first


def _calls(cache: PinCache) -> int:
    told: dict[str, dict[str, Any]] = cache.counted()["store"]
    return sum(trips["calls"] for trips in told.values())


async def _flips(ledger: Ledger) -> float:
    """The middle one of many flips there and back, in milliseconds."""
    times = []
    for number in range(FLIPS):
        began = time.perf_counter()
        await ledger.flip(("green", "blue")[number % 2], actor="bench", reason="bench", force=True)
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


async def _used(url: str) -> float:
    """Bytes that the Redis has in use for data."""
    async with Redis.from_url(url) as redis:
        return float((await redis.info("memory"))["used_memory"])


def report(found: Result) -> str:
    """The table."""
    rows = [
        ["sessions pinned", f"{found.pins:,}"],
        ["bytes in Redis for each", f"{found.redis_bytes:.0f}"],
        [f"keys that a node remembers after meeting them all (`cache_size` {CACHE:,})", f"{found.cached:,}"],
        ["bytes in a node for each key that it remembers", f"{found.node_bytes:.0f}"],
        ["round trips of a new session's first request", str(found.first_trips)],
        ["round trips of its next request", str(found.known_trips)],
        ["a flip on an empty store, ms", f"{found.flip_before_ms:.2f}"],
        ["a flip beside all these pins, ms", f"{found.flip_after_ms:.2f}"],
    ]
    return section("Pins in a real Redis", table(["what", "figure"], rows))
