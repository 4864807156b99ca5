"""What clients see of a flip: 64 connections that are kept busy, 20 flips under way, every request accounted for.

    python -m bench.flip [--flips 20] [--think-ms 8] [--only nginx,haproxy,bgproxy]

Each request carries a number that the agents note, so that besides a failed request also one that was executed twice
is found. nginx flips by `nginx -s reload`, HAProxy by its runtime map, bgproxy by `POST /v1/flip`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import uvloop

from bench.backends import start_agent
from bench.contenders import Backends, Contender, LineUp, line_up
from bench.options import Plan, add_common, plan_of
from bench.processes import Cores, Stage
from bench.report import median, section, table
from bench.wire import Line, answer_is_whole, parse_answer, split_answer

CONNECTIONS = 64
BEFORE_SECONDS = 0.15  # of undisturbed traffic before each flip
AFTER_SECONDS = 0.35  # watched after each flip returned
BODY = b'{"model":"agent-1","messages":[{"role":"user","content":"hello"}]}'


@dataclass(slots=True)
class Watch:
    """One flip as the clients saw it; times are `time.perf_counter` seconds."""

    to: bytes
    began: float
    returned: float = 0.0
    first_new: float = 0.0
    old_sent_after: int = 0  # requests sent after the flip had returned, answered by the old side
    last_old: float = 0.0  # when the old side's last answer came

    def answered(self, color: bytes, sent: float, now: float) -> None:
        """Take note of one answer. What was sent before the flip began says nothing about it, unless it is new."""
        if color == self.to:
            self.first_new = self.first_new or now
            return
        self.last_old = now
        if self.returned and sent > self.returned:
            self.old_sent_after += 1


@dataclass(slots=True)
class Tally:
    """What all clients of one contender saw."""

    answered: int = 0
    refused: int = 0  # an answer that is not 200
    broken: int = 0  # a connection that ended, or could not be opened, with a request on it
    running: bool = True
    watch: Watch | None = None
    numbers: itertools.count[int] = field(default_factory=itertools.count)


class Client(asyncio.Protocol):
    """A keep-alive connection: the next request leaves when the answer is whole, or about `think_seconds` later.

    `ready_at` is the loop's time before which the client does not ask again, be it over another connection.
    """

    __slots__ = (
        "_busy",
        "_held",
        "_loop",
        "_pause",
        "_prefix",
        "_sent",
        "_tally",
        "_think_seconds",
        "_transport",
        "over",
        "ready_at",
    )

    def __init__(self, tally: Tally, port: int, think_seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._tally = tally
        self._loop = loop
        self._think_seconds = think_seconds
        self._pause: asyncio.TimerHandle | None = None
        self.ready_at = 0.0
        self._held = b""
        self._busy = False
        self._sent = 0.0
        head = f"POST /turn HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._prefix = f"{head}Content-Length: {len(BODY)}\r\nX-Bench-Id: ".encode()
        self.over = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._busy = True
        self._sent = time.perf_counter()
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._prefix, next(self._tally.numbers), BODY))

    def data_received(self, data: bytes) -> None:
        self._held += data
        split = split_answer(self._held)
        if split is None or len(self._held) < split[1]:
            return
        head, length = split
        self._answered(self._held[length - 20 : length])
        self._held = self._held[length:]
        closes = b"\r\nconnection: close\r\n" in head
        if self._think_seconds:
            # Equal pauses make the clients fall into step; a flip would wait for the next burst.
            pause_seconds = self._think_seconds * random.uniform(0.5, 1.5)
            self.ready_at = self._loop.time() + pause_seconds
            if not closes:
                self._pause = self._loop.call_later(pause_seconds, self._go_on)
                return
        if closes:
            self._transport.close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._tally.running:
            self._send()
        else:
            self._transport.close()

    def _answered(self, tail: bytes) -> None:
        self._busy = False
        tally = self._tally
        if self._held[9:12] != b"200":
            tally.refused += 1
            return
        tally.answered += 1
        if tally.watch:
            color = b"green" if b"green" in tail else b"blue"
            tally.watch.answered(color, self._sent, time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._tally.broken += 1
        if self._pause:
            self._pause.cancel()
        if not self.over.done():
            self.over.set_result(None)


async def client_loop(tally: Tally, port: int, think_seconds: float) -> None:
    """One client for as long as the run lasts: where its connection ends, it opens the next."""
    loop = asyncio.get_running_loop()
    while tally.running:
        try:
            _, client = await loop.create_connection(
                lambda: Client(tally, port, think_seconds, loop), "127.0.0.1", port
            )
        except OSError:
            tally.broken += 1
            await asyncio.sleep(0.01)
            continue
        await client.over
        if client.ready_at > loop.time():
            await asyncio.sleep(client.ready_at - loop.time())


@dataclass(slots=True)
class Result:
    """What one contender's clients and agents saw in all of its flips."""

    tally: Tally
    watches: list[Watch]
    executed_twice: int  # requests that were noted more than once, by whichever agent

    @property
    def failed(self) -> int:
        return self.tally.refused + self.tally.broken

    @property
    def old_sent_after(self) -> int:
        return sum(each.old_sent_after for each in self.watches)

    def first_new_ms(self) -> list[float]:
        """From the command's start to the first answer of the new side, by flip; infinite where none came."""
        return [(each.first_new - each.began) * 1e3 if each.first_new else float("inf") for each in self.watches]

    def returned_ms(self) -> list[float]:
        """How long the command took, by flip."""
        return [(each.returned - each.began) * 1e3 for each in self.watches]

    def last_old_ms(self) -> list[float]:
        """From the command's return to the old side's last answer, by flip; negative where that was earlier."""
        return [(each.last_old - each.returned) * 1e3 for each in self.watches if each.last_old]


