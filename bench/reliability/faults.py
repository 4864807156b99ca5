"""What goes wrong, each for a while, and again and again within it."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from bench.reliability.fleet import End
from bench.reliability.stage import Stage

STEPS = ("before it was prepared", "once it was prepared", "before it was made", "once it was made")
"""Of a flip, by its two commits; the last two of one that is made by one."""

_VERBS = (re.compile(rb"\r\n\$7\r\nprepare\r\n"), re.compile(rb"\r\n\$(?:4\r\nflip|8\r\nrollback)\r\n"))
_DONE = b"$4\r\ndone\r\n"


async def nothing(_: Stage, seconds: float) -> None:
    """Flips and load, and all is well."""
    await asyncio.sleep(seconds)


async def _again(seconds: float, every: float, once: Callable[[], Awaitable[None]]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await once()
        await asyncio.sleep(every)


async def kill_workers(stage: Stage, seconds: float) -> None:
    """kill -9 of a worker, every other second."""

    async def once() -> None:
        stage.kill(*stage.worker())

    await _again(seconds, 2.0, once)
    await whole_again(stage)


async def kill_coordinators(stage: Stage, seconds: float) -> None:
    """kill -9 of the very worker that has a flip in hand, at any moment of it."""
    loop = asyncio.get_running_loop()
    due = time.monotonic()

    def kill(end: End) -> None:
        for host in stage.hosts:
            worker = host.worker_at(end)
            if worker is not None:
                stage.kill(host, worker)
                stage.marks["killed in the middle of a flip"] += 1

    def asked(end: End) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + 1.5
            loop.call_later(stage.dice.uniform(0.0, 0.015), kill, end)

    stage.operator.asked = asked
    await asyncio.sleep(seconds)
    stage.operator.asked = None
    await asyncio.sleep(0.1)
    await whole_again(stage)


class Executioner:
    """Kills whoever commits, at one step after the other: what it says or is told then gets lost with it."""

    def __init__(self, stage: Stage, steps: Sequence[int] = range(len(STEPS))) -> None:
        """`steps`: which of `STEPS`."""
        self._stage = stage
        self._steps = itertools.cycle(steps)
        self._asked: set[int] = set()
        self._due = time.monotonic()
        self._step = next(self._steps)

    def sees(self, port: int, data: bytes, asks: bool) -> bool:
        """See `line.Sees`."""
        if time.monotonic() < self._due:
            return True
        verb, after = divmod(self._step, 2)
        commits = asks and b"EVALSHA" in data and _VERBS[verb].search(data) is not None
        if after and commits:
            self._asked.add(port)
            return True
        if after and not asks and port in self._asked:
            self._asked.discard(port)
            return _DONE not in data or not self._kills(port)
        return not commits or not self._kills(port)

    def _kills(self, port: int) -> bool:
        for host in self._stage.hosts:
            if (worker := host.worker_with(port)) is not None:
                self._stage.kill(host, worker)
                self._stage.marks[f"killed {STEPS[self._step]}"] += 1
                self._asked.clear()
                self._step = next(self._steps)
                self._due = time.monotonic() + 1.0
                return True
        return False


async def kill_at_each_step(stage: Stage, seconds: float) -> None:
    """kill -9 of who makes a flip, just before and just after each of its two commits, one after the other."""
    await _execute(stage, seconds, Executioner(stage))


async def kill_at_the_commit(stage: Stage, seconds: float) -> None:
    """kill -9 of who makes a flip by one commit, just before that and just after, in turn."""
    await _execute(stage, seconds, Executioner(stage, (2, 3)))


async def _execute(stage: Stage, seconds: float, executioner: Executioner) -> None:
    sees = executioner.sees
    for line in stage.lines:
        line.sees = sees
    await asyncio.sleep(seconds)
    for line in stage.lines:
        line.sees = None
    await whole_again(stage)


async def whole_again(stage: Stage) -> None:
    """Wait until every host has all its workers."""
    for _ in range(1_000):
        if all(len(host.workers) >= stage.size.workers for host in stage.hosts):
            return
        await asyncio.sleep(0.02)


async def stop_workers_shortly(stage: Stage, seconds: float) -> None:
    """SIGSTOP of a worker for 0.3 s, again and again: a long pause of a collector, a busy host."""
    await _stop_workers(stage, seconds, 0.3)


async def stop_workers_long(stage: Stage, seconds: float) -> None:
    """SIGSTOP of a worker for 4 s, longer than a flip waits."""
    await _stop_workers(stage, seconds, 4.0)


async def stop_workers_very_long(stage: Stage, seconds: float) -> None:
    """SIGSTOP of a worker for 13 s."""
    await _stop_workers(stage, seconds, 13.0)


async def _stop_workers(stage: Stage, seconds: float, each: float) -> None:
    async def once() -> None:
        host, worker = stage.worker()
        host.stop_worker(worker)
        await asyncio.sleep(each)
        host.go_on(worker)

    with stage.away():
        await _again(seconds, 1.0, once)


async def kill_redis(stage: Stage, seconds: float) -> None:
    """kill -9 of Redis, which comes back after half a second with its data."""

    async def once() -> None:
        with stage.away():
            stage.redis.kill()
            await asyncio.sleep(0.5)
            await stage.redis.start()

    await _again(seconds, 4.0, once)


async def empty_redis(stage: Stage, seconds: float) -> None:
    """kill -9 of Redis between two flips, which comes back after half a second with nothing in it."""

    async def once() -> None:
        await stage.operator.rests()
        await asyncio.sleep(0.1)
        with stage.away():
            stage.redis.kill()
            stage.operator.waits = False
            await asyncio.sleep(0.5)
            await stage.redis.start(keep=False)

    await _again(seconds, 7.0, once)


async def fail_over(stage: Stage, seconds: float) -> None:
    """kill -9 of the primary; Sentinel makes its replica the primary."""
    await _fail_over(stage, seconds, 3.0)


async def lose_master(stage: Stage, seconds: float) -> None:
    """kill -9 of the master in a Cluster that has the fleet, in the middle of a flip; its replica takes over."""
    await _fail_over(stage, seconds, 2.0)


async def lose_master_ahead(stage: Stage, seconds: float) -> None:
    """kill -9 of the master in a Cluster that has the fleet, between two flips; its replica, which has not heard of the
    last ones, takes over."""
    assert stage.pair is not None, "only a replica can take over"
    pair, operator = stage.pair, stage.operator

    async def once() -> None:
        await pair.part()
        await asyncio.sleep(0.1)
        await operator.rests()
        await asyncio.sleep(0.1)
        with stage.away():
            operator.waits = False
            await pair.fail_over()
        stage.marks["failovers"] += 1

    await _again(seconds, 7.0, once)


async def _fail_over(stage: Stage, seconds: float, every: float) -> None:
    assert stage.pair is not None, "only a replica can take over"
    pair = stage.pair

    async def once() -> None:
        await _in_a_flip(stage)
        with stage.away():
            await pair.fail_over()
        stage.marks["failovers"] += 1

    await _again(seconds, every, once)


async def _in_a_flip(stage: Stage) -> None:
    """Wait for any moment in the middle of one."""
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def asked(_: End) -> None:
        stage.operator.asked = None
        loop.call_later(stage.dice.uniform(0.0, 0.015), begun.set)

    stage.operator.asked = asked
    await begun.wait()


async def kill_replica(stage: Stage, seconds: float) -> None:
    """kill -9 of the one replica in the middle of a flip, again and again; it comes back after two seconds."""
    await _lose_replica(stage, seconds, signal.SIGKILL)


async def stop_replica(stage: Stage, seconds: float) -> None:
    """SIGSTOP of the one replica in the middle of a flip, again and again, for two seconds."""
    await _lose_replica(stage, seconds, signal.SIGSTOP)


async def _lose_replica(stage: Stage, seconds: float, number: signal.Signals) -> None:
    assert stage.pair is not None, "only a pair has a replica"
    pair = stage.pair

    async def once() -> None:
        replica = await pair.replica()
        await _in_a_flip(stage)
        replica.kill() if number == signal.SIGKILL else replica.signal(number)
        stage.marks["replica lost in the middle of a flip"] += 1
        await asyncio.sleep(2.0)
        if number == signal.SIGKILL:
            await pair.rejoin(replica)
        else:
            replica.signal(signal.SIGCONT)

    await _again(seconds, 1.0, once)


async def stop_redis(stage: Stage, seconds: float) -> None:
    """SIGSTOP of Redis for two seconds."""

    async def once() -> None:
        with stage.away():
            stage.redis.signal(signal.SIGSTOP)
            await asyncio.sleep(2.0)
            stage.redis.signal(signal.SIGCONT)

    await _again(seconds, 4.0, once)


async def slow_store(stage: Stage, seconds: float) -> None:
    """Each way to the store and back takes 100 ms, so 200 ms for each word and its answer."""
    for line in stage.lines:
        line.delay = 0.1
    await asyncio.sleep(seconds)
    mend(stage)


def mend(stage: Stage) -> None:
    """All lines are well."""
    for line in stage.lines:
        line.mend()


async def cut_off_all(stage: Stage, seconds: float) -> None:
    """No host reaches the store, for three seconds, and nobody tells them."""

    async def once() -> None:
        with stage.away():
            for line in stage.lines:
                line.cut()
            await asyncio.sleep(3.0)
            mend(stage)

    await _again(seconds, 4.0, once)


async def cut_off_one(stage: Stage, seconds: float) -> None:
    """One host of two does not reach the store, the other does."""
    with stage.away():
        stage.lines[0].cut()
        await asyncio.sleep(seconds)
        mend(stage)


async def pull_cable(stage: Stage, seconds: float) -> None:
    """The cable between one host of two (network namespaces) and the store is pulled."""
    with stage.away():
        stage.namespaces[0].pull("store")
        await asyncio.sleep(seconds)
        stage.namespaces[0].plug_in("store")


async def lose_bells(stage: Stage, seconds: float) -> None:
    """No message to subscribers comes through."""
    for line in stage.lines:
        line.is_deaf = True
    await asyncio.sleep(seconds)
    stage.marks["messages swallowed"] += sum(line.swallowed for line in stage.lines)
    mend(stage)


async def reset_lines(stage: Stage, seconds: float) -> None:
    """Every connection to the store is broken, three times a second."""

    async def once() -> None:
        for line in stage.lines:
            line.reset()

    with stage.away():
        await _again(seconds, 0.3, once)


async def everything(stage: Stage, seconds: float) -> None:
    """One of these after the other, each short, as the dice say."""

    async def kill() -> None:
        stage.kill(*stage.worker())

    async def stop() -> None:
        host, worker = stage.worker()
        host.stop_worker(worker)
        await asyncio.sleep(0.3)
        host.go_on(worker)

    async def deaf() -> None:
        await lose_bells(stage, 0.5)

    async def slow() -> None:
        await slow_store(stage, 0.8)

    async def reset() -> None:
        with stage.away():
            for line in stage.lines:
                line.reset()

    async def cut() -> None:
        with stage.away():
            for line in stage.lines:
                line.cut()
            await asyncio.sleep(0.4)
            mend(stage)

    once = [kill, stop, deaf, slow, reset, cut]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await stage.dice.choice(once)()
        await asyncio.sleep(0.3)
    await whole_again(stage)
