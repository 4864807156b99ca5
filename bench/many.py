"""How long a barrier takes over many nodes.

`python -m bench.many`: so many nodes in two processes, each with connections, a mirror, a heartbeat and a barrier of
its own, the product's; what they admit is left out. One of them is asked to flip, over and over, on a real Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import Stage
from bench.redis_server import start_redis
from bench.report import table
from bgproxy.rollout.barrier import Barrier, FlipOptions
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import FleetState, bootstrap
from bgproxy.rules.release import Release
from bgproxy.rules.slo import quantile
from bgproxy.store.base import NodeReport, Store, StoreOptions, open_store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.nodes import Heartbeat

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

COLORS = ("blue", "green")
LIMIT = 100.0  # ms, of the 99th percentile
WARM = 10  # flips that do not count


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds of each flip, in order, and how many of them were given up."""

    nodes: int
    took: list[float]
    given_up: int


class Node:
    """One worker process, as far as a flip knows it."""

    def __init__(self, url: str, number: int) -> None:
        self.store: Store = open_store(StoreOptions(url=url, fleet="bench"))
        self.id = f"web-{number:03}"
        self.mirror = Mirror(self.store)
        self.ledger = Ledger(self.store, self.mirror, time.time)
        self.heartbeat = Heartbeat(self.store, self.report, self.mirror.refresh)
        self.is_shut = False
        self.barrier = Barrier(self.ledger, self.mirror, self.store, self.id, FlipOptions(), self)
        self.mirror.listen(self._apply)
        self.mirror.listen(self.barrier.apply)

    def report(self) -> NodeReport:
        """What it says of itself."""
        state = self.mirror.state
        epoch, revision = (state.pointer.epoch, state.revision) if state is not None else (0, 0)
        return NodeReport(self.id, "web", 1, "0", epoch, serial=self.heartbeat.serial, revision=revision)

    async def start(self, ends: AsyncExitStack) -> None:
        """Join the others; `ends` takes it away again."""
        ends.push_async_callback(self.store.close)
        await self.heartbeat.join()
        await self.mirror.start()
        self.heartbeat.start()
        for part in (self.mirror, self.heartbeat, self.barrier):
            ends.push_async_callback(part.stop)

    def shut(self) -> None:
        """See `Door`: nothing is admitted here at all."""
        self.is_shut = True

    def settle(self) -> None:
        """See `Door`."""
        self.is_shut = self.mirror.state is not None and self.mirror.state.is_held

    def _apply(self, _: FleetState) -> None:
        self.settle()


def _others(url: str, numbers: range, joined: Event, over: Event) -> None:
    """The other process."""

    async def run() -> None:
        async with AsyncExitStack() as ends:
            for number in numbers:
                await Node(url, number).start(ends)
            joined.set()
            await asyncio.to_thread(over.wait)

    asyncio.run(run())


def measure(nodes: int, flips: int, pause: float) -> Result | None:
    """None where there is no redis-server. `pause`: seconds between two flips."""
    with Stage() as stage:
        redis = start_redis(stage)
        if redis is None:
            return None
        spawning = get_context("spawn")
        joined, over = spawning.Event(), spawning.Event()
        asyncio.run(_begin(redis.url))
        other = spawning.Process(target=_others, args=(redis.url, range(nodes // 2, nodes), joined, over))
        other.start()
        try:
            return asyncio.run(_measure(redis.url, nodes, flips, pause, joined))
        finally:
            over.set()
            other.join()


async def _begin(url: str) -> None:
    store = open_store(StoreOptions(url=url, fleet="bench"))
    releases = {color: Release(f"v{color}", ("http://127.0.0.1:9",)) for color in COLORS}
    await store.commit(bootstrap(COLORS, COLORS[0], releases, "bench", time.time()), create=True)
    await store.close()


async def _measure(url: str, nodes: int, flips: int, pause: float, joined: Event) -> Result:
    async with AsyncExitStack() as ends:
        here = [Node(url, number) for number in range(nodes // 2)]
        for node in here:
            await node.start(ends)
        await asyncio.to_thread(joined.wait)
        took = []
        for number in range(WARM + flips):
            await asyncio.sleep(pause)
            began = time.perf_counter()
            move = Move("flip", COLORS[(number + 1) % 2], "bench", f"flip {number}", force=True)
            await here[0].barrier.move(move)
            took.append(1000 * (time.perf_counter() - began))
        given_up = sum(entry.verb == "flip_abandoned" for entry in await here[0].store.audit(limit=10 * flips))
        return Result(nodes, took[WARM:], given_up)


def report(found: Result) -> str:
    """The table."""
    ordered = sorted(found.took)
    rows = [
        ["registered nodes, in two processes", f"{found.nodes}"],
        ["flips", f"{len(ordered)}"],
        ["given up", f"{found.given_up}"],
        ["median, ms", f"{median(ordered):.1f}"],
        ["99th percentile, ms", f"{quantile(ordered, 0.99):.1f}"],
        ["slowest, ms", f"{ordered[-1]:.1f}"],
    ]
    return table(["what", "figure"], rows)


def main() -> int:
    """The command's exit status: 1 where the 99th percentile is beyond its limit, or a flip was given up."""
    parser = argparse.ArgumentParser(prog="python -m bench.many", description=__doc__)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two flips (0.2)")
    options = parser.parse_args()
    found = measure(options.nodes, options.flips, options.pause)
    if found is None:
        raise SystemExit("bench: needs redis-server (`apt-get install redis-server`)")
    print(f"on {os.cpu_count()} cores\n")
    print(report(found))
    return int(quantile(sorted(found.took), 0.99) > LIMIT or found.given_up > 0)


if __name__ == "__main__":
    raise SystemExit(main())