async def _flip_once(contender: Contender, to: str, tally: Tally) -> Watch:
    assert contender.flip is not None
    await asyncio.sleep(BEFORE_SECONDS)
    tally.watch = watch = Watch(to.encode(), time.perf_counter())
    watch.returned = await contender.flip(to)
    await asyncio.sleep(AFTER_SECONDS)
    tally.watch = None
    return watch


async def _noted(port: int) -> list[bytes]:
    """The numbers of the requests that an agent has executed since it was last asked."""
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port)
    _, body = parse_answer(await line.ask(b"GET /noted HTTP/1.1\r\nHost: agent\r\n\r\n", answer_is_whole))
    line.close()
    return body.split()


async def executed_twice(agents: Sequence[int]) -> int:
    """How many requests the agents at these ports have noted more than once, together."""
    executed = [number for port in agents for number in await _noted(port)]
    return len(executed) - len(set(executed))


async def _contend(contender: Contender, plan: Plan, backends: Backends) -> Result:
    tally, think_seconds = Tally(), plan.think_ms / 1e3
    clients = [asyncio.create_task(client_loop(tally, contender.port, think_seconds)) for _ in range(CONNECTIONS)]
    watches = [await _flip_once(contender, ("green", "blue")[turn % 2], tally) for turn in range(plan.flips)]
    tally.running = False
    await asyncio.wait_for(asyncio.gather(*clients), 10.0)
    return Result(tally, watches, await executed_twice((backends.blue, backends.green)))


async def _measure(plan: Plan, cores: Cores) -> tuple[LineUp, dict[str, Result]]:
    results: dict[str, Result] = {}
    with Stage() as stage:
        backends = Backends(start_agent(stage, cores, "blue"), start_agent(stage, cores, "green"))
        lined_up = line_up(stage, cores, backends, plan.builds, only=plan.only, flippable=True)
        for contender in lined_up.contenders:
            results[contender.name] = await _contend(contender, plan, backends)
    return lined_up, results


def measure(plan: Plan) -> tuple[LineUp, dict[str, Result]]:
    """All flips of all contenders, one after the other. This process moves to the load's core meanwhile."""
    cores = Cores.of_this_machine()
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores.load})
    try:
        return uvloop.run(_measure(plan, cores))
    finally:
        os.sched_setaffinity(0, usable)


def report(plan: Plan, results: dict[str, Result]) -> str:
    """The table of the flips."""
    rows = []
    for name, result in results.items():
        first, returned, old = result.first_new_ms(), result.returned_ms(), result.last_old_ms()
        row = [name, f"{result.tally.answered:,}", str(result.tally.refused), str(result.tally.broken)]
        row += [str(result.executed_twice), f"{median(first):.1f}", f"{max(first):.1f}", f"{median(returned):.1f}"]
        row += [str(result.old_sent_after), f"{max(old, default=0.0):.1f}"]
        rows.append(row)
    head = ["contender", "answered", "refused", "broken", "executed twice", "first of new, ms", "slowest"]
    head += ["command, ms", "old after return", "last of old after return, ms"]
    load = f"that think {plan.think_ms:g} ms" if plan.think_ms else "in a closed loop"
    return section(f"{plan.flips} flips under {CONNECTIONS} connections {load}", table(head, rows))


def pause(text: str) -> float:
    """The value of `--think-ms`; raises argparse.ArgumentTypeError for one that no flip could be watched with."""
    most = AFTER_SECONDS * 1e3
    try:
        think_ms = float(text)
    except ValueError:
        think_ms = -1.0
    if not 0.0 <= think_ms < most:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no pause: give milliseconds from 0 to less than {most:g}, for so long a flip is watched"
        )
    return think_ms


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What clients see of a flip.")
    parser.add_argument(
        "--think-ms",
        type=pause,
        default=0.0,
        metavar="N",
        help="how long a client waits after an answer, half more or less (0)",
    )
    add_common(parser)
    options = parser.parse_args(arguments)
    plan = replace(plan_of(options), think_ms=options.think_ms)
    lined_up, results = measure(plan)
    print(report(plan, results))
    for name, why in lined_up.left_out.items():
        print(f"left out: {name}: {why}")
    ours = [results[each.name] for each in plan.builds if each.name in results]
    return 1 if any(each.failed or each.executed_twice or each.old_sent_after for each in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
