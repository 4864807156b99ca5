"""An upgrade under way, as the process that serves sees it: the new process on trial, and what came of it.

Promises that nothing of what serves is touched before the new workers are ready, and that each failure has a reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bgproxy.orders import Line
from bgproxy.workers import TRIAL
from bgproxy.workers.crew import Seat, how_it_ended
from bgproxy.workers.doors import Door
from bgproxy.workers.passing import Document, Passing, doors_from

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, see prctl(2)
_LEAVE_TIMEOUT = 5.0  # seconds that the new process has to end once its workers are ours


@dataclass(frozen=True, slots=True)
class Successor:
    """What the new process has handed over: workers that are ready, on doors that may not listen yet."""

    version: str
    settings: int  # the descriptor of a file that only a program of that version can read
    seats: list[Seat]
    doors: list[Door]

    def close(self) -> None:
        """Give it up: its workers end, and those that serve keep what they have."""
        os.close(self.settings)
        for seat in self.seats:
            seat.close()
        for door in self.doors:
            door.close()


def command(program: str = "") -> list[str]:
    """How this process was started, to be started anew: by the script or the module that it was started by, so that an
    installation in its place counts, and a link that leads elsewhere by now. `program`: another script or Python."""
    if program:
        module = ["-m", "bgproxy"] if Path(program).name.startswith("python") else []
        return [program, *module, *sys.argv[1:]]
    if os.access(sys.argv[0], os.X_OK) and Path(sys.argv[0]).name != "__main__.py":
        return sys.argv[:]
    return [sys.executable, *sys.orig_argv[1:]]


class Upgrade:
    """See the module. Never blocks but in `take`, and there for a moment."""

    def __init__(self, words: list[str], begin: Mapping[str, Any], files: Sequence[int], timeout: float) -> None:
        """Start the new process. `begin`: what it is told, with these sockets; `timeout`: seconds until it is ready.

        Raises OSError where it cannot be started.
        """
        _adopt_orphans()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.words = words
        self._line = Passing(ours)
        self.code: int | None = None  # its exit code, once it is buried
        self._timeout = timeout
        self._deadline = monotonic() + timeout
        with theirs:
            theirs.set_inheritable(True)
            environment = {**os.environ, TRIAL: str(theirs.fileno())}
            try:
                self.pid = os.posix_spawnp(words[0], words, environment)
                self._line.send(begin, files)
            except OSError:
                self._line.close()
                raise
        ours.setblocking(False)

    def close(self) -> None:
        """Let go of the line, which ends the new process."""
        self._line.close()

    def look(self) -> Successor | str | None:
        """What it has handed over, why it failed, or None: it is under way."""
        try:
            said = self._line.receive()
        except EOFError:
            return self._ended()
        except ValueError as error:
            return f"it is no bgproxy that this one can be replaced by: {error}"
        if said is None:
            late = monotonic() >= self._deadline
            return f"it was not ready within upgrade.start_timeout, {self._timeout:g} s" if late else None
        document, files = said
        return _successor(document, files) if document["say"] == "ready" else str(document["why"])

    def take(self) -> None:
        """What was handed over is ours from now on: the new process ends, and leaves this one its workers."""
        with contextlib.suppress(OSError):
            self._line.send({"say": "go"})
        self.abandon(_LEAVE_TIMEOUT)

    def abandon(self, patience: float = 0.0) -> None:
        """End the new process, if it has not ended by itself within `patience` seconds; its workers end by that."""
        deadline = monotonic() + patience
        while self.code is None:
            if monotonic() >= deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                sleep(0.005)
        self._line.close()

    def _ended(self) -> str:
        """It let go of its line without a word."""
        self.abandon(_LEAVE_TIMEOUT)
        assert self.code is not None
        return f"the new process {how_it_ended(self.code)} before it was ready; what it has logged may say why"


def _successor(document: Document, files: list[int]) -> Successor:
    settings, *rest = files
    seats = [Seat(one["slot"], one["pid"], served=True, born=monotonic()) for one in document["seats"]]
    for seat, file in zip(seats, rest, strict=False):
        seat.line = Line(socket.socket(fileno=file))
    return Successor(document["version"], settings, seats, doors_from(document["doors"], rest[len(seats) :]))


def _adopt_orphans() -> None:
    """What the new process leaves behind becomes a child of this one, as if it had started it itself (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"workers cannot be handed over: {os.strerror(number)}")
