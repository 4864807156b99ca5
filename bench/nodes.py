"""What the nodes' beats, and their looks at one another, cost Redis.

`python -m bench.nodes`: so many nodes, each with a connection of its own and the product's own heartbeat, on a real
Redis with nothing else in it. A figure is CPU time of redis-server, less what it takes for being there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.processes import Cores, Stage
from bench.redis_server import start_redis
from bench.report import table
from bgproxy.store.badge import Badges
from bgproxy.store.base import NodeReport, Store, StoreOptions, open_store
from bgproxy.store.neighbours import Neighbours
from bgproxy.store.nodes import Heartbeat

COLORS = ("blue", "green")


@dataclass(frozen=True, slots=True)
class Result:
    """CPU time of redis-server in percent of a core, for all nodes together."""

    nodes: int
    idle: float
    beats: float
    looks: float


class Node:
    """One worker process, as far as the list of nodes knows it."""

    def __init__(self, url: str, number: int, directory: Path) -> None:
        self.store: Store = open_store(StoreOptions(url=url, fleet="bench"))
        self.id = f"web-{number:03}-{10_000 + number}-{number:04x}"
        self.heartbeat = Heartbeat(self.store, self.report, self.store.read)
        self.neighbours = Neighbours(
            self.store, Badges(directory, "bench"), _nothing, node_ttl=10.0, forget_after=3600.0
        )

    def report(self) -> NodeReport:
        busy = dict.fromkeys(COLORS, 17)
        host, serial, oldest = self.id.partition("-1")[0], self.heartbeat.serial, dict.fromkeys(COLORS, 61.25)
        return NodeReport(
            self.id, host, 10_000, "0.1.0", 42, busy, busy, busy, oldest=oldest, serial=serial, revision=99
        )


async def _nothing(_: NodeReport) -> None:
    """Nobody is forgotten here."""


def measure(nodes: int, seconds: float) -> Result | None:
    """None where there is no redis-server."""
    with Stage() as stage:
        redis = start_redis(stage)
        if redis is None:
            return None
        os.sched_setaffinity(0, {Cores.of_this_machine().load})
        spent = partial(_spent, partial(_on_cpu, redis.pid), seconds)
        return asyncio.run(_measure(redis.url, nodes, stage.directory, spent))


async def _measure(url: str, count: int, directory: Path, spent: Callable[[], asyncio.Future[float]]) -> Result:
    async with AsyncExitStack() as ends:
        nodes = [Node(url, number, directory) for number in range(count)]
        for node in nodes:
            ends.push_async_callback(node.store.close)
            await node.heartbeat.join()
            ends.push_async_callback(node.heartbeat.stop)
            ends.push_async_callback(node.neighbours.stop)
        idle = await spent()
        for node in nodes:
            node.heartbeat.start()
        beats = await spent()
        for node in nodes:
            node.neighbours.start()
        looks = await spent()
        return Result(count, idle, beats - idle, looks - beats)


def _on_cpu(pid: int) -> float:
    """Seconds that a process has run, all its threads, to the nanosecond: `cpu` counts in steps of 10 ms."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


async def _spent(clock: Callable[[], float], seconds: float) -> float:
    """Percent of a core that goes by, once things have settled."""
    await asyncio.sleep(2.0)
    before = clock()
    await asyncio.sleep(seconds)
    return 100 * (clock() - before) / seconds


def report(found: Result) -> str:
    """The table."""
    rows = [
        ["registered nodes", f"{found.nodes}"],
        ["redis-server with all of them connected and silent, % of a core", f"{found.idle:.2f}"],
        ["their beats, one in two seconds each, more than that", f"{found.beats:.2f}"],
        ["their looks at one another, one in thirty seconds each, more than that", f"{found.looks:.2f}"],
    ]
    return table(["what", "figure"], rows)


def main() -> int:
    """The command's exit status: 1 where beats and looks take 1 % of a core per 100 nodes, or more."""
    parser = argparse.ArgumentParser(prog="python -m bench.nodes", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of three parts (30)")
    options = parser.parse_args()
    found = measure(options.nodes, options.seconds)
    if found is None:
        raise SystemExit("bench: needs redis-server (`apt-get install redis-server`)")
    print(report(found))
    return int((found.beats + found.looks) * 100 / found.nodes >= 1.0)


if __name__ == "__main__":
    raise SystemExit(main())
