"""Accepts clients on one listening socket: pauses when the limit is reached or descriptors run out, and comes back.

The socket stays open in the supervisor while a worker restarts, so what the kernel has queued on it is not lost.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bgproxy.proxy.client import ClientConnection
from bgproxy.proxy.replies import reply
from bgproxy.tasks import spawn

if TYPE_CHECKING:
    from bgproxy.proxy.plane import DataPlane

log = logging.getLogger(__name__)

BATCH = 32  # accepted in one turn of the loop: enough for a burst, little enough for the others' sake
PARTING = 0.5  # seconds between a refusal and the close behind it
MAX_PARTING = 64  # sockets kept for that; beyond it the oldest closes at once
PAUSE = 0.1  # seconds without accepting after the descriptors ran out
_OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """One listening socket of this worker."""

    def __init__(self, plane: DataPlane, sock: socket.socket, *, preview: bool = False) -> None:
        """`preview`: those who come in here want the color that is not active."""
        self._preview = preview
        self._plane = plane
        self._socket = sock
        self._accepting = False
        self._reserve = _reserve()
        self._alarmed = False
        self._parting: deque[socket.socket] = deque()  # turned away, not yet closed

    def start(self) -> None:
        self._socket.setblocking(False)
        self._resume()

    def stop(self) -> None:
        """Accept no more; what the kernel has already queued for this socket is still taken, not reset."""
        if self._accepting:
            self._pause()
            while self._accept_one():
                pass
        self._socket.close()
        while self._parting:
            _drop(self._parting.popleft())
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _resume(self) -> None:
        if not self._accepting and self._socket.fileno() >= 0:
            self._accepting = True
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._ready)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._socket.fileno())

    def _ready(self) -> None:
        for _ in range(BATCH):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                self._out_of_descriptors()
                return False
            raise
        self._alarmed = False
        client.setblocking(False)
        plane = self._plane
        if len(plane.connections) + len(plane.tunnels) + len(plane.arriving) >= plane.limits.max_connections:
            plane.metrics.refuse("too_many_connections")
            _turn_away(client, "too_many_connections", "this worker's `max_connections` is reached", plane.date)
            self._part(client)
        else:
            connection = ClientConnection(plane, preview=self._preview)
            plane.arriving.add(connection)
            spawn(self._adopt(client, connection), "accept")
        return True

    async def _adopt(self, client: socket.socket, connection: ClientConnection) -> None:
        protocol: Callable[[], Any] = lambda: connection  # noqa: E731
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, client)
        finally:
            self._plane.arriving.discard(connection)

    def _part(self, client: socket.socket) -> None:
        """Close a moment later, so that a request that is on its way does not turn the close into a reset."""
        if len(self._parting) >= MAX_PARTING:
            _drop(self._parting.popleft())
        self._parting.append(client)
        asyncio.get_running_loop().call_later(PARTING, self._parted, client)

    def _parted(self, client: socket.socket) -> None:
        if client in self._parting:
            self._parting.remove(client)
            _drop(client)

    def _out_of_descriptors(self) -> None:
        """Say so to one client with the descriptor kept for that, then leave the queue alone for a moment."""
        if not self._alarmed:
            self._alarmed = True
            log.error("out of file descriptors: raise the limit (ulimit -n) or lower limits.max_connections")
        self._plane.metrics.refuse("out_of_descriptors")
        self._pause()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
            try:
                client, _ = self._socket.accept()
                client.setblocking(False)
                _turn_away(client, "out_of_descriptors", "no file descriptor is left", self._plane.date)
                _drop(client)
            except OSError:
                log.debug("the reserve descriptor went elsewhere")
        asyncio.get_running_loop().call_later(PAUSE, self._recover)

    def _recover(self) -> None:
        if self._reserve is None:
            self._reserve = _reserve()
        self._resume()


def _reserve() -> int | None:
    """A descriptor kept to say 503 with; None while there is none to be had."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _turn_away(client: socket.socket, code: str, detail: str, date: bytes) -> None:
    """Answer a client that cannot be served, without waiting for its request."""
    with suppress(OSError):  # it may have gone
        client.send(reply(code, detail, date))
        client.shutdown(socket.SHUT_WR)


def _drop(client: socket.socket) -> None:
    """Close; what has come is read first, as unread bytes would turn the close into a reset that eats the answer."""
    with client, suppress(OSError):
        client.recv(65_536)
