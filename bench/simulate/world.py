"""A world of processes on a clock that is a number: asyncio code runs in it as it stands, each run exactly alike.

Each process has an event loop of its own, which keeps asyncio's order within it; between processes the dice of the seed
decide who comes first. A process can be paused (its messages and timers wait), killed (nothing of it ever runs again)
and have a clock that goes fast or slow. While the world runs, `time.time`, `time.monotonic` and `random` are its own.

Must not know what runs in it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from heapq import heappop, heappush
from typing import Any

EPOCH = 1_000_000_000.0  # unix seconds at which each world begins
LONG_TURN = 200  # callbacks in one turn of a loop; then others come first
TURN = 20e-6  # seconds until it goes on, on average
MOST_TURNS = 2_000_000  # of one world: more means that somebody spins


class World:
    """Time, chance and order. `now` is the true time in seconds since the world began."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        """`trace` takes a line for each thing worth telling."""
        self.now = 0.0
        self.dice = random.Random(seed)
        self.running: Process | None = None
        self.failures: list[str] = []  # what no task or callback may ever raise
        self.is_over = False  # only the processes' own ends are still played
        self._chance = random.Random(seed).getstate()
        self._trace = trace
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._processes: list[Process] = []

    def say(self, who: str, what: str) -> None:
        """A line for whoever replays this world."""
        if self._trace is not None:
            self._trace(f"{self.now:10.6f} {who:>8}  {what}")

    @property
    def is_traced(self) -> bool:
        """Whether anybody listens: lines that are dear to make need not be made."""
        return self._trace is not None

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Call back at that time; what is due at one moment comes in the order in which it was asked for."""
        self._number += 1
        heappush(self._agenda, (max(when, self.now), self._number, do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Call back so many seconds from now."""
        self.at(self.now + seconds, do)

    def process(self, name: str, rate: float = 1.0) -> Process:
        """A new process, whose clock goes `rate` as fast as time."""
        process = Process(self, name, rate)
        self._processes.append(process)
        return process

    def run(self, until: float) -> None:
        """Let time pass up to then."""
        with self._laws():
            for _ in range(MOST_TURNS):
                if not self._agenda or self._agenda[0][0] > until:
                    self.now = until
                    return
                self.now, _, do = heappop(self._agenda)
                do()
        raise RuntimeError(f"{MOST_TURNS} things have happened by {self.now:.3f} s and there is no end of it")

    def end(self) -> None:
        """Unwind all processes, the dead ones too, so that nothing of them is left in this one."""
        self.is_over = True
        with self._laws():
            for process in self._processes:
                process.unwind()
        self._agenda.clear()

    @contextmanager
    def _laws(self) -> Iterator[None]:
        """This world's time and chance in place of the machine's. What is logged of trouble that is made is no news."""
        wall, monotonic, chance, silenced = time.time, time.monotonic, random.getstate(), logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        time.time, time.monotonic = self._wall, self._monotonic
        random.setstate(self._chance)
        try:
            yield
        finally:
            self._chance = random.getstate()
            random.setstate(chance)
            time.time, time.monotonic = wall, monotonic
            logging.disable(silenced)

    def _wall(self) -> float:
        return EPOCH + (self.running.time() if self.running is not None else self.now)

    def _monotonic(self) -> float:
        return self.running.time() if self.running is not None else self.now


class Process(asyncio.AbstractEventLoop):
    """One process: an event loop that the world turns. All that asyncio's tasks, futures and timeouts ask of one."""

    def __init__(self, world: World, name: str, rate: float) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.is_dead = False
        self._paused_until = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._woken_at: float | None = None  # when the world is to turn it next
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._is_unwinding = False

    def __repr__(self) -> str:
        return f"<Process {self.name}>"

    # What happens to it

    def pause(self, seconds: float) -> None:
        """Nothing of it runs for so long; what comes in meanwhile waits, and its clock goes on."""
        self._paused_until = max(self._paused_until, self.world.now + seconds)

    def resume(self) -> None:
        """Go on."""
        if self.is_paused:
            self._paused_until = self.world.now
            self._wake(self.world.now)

    @property
    def is_paused(self) -> bool:
        return self.world.now < self._paused_until

    def kill(self) -> None:
        """Nothing of it runs any more."""
        self.is_dead = True

    def give(self, callback: Callable[..., None], *args: Any) -> None:
        """Something comes in from outside: the process deals with it, unless it is stopped or dead."""
        if self.is_dead:
            return
        assert self.world.running is None, "processes reach one another through the world alone"
        self._ready.append(asyncio.Handle(callback, args, self))
        if self.is_paused:
            self._wake(self._paused_until)
        else:
            self._turn()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Start a task from outside."""
        self.give(self._spawn, work)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self.create_task(work)

    def unwind(self) -> None:
        """End all of its tasks, as the end of a program would."""
        self._is_unwinding = True
        while self._tasks or self._ready:
            for task in [*self._tasks]:
                task.cancel()
            if not self._ready:
                raise RuntimeError(f"{self.name}: {[*self._tasks]} cannot be ended")
            self._run_ready(MOST_TURNS)
        self._timers.clear()

    # Turns

    def _wake(self, when: float) -> None:
        """Have the world turn it then, unless that happens earlier anyway."""
        if self._woken_at is None or when < self._woken_at:
            self._woken_at = when
            self.world.at(when, partial(self._woken, when))

    def _woken(self, due: float) -> None:
        if self._woken_at != due or self.is_dead:
            return  # an earlier turn has taken its place
        self._woken_at = None
        if self.is_paused:
            self._wake(self._paused_until)
        else:
            self._turn()

    def _turn(self) -> None:
        """Run what is due and what is ready, until nothing is or this has been a long turn."""
        now, timers, ready = self.time(), self._timers, self._ready
        while timers and timers[0][0] <= now + 1e-9:
            handle = heappop(timers)[2]
            if not handle.cancelled():
                ready.append(handle)
        self._run_ready(LONG_TURN)
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if ready:
            self._wake(self.world.now + self.world.dice.random() * 2 * TURN)
        elif timers:
            self._wake(max(self.world.now, timers[0][0] / self.rate))

    def _run_ready(self, most: int) -> None:
        ready = self._ready
        self.world.running = self
        events._set_running_loop(self)
        try:
            while ready and most:
                most -= 1
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            events._set_running_loop(None)
            self.world.running = None

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.world.now * self.rate

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        if self.world.running is not self and not self._is_unwinding:  # else its turn looks after what is ready
            self._wake(self.world.now)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.world._number += 1
        heappush(self._timers, (when, self.world._number, handle))
        if self.world.running is not self and not self._is_unwinding:
            self._wake(max(self.world.now, when / self.rate))
        return handle

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        """`fd`: a stand-in for a socket, which calls back itself."""
        fd.read_by(partial(callback, *args))

    def remove_reader(self, fd: Any) -> bool:
        had, fd.reader = fd.reader is not None, None
        return had

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None and not self._is_unwinding:
            self.world.failures.append(f"{self.name}: task {task.get_name()} died of {error!r}")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._is_unwinding:
            self.world.failures.append(f"{self.name}: {context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays where it is until its time comes."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self.world.running is self

    def is_closed(self) -> bool:
        return False

    async def shutdown_asyncgens(self) -> None:
        """None is left open."""
