"""What a flip over four workers costs: 64 connections that are kept busy, a barrier, and a swap beside it.

    python -m bench.barrier [--flips 200] [--workers 4] [--hosts 1] [--think-ms 8] [--bgproxy NAME=WHERE]

A real Redis, one `bgproxy serve` per host with its workers, the agents and the load share all cores of this machine. A
flip's time is that from the POST to its answer; a request's delay that from its first byte to its answer's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import uvloop

from bench.backends import start_agent
from bench.contenders import Build
from bench.contenders.ours import wait_until_ready
from bench.flip import CONNECTIONS, Tally, Watch, client_loop, executed_twice, pause
from bench.options import Plan, add_common, plan_of
from bench.processes import Cores, Stage, free_ports, tree
from bench.redis_server import start_redis
from bench.report import median, section, table
from bench.wire import Line, answer_is_whole, parse_answer, post_json

BEFORE_SECONDS = 0.03  # of undisturbed traffic before each flip
AFTER_SECONDS = 0.06  # watched after each flip has returned
REGISTERED_TIMEOUT = 10.0


@dataclass(slots=True)
class Seen(Watch):
    """One flip, or a stretch without one, as the clients saw it."""

    old_after_new: int = 0  # requests sent after the first answer of the new side, answered by the old one
    delays: list[float] = field(default_factory=list)  # seconds, of each request that was answered meanwhile

    def answered(self, color: bytes, sent: float, now: float) -> None:
        """See `Watch.answered`."""
        self.delays.append(now - sent)
        if color != self.to and self.first_new and sent > self.first_new:
            self.old_after_new += 1
        Watch.answered(self, color, sent, now)


@dataclass(slots=True)
class Result:
    """All flips of one strategy."""

    tally: Tally
    flips: list[Seen]
    undisturbed: list[float]  # seconds: delays where nobody flipped
    repeated: int

    def took_ms(self) -> list[float]:
        return sorted((each.returned - each.began) * 1e3 for each in self.flips)


async def _flip(lines: list[Line], admin: int, to: str, strategy: str) -> float:
    if not lines or lines[0].closed:
        _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", admin)
        lines[:] = [line]
    body = {"to": to, "reason": "bench", "strategy": strategy}
    request = post_json("/v1/flip", body, f"127.0.0.1:{admin}")
    status, answer = parse_answer(await lines[0].ask(request, answer_is_whole))
    if status != 200:
        raise RuntimeError(f"bench: the flip to {to} was answered {status}: {answer.decode(errors='replace')}")
    return lines[0].answered_at


async def _registered(admin: int, workers: int) -> None:
    """Wait until every worker has its place among the nodes."""
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", admin)
    deadline = time.monotonic() + REGISTERED_TIMEOUT
    while time.monotonic() < deadline:
        asked = f"GET /v1/nodes HTTP/1.1\r\nHost: 127.0.0.1:{admin}\r\n\r\n".encode()
        _, body = parse_answer(await line.ask(asked, answer_is_whole))
        if len(json.loads(body)["nodes"]) == workers:
            line.close()
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"bench: not all {workers} workers are registered after {REGISTERED_TIMEOUT:g} s")


async def _contend(plan: Plan, ports: Sequence[int], admin: int, agents: tuple[int, int], strategy: str) -> Result:
    tally, lines, active = Tally(), list[Line](), ("blue", "green")
    doors = [ports[number % len(ports)] for number in range(CONNECTIONS)]
    clients = [asyncio.create_task(client_loop(tally, port, plan.think_ms / 1e3)) for port in doors]
    seen: list[Seen] = []
    await asyncio.sleep(1.0)
    quiet = Seen(b"", time.perf_counter())
    tally.watch = quiet
    await asyncio.sleep(2.0)
    for turn in range(plan.flips):
        await asyncio.sleep(BEFORE_SECONDS)
        to = active[(turn + 1) % 2]
        watch = Seen(to.encode(), time.perf_counter())
        tally.watch = watch
        watch.returned = await _flip(lines, admin, to, strategy)
        await asyncio.sleep(AFTER_SECONDS)
        seen.append(watch)
    tally.running = False
    await asyncio.wait_for(asyncio.gather(*clients), 10.0)
    if plan.flips % 2:
        await _flip(lines, admin, "blue", "swap")
    return Result(tally, seen, quiet.delays, await executed_twice(agents))


async def _measure(plan: Plan, build: Build, workers: int, hosts: int) -> dict[str, Result] | None:
    cores = Cores.of_this_machine()
    with Stage() as stage:
        redis = start_redis(stage)
        if redis is None:
            return None
        agents = (start_agent(stage, cores, "blue"), start_agent(stage, cores, "green"))
        doors = [free_ports(2) for _ in range(hosts)]
        for port, admin in doors:
            argv = [build.python, "-m", "bgproxy", "serve", "--workers", str(workers // hosts)]
            argv += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
            argv += ["--blue", f"http://127.0.0.1:{agents[0]}", "--green", f"http://127.0.0.1:{agents[1]}"]
            argv += ["--active", "blue", "--store", redis.url]
            stage.start(build.name, argv, core=cores.proxy, ports=[port, admin], env=build.environment())
            wait_until_ready(admin)
        ports, admin = [port for port, _ in doors], doors[0][1]
        await _registered(admin, workers)
        for pid in tree(os.getpid()):
            os.sched_setaffinity(pid, {cores.proxy, cores.load})
        return {name: await _contend(plan, ports, admin, agents, name) for name in ("barrier", "swap")}


def at(sorted_values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies (the nearest rank)."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def report(plan: Plan, workers: int, hosts: int, results: dict[str, Result]) -> str:
    """The table of both strategies."""
    rows = []
    for name, result in results.items():
        took, delays = result.took_ms(), sorted(delay for each in result.flips for delay in each.delays)
        row = [name, f"{result.tally.answered:,}", str(result.tally.refused + result.tally.broken)]
        row += [str(result.repeated), f"{median(took):.1f}", f"{at(took, 0.99):.1f}", f"{took[-1]:.1f}"]
        row += [f"{at(sorted(result.undisturbed), 0.99) * 1e3:.1f}", f"{max(result.undisturbed) * 1e3:.1f}"]
        row += [f"{at(delays, 0.99) * 1e3:.1f}", f"{delays[-1] * 1e3:.1f}"]
        row += [str(sum(each.old_after_new for each in result.flips))]
        rows.append(row)
    head = ["flip", "answered", "failed", "executed twice", "p50, ms", "p99, ms", "slowest"]
    head += ["request p99 without flips, ms", "slowest", "request p99 around flips", "slowest", "old after new"]
    load = f"that think {plan.think_ms:g} ms" if plan.think_ms else "in a closed loop"
    where = "one host" if hosts == 1 else f"{hosts} hosts"
    title = f"{plan.flips} flips over {workers} workers of {where} under {CONNECTIONS} connections {load}"
    return section(title, table(head, rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a flip over several workers costs.")
    parser.add_argument("--think-ms", type=pause, default=8.0, metavar="N", help="as in bench.flip (8)")
    parser.add_argument("--workers", type=int, default=4, help="processes, of all hosts (4)")
    parser.add_argument("--hosts", type=int, default=1, metavar="N", help="each has its share of the workers (1)")
    add_common(parser)
    parser.set_defaults(flips=200)
    options = parser.parse_args(arguments)
    if options.hosts < 1 or options.workers < 1 or options.workers % options.hosts:
        parser.error(f"--workers {options.workers}: each of {options.hosts} hosts must have as many of them")
    plan = replace(plan_of(options), think_ms=options.think_ms)
    results = uvloop.run(_measure(plan, plan.builds[-1], options.workers, options.hosts))
    if results is None:
        print("left out: there is no redis-server; `apt-get install redis-server` brings one")
        return 0
    print(report(plan, options.workers, options.hosts, results))
    wrong = results["barrier"]
    harmed = wrong.tally.refused + wrong.tally.broken + wrong.repeated
    return 1 if harmed or any(each.old_after_new for each in wrong.flips) else 0


if __name__ == "__main__":
    sys.exit(main())
