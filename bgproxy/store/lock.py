"""One process per file: an advisory lock beside it, which ends with its process however that dies.

The file itself is exchanged by a rename at each writing, so it is `FILE.lock` that is locked (POSIX: what one process
opens twice, it has twice); it stays for good, as who removed it could take it from under another. Must not know what
is in the file.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bgproxy.errors import StoreUnavailable


def take(path: Path) -> int:
    """Lock the file for this process; the descriptor that holds the lock until `release` or the process's end.

    Raises `StoreUnavailable` where another process has it, and `OSError` where nothing can be locked there.
    """
    beside = path.with_name(f"{path.name}.lock")
    lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace")
        os.close(lock)
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise StoreUnavailable(
            f"store: {path} is in use by {who}, and two would undo each other's flips: end that one, or give this one "
            "a file of its own; several proxies that shall agree need a Redis"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def release(lock: int) -> None:
    """Let the next one have it."""
    os.close(lock)
