"""Starts what is measured, reads what the operating system charges it, and ends it.

Promises: every process started through a `Stage` is ended by its pid when the stage closes, also on failure and on
SIGTERM; a process is pinned to its core before its first instruction; free ports come from the kernel.
Must not know who the contenders are or what is measured.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

TICK = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
START_TIMEOUT = 15.0  # Envoy takes two or three seconds on a cold disk
END_TIMEOUT = 5.0  # after SIGTERM; then SIGKILL


class DidNotStart(Exception):
    """A process ended or stayed silent before it listened; the text carries the end of its output."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the proxy under test has for itself, and which one everything else shares."""

    proxy: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first two cores that this process may use. Raises SystemExit where there is one only."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise SystemExit("bench: needs two cores, one for the proxy under test and one for the load; found one")
        return cls(usable[0], usable[1])


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, earlier: Cpu) -> Cpu:
        return Cpu(self.user - earlier.user, self.system - earlier.system)


def _stat(pid: int) -> list[str]:
    # The name in parentheses may hold spaces and parentheses itself: what follows the last one is plain.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """`root` and all its living descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def cpu(root: int) -> Cpu:
    """CPU time of a process and its descendants, threads included, to 10 ms."""
    user = system = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            user += int(fields[11])
            system += int(fields[12])
    return Cpu(user * TICK, system * TICK)


def rss_bytes(root: int) -> int:
    """Resident memory of a process and its descendants. Pages that they share count once for each: use differences."""
    pages = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * PAGE_BYTES


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(slots=True)
class Running:
    """A process that listens."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def last_words(self) -> str:
        """The last lines of its output, for an error text."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-4:]) or "no output"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Stage:
    """A temporary directory and the processes that live in it; both are gone when it closes."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bgproxy-bench-"))
        self._running: list[Running] = []
        self._old_handler: object = signal.SIG_DFL

    def __enter__(self) -> Self:
        # SIGTERM must unwind like Ctrl-C does, or the contenders would stay behind.
        self._old_handler = signal.signal(signal.SIGTERM, _unwind)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for process in reversed(self._running):
            end(process)
        shutil.rmtree(self.directory, ignore_errors=True)
        signal.signal(signal.SIGTERM, self._old_handler)  # type: ignore[arg-type]

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        core: int,
        ports: Sequence[int],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Start on one core and wait until all `ports` accept. Raises DidNotStart (the process is ended then)."""
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd or self.directory,
                env={**os.environ, **(env or {})},
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        process = Running(name, popen, log)
        self._running.append(process)
        deadline = time.monotonic() + START_TIMEOUT
        while not all(_listens(port) for port in ports):
            if popen.poll() is not None or time.monotonic() > deadline:
                end(process)
                raise DidNotStart(process.last_words())
            time.sleep(0.05)
        return process


def _unwind(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def end(process: Running) -> None:
    """SIGTERM to the process; after END_TIMEOUT, SIGKILL to it and to what it had started."""
    family = tree(process.pid)
    if process.popen.poll() is None:
        process.popen.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.popen.wait(END_TIMEOUT)
        return
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.popen.wait()
