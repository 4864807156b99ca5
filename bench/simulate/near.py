"""Unix sockets between the workers of one simulated host: bytes in their order, ends that are heard, stopped readers.

What is said over them, and what comes of it, is bgproxy's own code (`rollout/siblings.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from bench.simulate.world import Process, World
from bgproxy.rollout.promises import Promises
from bgproxy.rollout.siblings import Asking, Siblings

WAY = 0.00005  # seconds from one process to another on the same host, on average
TAIL, LONG = 0.02, 0.2  # so much of what is said is heard so many seconds later, at most: its reader is busy


class Wire:
    """One end of a connection, as a socket that never blocks."""

    peer: Wire

    def __init__(self, world: World, process: Process) -> None:
        self.reader: Callable[[], None] | None = None
        self._world = world
        self._process = process
        self._come = b""
        self._is_over = False  # the other end was closed, and that has come here
        self._is_closed = False
        self._due = 0.0  # when what was said last arrives

    def setblocking(self, _: bool) -> None:
        """It never does."""

    def send(self, data: bytes) -> int:
        """See `socket.send`."""
        if self._is_closed or self.peer._is_closed:
            raise BrokenPipeError
        self._over(partial(self.peer._arrives, data))
        return len(data)

    def recv(self, _: int) -> bytes:
        """See `socket.recv`."""
        if not self._come and not self._is_over:
            raise BlockingIOError
        data, self._come = self._come, b""
        return data

    def close(self) -> None:
        """As a process does by its death, too."""
        if not self._is_closed:
            self._is_closed = True
            self._over(partial(self.peer._arrives, b""))

    def read_by(self, reader: Callable[[], None] | None) -> None:
        """What the event loop calls while there is something to read."""
        self.reader = reader
        if reader is not None and (self._come or self._is_over):
            self._process.call_soon(self._read)

    def _over(self, arrive: Callable[[], None]) -> None:
        self._due = max(self._due, self._world.now + _delay(self._world))
        self._world.at(self._due, arrive)

    def _arrives(self, data: bytes) -> None:
        self._come += data
        self._is_over = self._is_over or not data
        if not self._is_closed:
            self._process.give(self._read)

    def _read(self) -> None:
        if self.reader is not None and not self._is_closed and (self._come or self._is_over):
            self.reader()


class Doors:
    """Of one host, by their paths. A dead worker's is there until its successor opens its own."""

    def __init__(self, world: World, asked: Callable[[str], None] = lambda _: None) -> None:
        """`asked`: hears of each node that asks the others of its host."""
        self.world = world
        self.asked = asked
        self.by_path: dict[Path, Near] = {}


class Near(Siblings):
    """One worker's door, and its way to the others."""

    def __init__(self, doors: Doors, process: Process, slot: int, node: str, promises: Promises) -> None:
        super().__init__(Path("/simulated"), slot, node, promises, connect=self._connected)
        self._doors = doors
        self._process = process
        self._wires: list[Wire] = []

    def start(self) -> None:
        """See `Siblings.start`."""
        self._doors.by_path[self._path] = self

    def doors(self) -> list[Path]:
        """See `Siblings.doors`."""
        return [path for path in self._doors.by_path if path != self._path]

    def ask(self, doors: list[Path], revision: int) -> Asking:
        """See `Siblings.ask`."""
        self._doors.world.say(self._node, f"asks {len(doors)} siblings to hold at revision {revision}")
        self._doors.asked(self._node)
        return super().ask(doors, revision)

    def die(self) -> None:
        """Its process is dead: whoever it spoke with hears the end."""
        for wire in self._wires:
            wire.close()

    def _connected(self, door: Path) -> Any:
        other, world = self._doors.by_path[door], self._doors.world
        if other._process.is_dead:
            raise ConnectionRefusedError
        own, their = Wire(world, self._process), Wire(world, other._process)
        own.peer, their.peer = their, own
        self._wires.append(own)
        other._wires.append(their)
        called = cast("Any", _Accepting(their))
        world.after(_delay(world), lambda: other._process.give(other._is_called, called))
        return own


def _delay(world: World) -> float:
    dice = world.dice
    return dice.random() * LONG if dice.random() < TAIL else dice.expovariate(1 / WAY)


class _Accepting:
    """A listening socket at which one has called."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def accept(self) -> tuple[Wire, str]:
        return self._wire, ""
