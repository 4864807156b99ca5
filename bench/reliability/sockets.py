"""The TCP connections of another process, as its two ports: this side's and the far one.

Its sockets are borrowed for a moment (pidfd_getfd(2), Linux 5.6), which takes no time however many connections the
machine has. Where that is not allowed, as in containers without CAP_SYS_PTRACE, the kernel's whole table is read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

Ports = tuple[int, int]

_PIDFD_GETFD = 438  # on every architecture
_REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS}
_LINE = re.compile(rb":([0-9A-F]{4}) [0-9A-F]{8}:([0-9A-F]{4}) [0-9A-F]{2} \S+ \S+ \S+ +\d+ +\d+ (\d+) ")
_libc = ctypes.CDLL(None, use_errno=True)


def connections(pid: int) -> set[Ports]:
    """Those that it has open; none where it is gone."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        try:
            return set(_borrowed(pid))
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            return tabled(pid)
    return set()


def tabled(pid: int) -> set[Ports]:
    """The same out of /proc. Listening sockets count, with a far port of 0."""
    inodes = {int(link[len("socket:[") : -1]) for _, link in _sockets(pid)}
    table = Path(f"/proc/{pid}/net/tcp").read_bytes()
    return {(int(here, 16), int(there, 16)) for here, there, inode in _LINE.findall(table) if int(inode) in inodes}


def _borrowed(pid: int) -> Iterator[Ports]:
    process = os.pidfd_open(pid)
    try:
        for number, _ in _sockets(pid):
            got = _libc.syscall(_PIDFD_GETFD, process, number, 0)
            if got < 0:
                if (error := ctypes.get_errno()) == errno.EBADF:  # closed meanwhile
                    continue
                raise OSError(error, os.strerror(error))
            with socket.socket(fileno=got) as one, contextlib.suppress(OSError):
                if one.family == socket.AF_INET:
                    yield one.getsockname()[1], one.getpeername()[1]
    finally:
        os.close(process)


def _sockets(pid: int) -> Iterator[tuple[int, str]]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if (link := str(entry.readlink())).startswith("socket:"):
                yield int(entry.name), link
