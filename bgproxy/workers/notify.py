"""What systemd is told of a unit of Type=notify: a datagram of variables, see sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
from time import CLOCK_MONOTONIC, clock_gettime_ns

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(*variables: str) -> None:
    """Tell the service manager, if there is one that listens; what it misses is not worth a proxy."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if where[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(f"\0{where[1:]}" if where[0] == "@" else where)
        sock.send("\n".join(variables).encode())


def reloading() -> tuple[str, str]:
    """What a unit of Type=notify-reload says at the beginning of a reload; READY ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}"
