"""What a supervisor and its workers say to one another, over a pair of sockets.

Words, each on a line of its own, maybe with more behind it. After an upgrade a worker of one version has a supervisor
of the next: words are added, never changed, and one that is not known is passed over. Must not know what a word does.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY: Final = "ready"  # a worker: it serves, or would if it were told ACCEPT
FAILED: Final = "failed"  # a worker: it cannot serve; more: why
RELOAD: Final = "reload"
END: Final = "end"  # within the grace time
HURRY: Final = "hurry"  # what is left of the grace time is over
ACCEPT: Final = "accept"  # to a worker that waits beside the ones before it
FINISH: Final = "finish"  # to those: others accept from now on, what is in flight may take its time
BURY: Final = "bury"  # another worker has died

LONGEST: Final = 4_000  # bytes of a word with what is behind it


@dataclass(frozen=True, slots=True)
class Place:
    """Where this worker stands on its host: its number, its sockets, and the line to its supervisor."""

    slot: int
    listening: Sequence[socket.socket]
    admin: Sequence[socket.socket]
    runtime_dir: Path
    supervisor: socket.socket  # the line to it (bgproxy/orders.py)
    successor: bool = False  # of a worker that served
    beside: bool = False  # the workers that it is to replace: they accept until it is told to
    preview: Sequence[socket.socket] = ()


class Line:
    """One end. Never blocks, never raises."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._rest = b""

    def say(self, word: str, more: str = "") -> None:
        """What the other end cannot take any more is lost: it is dead, or about to be."""
        text = f"{word} {' '.join(more.split())}".encode()[: LONGEST - 1].strip()
        with contextlib.suppress(OSError):
            self.socket.send(text + b"\n")

    def hear(self) -> list[tuple[str, str]] | None:
        """The words that have come, each with what was behind it; None once the other end is gone."""
        try:
            data = self._read()
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        words = [line.decode(errors="replace").partition(" ") for line in lines]
        return [(word, more) for word, _, more in words]

    def _read(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return self.socket.recv(65_536)
        return self.socket.recv(65_536)  # it had not read all of ours; what it said before its end comes now

    def close(self) -> None:
        """Let go of this end; the other one hears of it."""
        self.socket.close()
