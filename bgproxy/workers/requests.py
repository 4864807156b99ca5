"""The Unix socket in the runtime directory at which this host's operators ask the supervisor for an upgrade.

One line of JSON comes in, one goes out when it is known what came of it. Who may write to the directory may ask: that
is the user whom the proxy runs as, and root. Never blocks: between two looks the supervisor has workers to watch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

NAME: Final = "supervisor.sock"
_MOST = 8  # callers at a time
_LONGEST = 8_192  # bytes of a request


class Request:
    """One caller's."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._said = b""

    def read(self) -> dict[str, Any] | None:
        """What is asked for; None where it is not whole yet. Raises ValueError for what is no request, or is gone."""
        with contextlib.suppress(BlockingIOError):
            data = self._socket.recv(_LONGEST)
            self._said += data
            if not data or len(self._said) > _LONGEST:
                raise ValueError("this is no request")
        if not self._said.endswith(b"\n"):
            return None
        asked = json.loads(self._said)
        if not isinstance(asked, dict):
            raise ValueError("this is no request")
        return asked

    def answer(self, **members: object) -> None:
        """Tell what came of it. Who has gone meanwhile is not told."""
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps(members).encode() + b"\n")
        self.close()

    def close(self) -> None:
        """Leave the caller without an answer."""
        self._socket.close()


class Requests:
    """The door, and those who have come in and not said all yet."""

    def __init__(self, sock: socket.socket | None) -> None:
        """`sock`: listening; None: nobody can ask."""
        self.socket = sock
        self._reading: list[Request] = []

    @classmethod
    def at(cls, directory: Path) -> Requests:
        """A new door in that directory. Where none can be had, signals are left."""
        path = directory / NAME
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            sock.bind(os.fspath(path))
            sock.listen(_MOST)
        except OSError as error:
            log.warning("%s cannot be had: %s; `bgproxy upgrade` will not find this proxy, SIGUSR2 does", path, error)
            sock.close()
            return cls(None)
        sock.setblocking(False)
        return cls(sock)

    def next(self) -> tuple[Request, dict[str, Any]] | None:
        """A request that has come whole, with what it asks for."""
        if self.socket is None:
            return None
        with contextlib.suppress(OSError):
            while len(self._reading) < _MOST:
                self._reading.append(Request(self.socket.accept()[0]))
        for request in self._reading[:]:
            try:
                asked = request.read()
            except (ValueError, OSError) as error:
                log.debug("a request was not understood: %s", error)
                self._reading.remove(request)
                request.close()
                continue
            if asked is not None:
                self._reading.remove(request)
                return request, asked
        return None

    def close(self) -> None:
        """Let go of all of it."""
        for request in self._reading:
            request.close()
        if self.socket is not None:
            self.socket.close()
