"""How far one Redis carries a fleet: a model whose inputs are measured here, on the product's own calls.

    python -m bench.scale

What each call costs the CPU of a real redis-server is read from the server itself (`used_cpu_*`), and taken times how
often nodes and sessions make it. The model is additive: it knows of no queueing, so plan with half of what it allows.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from bench.processes import Stage
from bench.redis_server import start_redis
from bench.report import section, table
from bgproxy.rules.fleet import bootstrap
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import NodeReport, Store, StoreOptions, open_store
from bgproxy.store.nodes import BEAT_INTERVAL
from bgproxy.store.pinning import Want

BEATS = 0.95 * BEAT_INTERVAL  # seconds between two beats of a node, with their jitter
READINGS = 0.875  # seconds between two readings of the state: 1 s with its jitter
TTL = 3_600.0  # of a pin; use is told once a third of it has passed
AT_ONCE = 8  # calls under way
CALLS = 10_000  # of each kind
REGISTERED = 500  # nodes
BYTES = 241  # of a pin, see the table of pins


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of the server's CPU for one call of each kind."""

    beat: float
    read: float
    hold: float
    begin: float  # a new session
    use: float  # of a known one, told again


@dataclass(frozen=True, slots=True)
class Fleet:
    """A size to be carried. `life`: seconds that a session lives."""

    nodes: int
    sessions: int
    life: float = 1_800.0

    def cores(self, costs: Costs) -> float:
        """What its quiet life takes of one core of Redis."""
        ticks = self.nodes * (costs.beat / BEATS + costs.read / READINGS)
        sessions = self.sessions / self.life * costs.begin + self.sessions / (TTL / 3) * costs.use
        return (ticks + sessions) / 1e6

    def flip_ms(self, costs: Costs) -> float:
        """How long Redis works for one barrier, at most: each node reads twice, once as it says that it holds."""
        return self.nodes * (2 * costs.read + costs.hold) / 1e3


async def _cpu(redis: Redis) -> float:
    told = await redis.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


async def _each(redis: Redis, call: Callable[[int], Awaitable[object]]) -> float:
    """Microseconds of the server's CPU for one of many such calls."""
    before, numbers = await _cpu(redis), iter(range(CALLS))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return (await _cpu(redis) - before) / CALLS * 1e6


async def _measure(url: str) -> Costs:
    store = open_store(StoreOptions(url=url, fleet="bench", command_timeout=10.0))
    await store.open()
    release = Release("v1", ("http://127.0.0.1:9101",), phase=Phase.READY)
    colors = {"blue": release, "green": release}
    await store.commit(bootstrap(colors, "blue", colors, "bench", time.time()), create=True)
    async with Redis.from_url(url) as redis:
        costs = await _of_all(store, redis)
    await store.close()
    return costs


async def _of_all(store: Store, redis: Redis) -> Costs:
    load = {"blue": 12, "green": 0}
    nodes = [NodeReport(f"host-{n}-{os.getpid()}", "host", n, "0", 1, load, load, load) for n in range(REGISTERED)]
    keys = [os.urandom(16) for _ in range(CALLS)]
    for node in nodes:
        await store.beat(node)
    return Costs(
        beat=await _each(redis, lambda n: store.beat(nodes[n % REGISTERED])),
        read=await _each(redis, lambda _: store.read()),
        hold=await _each(redis, lambda n: store.hold(nodes[n % REGISTERED].id, 1 + n // REGISTERED)),
        begin=await _each(redis, lambda n: store.pins.resolve([Want((keys[n],), "default", "mcp", TTL)])),
        use=await _each(redis, lambda n: store.pins.refresh([keys[n]])),
    )


def report(costs: Costs, fleets: list[Fleet]) -> str:
    """Both tables: what was measured, and what the model makes of it."""
    inputs = [[name, f"{getattr(costs, name):.0f}"] for name in Costs.__slots__]
    rows = []
    for fleet in fleets:
        size = [f"{fleet.nodes:,}", f"{fleet.sessions:,}"]
        memory = f"{fleet.sessions * BYTES / 2**30:.2f}"
        rows.append([*size, f"{fleet.cores(costs) * 100:.1f} %", f"{fleet.flip_ms(costs):.1f}", memory])
    head = ["nodes", "live sessions", "of a core of Redis", "its work for one barrier, ms", "pins, GiB"]
    return section("What a call costs Redis, µs", table(["call", "CPU"], inputs)) + section(
        "What a fleet costs one Redis, by the model", table(head, rows)
    )


def main() -> int:
    with Stage() as stage:
        redis = start_redis(stage)
        if redis is None:
            print("left out: there is no redis-server; `apt-get install redis-server` brings one")
            return 0
        costs = asyncio.run(_measure(redis.url))
    sizes = [Fleet(16, 10_000), Fleet(100, 100_000), Fleet(400, 1_000_000), Fleet(10_000, 10_000_000)]
    print(report(costs, sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
