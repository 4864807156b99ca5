"""The admin plane's listener: opens the address, serves the application on it, ends it.

A Unix socket is made for its owner alone: who may open it is an operator. A socket file that nobody listens on any more
is replaced, one that is in use is not.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from bgproxy.admin.app import build
from bgproxy.admin.options import split_address
from bgproxy.admin.seams import AdminDeps
from bgproxy.errors import ConfigError

KEEPALIVE_TIMEOUT = 75.0  # s
LINGER_TIMEOUT = 2.0  # s for the rest of a refused body, so that the answer is not lost to a reset
STOP_TIMEOUT = 5.0  # s for requests that are being answered; a flip is bounded by the ledger's own
BACKLOG = 128
SOCKET_MODE = 0o600

log = logging.getLogger(__name__)


class AdminServer:
    """The running admin plane of one worker."""

    def __init__(self, deps: AdminDeps, *, sock: socket.socket | None = None, reuse_port: bool = False) -> None:
        """`sock`: one that listens already, as a parent hands it down; else the address is opened at `start`."""
        self._listen = deps.options.listen
        self._sock = sock
        self._reuse_port = reuse_port
        quiet = logging.getLogger(f"{__name__}.http")
        quiet.addFilter(_without_traces)
        self._runner = web.AppRunner(
            build(deps),
            access_log=None,
            logger=quiet,
            handle_signals=False,
            shutdown_timeout=STOP_TIMEOUT,
            keepalive_timeout=KEEPALIVE_TIMEOUT,
            lingering_time=LINGER_TIMEOUT,
            auto_decompress=False,  # a compressed body is refused, not unpacked
        )

    async def start(self) -> str:
        """Serve; returns the address, with the port that the kernel chose where it was 0. Raises ConfigError."""
        await self._runner.setup()
        sock = self._sock or open_socket(self._listen, reuse_port=self._reuse_port)
        await web.SockSite(self._runner, sock, backlog=BACKLOG).start()
        return address_of(sock)

    async def stop(self) -> None:
        """End event streams, let requests finish for at most `STOP_TIMEOUT`, close."""
        await self._runner.cleanup()


def _without_traces(record: logging.LogRecord) -> bool:
    """What the HTTP library logs is malformed requests, and the trace would quote them: credentials too."""
    record.exc_info = None
    record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def open_socket(listen: str, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket on `HOST:PORT`, `[IPV6]:PORT` or `unix:/path`. Raises ConfigError: what is in the way."""
    try:
        parts = split_address(listen)
        return _unix(listen.removeprefix("unix:")) if parts is None else _tcp(*parts, reuse_port=reuse_port)
    except socket.gaierror as error:
        raise ConfigError(f"admin.listen {listen!r}: the name cannot be resolved: {error.strerror}") from error
    except OSError as error:
        remedy = ""
        if error.errno == errno.EADDRINUSE:
            remedy = "; is another bgproxy running? Choose another address with --admin"
        raise ConfigError(f"admin.listen {listen!r} cannot be opened: {error.strerror}{remedy}") from error


def address_of(sock: socket.socket) -> str:
    """A listening socket's address, written as in the configuration."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def _tcp(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~SOCKET_MODE)  # set for the bind, not after it: nobody slips in between
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that is gone; leave one in use, and any other file, to fail at the bind."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
