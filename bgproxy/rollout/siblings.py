"""The workers of one host, asked directly: each gives the others its word that it admits nothing new (`promises.py`).

Each has a Unix socket in the runtime directory. A line there is one asking: `hold REVISION`, answered by `held NODE` or
`no`; then `go` where nothing came of it. Whatever came of it otherwise is read in the store, once the line has ended.
Must not know what is asked for, nor whether all nodes are of this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bgproxy.orders import Line
from bgproxy.rollout.promises import Promise, Promises

log = logging.getLogger(__name__)

_DOOR: Final = "hold-"  # before a worker's number
_BACKLOG: Final = 64
_DEAF: Final = 1.0  # seconds without listening, after a sibling could not be heard
_HOLD, _HELD, _NO, _GO = "hold", "held", "no", "go"


def connected(door: Path) -> socket.socket:
    """A connection to who is behind that door. Raises `OSError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(str(door))
    except OSError:
        sock.close()
        raise
    return sock


class Asking:
    """What this worker has asked its siblings. Ends with `end`; what is not ended is as if this process had died."""

    def __init__(self, doors: list[Path], revision: int, connect: Callable[[Path], socket.socket]) -> None:
        """Never raises: who cannot be reached does not hold."""
        self._loop = asyncio.get_running_loop()
        self._nodes: set[str] = set()
        self._lines: dict[Line, bool] = {}  # whether it has answered
        self._all: asyncio.Future[bool] = self._loop.create_future()
        for door in doors:
            try:
                line = Line(connect(door))
            except ConnectionRefusedError:
                continue  # nobody is there any more; were it alive and registered, the store would say so
            except OSError as error:
                log.debug("%s cannot be asked: %s", door.name, error)
                self._decide(False)
                return
            self._lines[line] = False
            self._loop.add_reader(line.socket, self._hears, line)
            line.say(_HOLD, str(revision))
        if not self._lines:
            self._decide(True)

    async def held(self, seconds: float) -> frozenset[str] | None:
        """The ids of all siblings, once each has given its word; None where one does not, or not within `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return frozenset(self._nodes) if await self._all else None
        return None

    def end(self, *, nothing_came: bool) -> None:
        """Whether it is known that nothing came of it; they find out by themselves otherwise."""
        for line in self._lines:
            self._loop.remove_reader(line.socket)
            if nothing_came:
                line.say(_GO)
            line.close()
        self._lines.clear()

    def _hears(self, line: Line) -> None:
        said = line.hear()
        if said is None:
            self._loop.remove_reader(line.socket)
            self._decide(False)
            return
        for word, more in said:
            if word == _HELD:
                self._nodes.add(more)
                self._lines[line] = True
                if all(self._lines.values()):
                    self._decide(True)
            elif word == _NO:
                self._decide(False)

    def _decide(self, all_hold: bool) -> None:
        if not self._all.done():
            self._all.set_result(all_hold)


class Siblings:
    """This worker's door for the others, and its way to them."""

    def __init__(
        self,
        directory: Path,
        slot: int,
        node: str,
        promises: Promises,
        *,
        connect: Callable[[Path], socket.socket] = connected,
    ) -> None:
        """`slot`: this worker's number on this host, `node`: its id; `promises`: what it tells the others."""
        self._connect = connect
        self._directory = directory
        self._path = directory / f"{_DOOR}{slot}.sock"
        self._node = node
        self._promises = promises
        self._door: socket.socket | None = None
        self._lines: dict[Line, Promise | None] = {}

    def __repr__(self) -> str:
        return f"<Siblings of {self._node} at {self._path.name}>"

    def start(self) -> None:
        """Open the door. A socket that a dead predecessor left is replaced."""
        self._path.unlink(missing_ok=True)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        door.setblocking(False)
        door.bind(str(self._path))
        self._path.chmod(0o600)  # whoever may call here can keep all new requests out
        door.listen(_BACKLOG)
        self._door = door
        self._listen(door)

    async def stop(self) -> None:
        """Whoever asks from now on gets no answer."""
        loop = asyncio.get_running_loop()
        if self._door is not None:
            loop.remove_reader(self._door)
            self._door.close()
            self._door = None
            self._path.unlink(missing_ok=True)
        for line in [*self._lines]:
            self._end(line)

    def doors(self) -> list[Path]:
        """Of the others, whether or not anybody is behind them."""
        return [path for path in self._directory.iterdir() if path.name.startswith(_DOOR) and path != self._path]

    def ask(self, doors: list[Path], revision: int) -> Asking:
        """Ask for their word on this revision."""
        return Asking(doors, revision, self._connect)

    def _listen(self, door: socket.socket) -> None:
        if door is self._door:
            asyncio.get_running_loop().add_reader(door, self._is_called, door)

    def _is_called(self, door: socket.socket) -> None:
        try:
            sock, _ = door.accept()
        except BlockingIOError:
            return  # whoever called has gone again
        except OSError as error:  # no more files can be opened: who waits there would be told of again at once
            log.warning("a sibling could not be heard: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(door)
            loop.call_later(_DEAF, self._listen, door)
            return
        line = Line(sock)
        self._lines[line] = None
        asyncio.get_running_loop().add_reader(sock, self._hears, line)
        self._hears(line)  # what it has to say has mostly come with it

    def _hears(self, line: Line) -> None:
        said = line.hear()
        if said is None:
            self._end(line)
            return
        for word, more in said:
            if word == _HOLD and self._lines[line] is None and more.isdecimal():
                promise = self._lines[line] = self._promises.give(int(more))
                line.say(*((_NO,) if promise is None else (_HELD, self._node)))
            elif word == _GO and (promise := self._lines[line]) is not None:
                self._promises.end(promise, nothing_came=True)

    def _end(self, line: Line) -> None:
        asyncio.get_running_loop().remove_reader(line.socket)
        line.close()
        promise = self._lines.pop(line)
        if promise is not None:
            self._promises.end(promise, nothing_came=False)
