"""CPU time per forwarded SSE event, and memory per open stream, all contenders in one run.

    python -m bench.stream [--rounds 7] [--seconds 2] [--only nginx,bgproxy]

The streams' reader is this process, on the load's core with the upstream; it counts the events that arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.backends import start_agent
from bench.contenders import Backends, Contender, LineUp, line_up
from bench.options import Plan, add_common, plan_of
from bench.processes import Cores, Cpu, Stage, cpu, rss_bytes
from bench.report import median, ratio, section, table
from bench.upstream import EVENT_INTERVAL, MARK

WARM_UP_STREAMS = 20  # opened and closed first, so that what a first request allocates is not charged to the streams
SETTLE_SECONDS = 0.5
OPEN_TIMEOUT = 20.0
OPENING_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Round:
    """What one contender did in one round of flowing streams."""

    events: int
    expected: float
    reads: int
    cpu: Cpu

    @property
    def micros(self) -> float:
        """CPU time per event in microseconds."""
        return self.cpu.total * 1e6 / self.events if self.events else float("nan")

    @property
    def user_micros(self) -> float:
        return self.cpu.user * 1e6 / self.events if self.events else float("nan")


@dataclass(slots=True)
class Tally:
    """What all readers together have seen."""

    wanted: int
    events: int = 0
    reads: int = 0
    begun: int = 0
    lost: int = 0
    all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def one_began(self) -> None:
        self.begun += 1
        if self.begun == self.wanted:
            self.all_begun.set()


class Reader(asyncio.Protocol):
    """One open stream."""

    __slots__ = ("_begun", "_tally", "closing", "transport")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._begun = False
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        events = data.count(MARK)
        self._tally.events += events
        self._tally.reads += 1
        if events and not self._begun:
            self._begun = True
            self._tally.one_began()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self._tally.lost += 1


class Streams:
    """`count` streams of one path through one proxy, each begun before `open` returns."""

    def __init__(self, count: int) -> None:
        self.tally = Tally(wanted=count)
        self._readers: list[Reader] = []

    async def open(self, port: int, path: str) -> None:
        """Raises TimeoutError where a stream has not begun after OPEN_TIMEOUT seconds."""
        question = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
        async with asyncio.timeout(OPEN_TIMEOUT):
            for start in range(0, self.tally.wanted, OPENING_AT_ONCE):
                batch = min(OPENING_AT_ONCE, self.tally.wanted - start)
                await asyncio.gather(*(self._open_one(port, question) for _ in range(batch)))
            await self.tally.all_begun.wait()

    async def _open_one(self, port: int, question: bytes) -> None:
        loop = asyncio.get_running_loop()
        transport, reader = await loop.create_connection(lambda: Reader(self.tally), "127.0.0.1", port)
        self._readers.append(reader)
        transport.write(question)

    async def close(self) -> None:
        for reader in self._readers:
            reader.closing = True
            reader.transport.close()
        await asyncio.sleep(SETTLE_SECONDS)


@dataclass(slots=True)
class Result:
    """By contender: the rounds, KiB per flowing stream, KiB per silent one, streams that broke."""

    lined_up: LineUp
    rounds: dict[str, list[Round]]
    flowing_kib: dict[str, float]
    silent_kib: dict[str, float]
    lost: dict[str, int]


async def _flow(contender: Contender, plan: Plan, result: Result) -> None:
    """One round: open, let settle, measure, close."""
    pid = contender.running.pid
    empty = rss_bytes(pid)
    streams = Streams(plan.streams)
    await streams.open(contender.port, "/stream")
    await asyncio.sleep(SETTLE_SECONDS)
    loop = asyncio.get_running_loop()
    tally, before, begin = streams.tally, cpu(pid), loop.time()
    events, reads = tally.events, tally.reads
    await asyncio.sleep(plan.seconds)
    spent, took = cpu(pid) - before, loop.time() - begin
    expected = plan.streams * took / EVENT_INTERVAL
    result.rounds[contender.name].append(Round(tally.events - events, expected, tally.reads - reads, spent))
    # Only the first round starts from a heap that never held the streams; later ones find room that was freed.
    result.flowing_kib.setdefault(contender.name, (rss_bytes(pid) - empty) / 1024 / plan.streams)
    result.lost[contender.name] += tally.lost
    await streams.close()


async def _hold(contender: Contender, count: int) -> float:
    """KiB of resident memory per stream that is open and silent."""
    pid = contender.running.pid
    empty = rss_bytes(pid)
    streams = Streams(count)
    await streams.open(contender.port, "/idle")
    await asyncio.sleep(2 * SETTLE_SECONDS)
    held = rss_bytes(pid)
    await streams.close()
    return (held - empty) / 1024 / count


async def _warm_up(contender: Contender) -> None:
    for path in ("/stream", "/idle"):
        streams = Streams(WARM_UP_STREAMS)
        await streams.open(contender.port, path)
        await streams.close()


def _stand(stage: Stage, cores: Cores, plan: Plan) -> LineUp:
    port = start_agent(stage, cores, "blue")
    return line_up(stage, cores, Backends(port, port), plan.builds, only=plan.only)


async def _silent(plan: Plan, cores: Cores) -> dict[str, float]:
    """Memory of silent streams, by contender, in processes that are fresh."""
    with Stage() as stage:
        found: dict[str, float] = {}
        for contender in _stand(stage, cores, plan).contenders:
            await _warm_up(contender)
            found[contender.name] = await _hold(contender, plan.idle_streams)
        return found


async def _measure(plan: Plan, cores: Cores) -> Result:
    silent = await _silent(plan, cores)
    with Stage() as stage:
        lined_up = _stand(stage, cores, plan)
        names = [each.name for each in lined_up.contenders]
        result = Result(lined_up, {name: [] for name in names}, {}, silent, dict.fromkeys(names, 0))
        for contender in lined_up.contenders:
            await _warm_up(contender)
        for _ in range(plan.rounds):
            for contender in lined_up.contenders:
                await _flow(contender, plan, result)
    return result


def measure(plan: Plan) -> Result:
    """Both figures of all contenders. This process moves to the load's core for as long as it takes."""
    cores = Cores.of_this_machine()
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores.load})
    try:
        return uvloop.run(_measure(plan, cores))
    finally:
        os.sched_setaffinity(0, usable)


