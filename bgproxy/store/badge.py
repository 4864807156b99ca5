"""Badges: a file for each node of a host, in its runtime directory, which its process keeps locked as long as it lives.

A lock of flock(2) ends with its process however that dies, and not while it is only stopped. So whoever lives beside a
node, or comes after it, knows for certain that it is dead, and signs it off. Must not know what a store is.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)


class Badges:
    """Those of one fleet's nodes in one runtime directory."""

    def __init__(self, runtime_dir: Path, fleet: str) -> None:
        self._directory = runtime_dir / f"nodes-{fleet}"
        self._own: tuple[Path, int] | None = None

    def wear(self, node_id: str) -> None:
        """To be called before the node is registered. Where no file can be kept, it is only logged: then nobody signs
        the node off but itself."""
        if self._own is not None:
            return
        path = self._directory / node_id
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = path.with_name(f".{node_id}.new")  # under its name only once it is locked, or it would look dead
            lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(path)
        except OSError as error:
            log.warning("%s cannot be kept: %s; if this worker dies, flips wait for it", path, error.strerror)
            return
        self._own = path, lock

    def take_off(self) -> None:
        """To be called once the node is registered no more."""
        if self._own is not None:
            path, lock = self._own
            path.unlink(missing_ok=True)
            os.close(lock)
            self._own = None

    def look(self) -> tuple[set[str], set[str]]:
        """The nodes that live, this one too, and the dead that nobody has signed off."""
        living, dead = set[str](), set[str]()
        for path in self._paths():
            with _looked_at(path) as is_dead:
                (dead if is_dead else living).add(path.name)
        return living, dead

    async def sign_off_dead(self, leave: Callable[[str], Awaitable[object]]) -> None:
        """Tell the store of each dead node. What `leave` raises goes through; then the next call tries again."""
        for path in self._paths():
            with _looked_at(path) as dead:
                if dead:
                    await leave(path.name)
                    path.unlink(missing_ok=True)
                    log.warning("node %s has died and is signed off", path.name)

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self._directory.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []


@contextlib.contextmanager
def _looked_at(path: Path) -> Iterator[bool]:
    """Whether the node is known to be dead; meanwhile nobody else of this host finds it so."""
    with contextlib.ExitStack() as held:
        dead = False
        with contextlib.suppress(OSError):  # it lives, or somebody else looks at it, or has just signed it off
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            held.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = path.exists()
        yield dead
