"""The workers of one configuration on their doors: who sits where, what each was told, and how it ended.

A seat's number names its worker's socket and counters in the runtime directory, so no two that live have the same.
Must not know when anybody is started or told anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from time import monotonic
from typing import Protocol

from bgproxy import orders
from bgproxy.config import Settings
from bgproxy.workers.doors import Door
from bgproxy.workers.process import fork
from bgproxy.workers.steering import steer


class Closable(Protocol):
    """What a worker inherits and must not keep."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(slots=True)
class Seat:
    """One worker's place, and the worker in it."""

    slot: int
    pid: int = 0  # 0: nobody
    line: orders.Line | None = None
    born: float = 0.0  # monotonic seconds
    served: bool = False  # a worker in this place was once ready
    missing: bool = False  # a worker in this place has died, and none serves there since
    why: str = ""  # why the last one could not serve, in its own words
    deaths: int = 0  # quick ones in a row
    start_at: float = 0.0
    until: float = float("inf")  # monotonic seconds at which one that has been told to finish is killed

    def say(self, word: str, more: str = "") -> None:
        """To its worker, if there is one."""
        if self.line is not None:
            self.line.say(word, more)

    def hear(self) -> None:
        """Note what its worker has said."""
        for word, more in (self.line.hear() if self.line is not None else None) or ():
            if word == orders.READY:
                self.served, self.missing = True, False
            if word == orders.FAILED:
                self.why = more

    def kill(self) -> None:
        """End its worker whatever it does."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the line, if there is one: its worker hears that, and ends."""
        if self.line is not None:
            self.line.close()
            self.line = None


class Crew:
    """All seats of one configuration."""

    def __init__(self, settings: Settings, doors: Sequence[Door], seats: Sequence[Seat], runtime_dir: Path) -> None:
        self.settings = settings
        self.doors = doors
        self.seats = seats
        self.runtime_dir = runtime_dir
        self._away: frozenset[int] | None = None  # the slots that get no new connections; None: as they were left

    def __repr__(self) -> str:
        return f"<Crew {', '.join(f'{seat.slot}: {seat.pid}' for seat in self.seats)}>"

    def start(self, seat: Seat, others: Iterable[Closable], *, beside: bool = False) -> None:
        """Fork a worker into a seat. `others`: what belongs to neither it nor this crew.

        `beside`: others serve still, and it is to wait for its word.
        """
        with contextlib.suppress(OSError):  # a cleaner of temporary files may have taken it away
            self.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        listening, admin, preview = (self._share(key, seat) for key in ("listen", "admin", "preview"))

        def place(line: socket.socket) -> orders.Place:
            successor = seat.served or beside
            return orders.Place(seat.slot, listening, admin, self.runtime_dir, line, successor, beside, preview)

        def let_go() -> None:
            """Had it another's line, that one's end would never be seen."""
            for other in (*(one for one in self.seats if one is not seat), *others):
                other.close()
            for door in self.doors:
                for sock in door.sockets:
                    if sock not in (*listening, *admin, *preview):
                        sock.close()

        seat.pid, line = fork(self.settings, place, let_go)
        seat.line, seat.born = orders.Line(line), monotonic()

    def steer(self) -> None:
        """Let new connections pass those places by whose worker has died, until another serves there."""
        away = frozenset(seat.slot for seat in self.seats if seat.missing)
        if away == self._away:
            return
        self._away = away
        waiting = [seat for seat in self.seats if seat.slot in away]
        for door in self.doors:
            if len(door.sockets) > 1:
                own = [sock for seat in waiting for sock in door.share(self.seats.index(seat), len(self.seats))]
                steer(door.sockets, own)

    def say(self, word: str, more: str = "") -> None:
        """To all of them."""
        for seat in self.seats:
            seat.say(word, more)

    def hear(self) -> None:
        """Note what they have said."""
        for seat in self.seats:
            seat.hear()

    def _share(self, key: str, seat: Seat) -> list[socket.socket]:
        at, of = self.seats.index(seat), len(self.seats)
        return [sock for door in self.doors if door.key == key for sock in door.share(at, of)]


def empty_seats(number: int, taken: Collection[int] = ()) -> list[Seat]:
    """So many seats with the lowest numbers that nobody has."""
    return [Seat(slot) for slot in islice((slot for slot in count() if slot not in taken), number)]


def how_it_ended(code: int) -> str:
    """A process's exit code in words, behind its name."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