def micros(result: Result) -> dict[str, float]:
    """Median CPU microseconds per event by contender."""
    return {name: median(each.micros for each in held) for name, held in result.rounds.items()}


def report(plan: Plan, result: Result) -> str:
    """The table of the streams."""
    figures = micros(result)
    rows = []
    for name, held in result.rounds.items():
        all_micros = [each.micros for each in held]
        row = [name, f"{figures[name]:.1f}", f"{min(all_micros):.1f}-{max(all_micros):.1f}"]
        row += [f"{median(each.user_micros for each in held):.1f}", ratio(figures, name)]
        row += [f"{median(each.events / each.reads for each in held if each.reads):.2f}"]
        row += [f"{median(each.events / each.expected for each in held):.1%}"]
        row += [f"{result.silent_kib[name]:.1f}", f"{result.flowing_kib[name]:.1f}", str(result.lost[name])]
        rows.append(row)
    head = ["contender", "µs CPU per event", "lowest-highest", "of which user", "÷ nginx", "events per read"]
    head += ["arrived of sent", "KiB per silent stream", "KiB per flowing stream", "broken"]
    rate = 1 / EVENT_INTERVAL
    title = (
        f"Streams: {plan.streams} open at {rate:.0f} events/s each; memory also with {plan.idle_streams} silent ones"
    )
    return section(title, table(head, rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="CPU time per forwarded SSE event, and memory per open stream.")
    add_common(parser)
    plan = plan_of(parser.parse_args(arguments))
    result = measure(plan)
    print(report(plan, result))
    for name, why in result.lined_up.left_out.items():
        print(f"left out: {name}: {why}")
    return 1 if any(result.lost.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
