"""Starts the demo's processes, keeps the last lines each of them wrote, and ends every one of them.

Each process leads a session of its own, so that a Ctrl-C in the terminal reaches the demo alone, which then ends them
in order, and so that the workers of a proxy whose supervisor does not obey can be ended with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable

from bgproxy import tasks

_LINES_KEPT = 30
_END_TIMEOUT = 6.0  # seconds between asking a process to end and ending it


class NotStarted(Exception):
    """A process of the demo did not come up; the text says which, why, and what it wrote last."""


class Child:
    """One process, by a name for people."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.pid = process.pid
        self.lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._wrote = asyncio.Event()
        self._reader = tasks.spawn(self._read(), f"demo-log-{name}")

    async def _read(self) -> None:
        assert self.process.stdout is not None  # it was started with a pipe
        # Read to the end, always: a process whose output nobody takes stands still once the pipe is full.
        rest = b""
        while chunk := await self.process.stdout.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines.extend(line.decode(errors="replace") for line in lines)
            rest = rest[-65536:]
            self._wrote.set()
        if rest:
            self.lines.append(rest.decode(errors="replace"))
        self._wrote.set()

    async def says(self, beginning: str, timeout: float) -> str:
        """Wait for a line that begins so and return what follows; raises NotStarted."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._wrote.clear()
                    for line in self.lines:
                        if line.startswith(beginning):
                            return line.removeprefix(beginning).strip()
                    if self._reader.done():
                        raise self.failed("it ended before it was ready")
                    await self._wrote.wait()
        except TimeoutError:
            raise self.failed(f"it was not ready within {timeout:g} s") from None

    async def until(self, ready: Callable[[], Awaitable[bool]], timeout: float) -> None:
        """Wait until `ready` says so; raises NotStarted."""
        try:
            async with asyncio.timeout(timeout):
                while not await ready():
                    if self._reader.done():
                        raise self.failed("it ended before it was ready")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise self.failed(f"it was not ready within {timeout:g} s") from None

    def failed(self, why: str) -> NotStarted:
        wrote = "\n".join(f"    {line}" for line in self.lines) or "    (nothing)"
        return NotStarted(f"{self.name} (pid {self.pid}): {why}. Its last lines:\n{wrote}")

    async def end(self) -> None:
        """SIGTERM, and what is left of its session after a while is killed."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self.process.wait()
        except TimeoutError:
            self.lines.append(f"did not end within {_END_TIMEOUT:g} s and was killed")
        finally:
            self.kill()
            await self.process.wait()
            await tasks.stop(self._reader)

    def kill(self) -> None:
        """Kill whatever is left of the process's own session, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Family:
    """All processes of one demo, ended in the reverse of the order in which they were started."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    async def start(self, name: str, *arguments: str) -> Child:
        """Run this same Python with the arguments, without the proxy settings that the caller's shell may hold."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BGPROXY_")}
        environment["PYTHONUNBUFFERED"] = "1"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        child = Child(name, process)
        self._children.append(child)
        return child

    async def end(self) -> None:
        while self._children:
            await self._children[-1].end()
            self._children.pop()

    def kill(self) -> None:
        """The last resort where `end` was itself interrupted; needs no event loop."""
        for child in self._children:
            child.kill()
