"""The pins of a memory store in a file beside its state, so that sessions outlive the process.

A log: what has changed is written at its end, all of one moment in one write, at most `INTERVAL` after it was made. The
data path only notes what has changed. A process that is killed loses what came since the last write: such a session
begins anew. Nothing is synced: when the whole machine dies, what its kernel has not written yet is lost too.

Once the file is twice what lives it is written anew beside itself, a piece at each write, and then takes its own place;
until then both get what changes, so that either is whole at any moment. A full disk is logged once and tried again.
Must not know what a pin says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from bgproxy.errors import StoreUnavailable
from bgproxy.store.logged_pins import LoggedPins
from bgproxy.store.pin_record import head_line, read_lines

log = logging.getLogger(__name__)

INTERVAL: Final = 0.05  # seconds between a change and its writing
PAUSE: Final = 1.0  # seconds until a write that failed is tried again
LEAST: Final = 256 * 1024  # bytes below which a file is never written anew
PIECE: Final = 1_000  # lines per write of a file that is written anew: about 3 ms


class PinLog:
    """See the module. All but `open` are quick calls of the event loop."""

    def __init__(self, path: Path, fleet: str) -> None:
        self._path = path
        self._fleet = fleet
        self._pins: LoggedPins | None = None
        self._changed: dict[bytes, None] = {}
        self._file: _File | None = None  # None: before `open` and after `close`
        self._next: _File | None = None  # the one that is to take its place
        self._left: Iterator[bytes] = iter(())  # lines of that one that are still to be written
        self._timer: asyncio.TimerHandle | None = None
        self._has_failed = False

    def __repr__(self) -> str:
        return f"<PinLog {self._path} {self._file.size if self._file else 0} bytes, {len(self._changed)} to be written>"

    async def open(self, pins: LoggedPins, *, keep: bool) -> None:
        """Let `pins` take over what the file says, or with `keep` False begin a new one; from then on, write.

        Raises `StoreBroken` and `SchemaTooNew` for a file that is not understood, which is left as it is, and
        `StoreUnavailable`.
        """
        where = str(self._path)
        try:
            raw = await asyncio.to_thread(self._path.read_bytes) if keep and self._path.exists() else b""
            read = await asyncio.to_thread(read_lines, raw, self._fleet, where)
            if self._file is not None:  # another task was faster
                return
            self._file = _File(self._path, read.size)
            if not read.size:
                self._file.write(head_line(self._fleet))
        except OSError as error:
            raise StoreUnavailable(f"store: {where} cannot be used: {error.strerror}") from error
        self._pins = pins
        pins.restore(read)
        self.note(())

    def note(self, keys: Iterable[bytes]) -> None:
        """These pins and aliases are new, have changed or are over."""
        self._changed.update(dict.fromkeys(keys))
        if self._changed:
            self._soon(INTERVAL)

    def flush(self) -> None:
        """Write what is still to be written, now. Raises `OSError` where that fails, as for want of room."""
        if self._file is not None:
            self._cancel()
            self._write()
            if self._changed:
                raise OSError(28, "its pins cannot be written")

    def close(self) -> None:
        """Write what is still to be written."""
        if self._file is None:
            return
        self._cancel()
        self._write()
        self._cancel()
        self._drop_next()
        self._file.close()
        self._file = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _soon(self, seconds: float) -> None:
        if self._timer is None and self._file is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._write)

    def _write(self) -> None:
        self._timer = None
        file, pins = self._file, self._pins
        assert file is not None
        assert pins is not None
        lines = pins.changes(self._changed)
        try:
            file.write(lines)
            self._changed = {}
            self._write_anew(file, pins, lines)
        except OSError as error:
            if not self._has_failed:
                log.error("store: %s cannot be written: %s; sessions do not outlive this process", self._path, error)
            self._has_failed = True
            self._drop_next()
            self._soon(PAUSE)
            return
        if self._has_failed:
            log.info("store: %s is written again", self._path)
        self._has_failed = False
        if self._next is not None:
            self._soon(INTERVAL)

    def _write_anew(self, file: _File, pins: LoggedPins, lines: bytes) -> None:
        """A piece of the file that is to take this one's place, if it is time for one."""
        if self._next is None:
            if file.size <= LEAST or file.size <= 2 * file.per_line * pins.size():
                return
            self._next = _File(self._path.with_name(f".{self._path.name}.new"), 0)
            self._left = pins.lines()
            lines = head_line(self._fleet)
        pieces = [*islice(self._left, PIECE)]
        self._next.write(lines + b"".join(pieces))
        if len(pieces) < PIECE:
            self._next.take_place(self._path)
            file.close()
            self._file, self._next = self._next, None

    def _drop_next(self) -> None:
        if self._next is not None:
            self._next.close()
            with contextlib.suppress(OSError):
                self._next.path.unlink()
            self._next = None


class _File:
    """Written at its end only; a write that fails leaves nothing of itself."""

    def __init__(self, path: Path, size: int) -> None:
        """What is there is kept up to `size` bytes: behind it may be a line that was never finished."""
        self.path = path
        self.size = size
        self._lines = 0
        self._written = 0
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, size)

    def take_place(self, path: Path) -> None:
        """Be the file of this name."""
        self.path.replace(path)
        self.path = path

    @property
    def per_line(self) -> float:
        """Bytes of a line, from those that were written here."""
        return self._written / self._lines if self._lines else 400.0

    def write(self, lines: bytes) -> None:
        """Raises `OSError`; the file is then as it was before."""
        try:
            if os.write(self._file, lines) != len(lines):
                raise OSError(28, "there is no room for it")
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(lines)
        self._written += len(lines)
        self._lines += lines.count(b"\n")

    def close(self) -> None:
        os.close(self._file)
