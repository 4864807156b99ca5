"""The virtual agents of a load: `python -m bgproxy.rollout.gates.agents` reads what to do, a line of JSON, from stdin,
and says what came of it on stdout. It ends at once when stdin does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from time import perf_counter
from typing import Any

from bgproxy.rollout.gates.ask import Upstream, fault_of, upstream
from bgproxy.rollout.gates.load import samples_document
from bgproxy.rules.slo import Samples
from bgproxy.tasks import spawn, stop

MOST_SAMPLES = 200_000
NICE = 10


class Load:
    """One load while it runs."""

    def __init__(self, asked: Mapping[str, Any], agents: list[Upstream]) -> None:
        self._request = asked["request"]
        self._pace = asked["pace"]
        self._expected = frozenset(asked["expect_status"])
        self._next = itertools.cycle(agents)  # each upstream in its turn
        self._left = self._pace["requests"] or MOST_SAMPLES
        self._latency: list[float] = []
        self._first_byte: list[float] = []
        self._kinds: Counter[str] = Counter()

    async def run(self) -> Samples:
        """To the end of its duration, or of its requests; what is open then is waited for."""
        began = perf_counter()
        until = began + self._pace["duration"]
        if self._pace["rate"]:
            await self._open_loop(began, until)
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._pace["agents"]):
                    group.create_task(self._closed_loop(until))
        return Samples(
            latency=self._latency,
            first_byte=self._first_byte,
            errors=self._kinds.total(),
            seconds=round(perf_counter() - began, 6),
            kinds=dict(self._kinds.most_common(16)),
        )

    async def _closed_loop(self, until: float) -> None:
        think = self._pace["think"]
        while self._take():
            await self._ask()
            if self._left <= 0 or perf_counter() + think >= until:
                return  # nobody thinks about a request that is not to come
            if think:
                await asyncio.sleep(think)

    async def _open_loop(self, began: float, until: float) -> None:
        """Requests begin by the clock. Where as many are open as there are agents one that is due is an error: the
        release cannot keep up, and to wait for it would hide that (coordinated omission)."""
        open_ = 0

        def done(_: object) -> None:
            nonlocal open_
            open_ -= 1

        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                due = began + number / self._pace["rate"]
                if due >= until or not self._take():
                    return
                await asyncio.sleep(max(0.0, due - perf_counter()))
                if open_ >= self._pace["agents"]:
                    self._kinds["all agents were busy"] += 1
                    continue
                open_ += 1
                group.create_task(self._ask()).add_done_callback(done)

    def _take(self) -> bool:
        self._left -= 1
        return self._left >= 0

    async def _ask(self) -> None:
        asked = self._request
        agent = next(self._next)
        answer = await agent.ask(
            asked["method"],
            asked["path"],
            fields=asked["fields"],
            body=asked["body"].encode(),
            timeout=self._pace["timeout"],
        )
        if fault := fault_of(answer, self._expected):
            self._kinds[fault] += 1
        else:
            self._latency.append(round(answer.latency, 6))
            self._first_byte.append(round(answer.first_byte, 6))


async def load(asked: Mapping[str, Any]) -> Samples:
    """Make the load that is asked for."""
    async with AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(upstream(url)) for url in asked["urls"]]
        return await Load(asked, agents).run()


async def _until_nobody_waits(asked: Mapping[str, Any]) -> Samples | None:
    """The load, unless stdin ends before it does."""
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), gone.set)
    making, leaving = spawn(load(asked), "make the load"), spawn(gone.wait(), "wait for the end")
    await asyncio.wait({making, leaving}, return_when=asyncio.FIRST_COMPLETED)
    samples = making.result() if making.done() else None
    await stop(making, leaving)
    return samples


def _line() -> bytes:
    """One line of stdin, and not a byte more: what comes then is its end."""
    line = bytearray()
    while not line.endswith(b"\n") and (chunk := os.read(sys.stdin.fileno(), 65_536)):
        line += chunk
    return bytes(line)


def main() -> None:
    """See the module."""
    with suppress(OSError):
        os.nice(NICE)
    samples = asyncio.run(_until_nobody_waits(json.loads(_line())))
    if samples is not None:
        print(json.dumps(samples_document(samples)), flush=True)


if __name__ == "__main__":
    main()
