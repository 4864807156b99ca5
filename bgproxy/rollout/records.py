"""Recorded sessions on the disk: one file each, a sealed line for each turn, in a directory of bounded size.

Nothing is written in the clear. A line is sealed (AES-256-GCM) together with the name of its session and the place
where it stands in the file, so one that was edited, moved, copied to another session or taken out of the middle is
found, and then none of its session is used. Workers of one host append to the same file, under its lock. Needs the
package `cryptography`: sealing is not to be made at home.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Final

from bgproxy.errors import ConfigError

SUFFIX: Final = ".session"
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_CONTEXT: Final = b"bgproxy recording 1\0"
MOST_BYTES: Final = 16 * 1024 * 1024  # of one session's file


class Broken(Exception):
    """A recorded session that cannot be used; the text says why."""


class Seal:
    """Closes and opens lines. `key`: 32 bytes in base64. Raises ConfigError for another, and without the package."""

    def __init__(self, key: str) -> None:
        try:
            raw = b64decode(key.strip().replace("-", "+").replace("_", "/"), validate=True)
        except (BadBase64, ValueError):
            raw = b""
        if len(raw) != KEY_BYTES:
            raise ConfigError(f"the key is not {KEY_BYTES} bytes in base64; make one by `openssl rand -base64 32`")
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise ConfigError(
                "recording needs the package cryptography; install it by `pip install 'bgproxy[recording]'`"
            ) from None
        self._wrong: type[Exception] = InvalidTag
        self._cipher = AESGCM(raw)

    def close(self, session: str, offset: int, text: bytes) -> bytes:
        """A line, without its end. A key may close four thousand million of them (NIST SP 800-38D §8.3)."""
        nonce = os.urandom(_NONCE_BYTES)
        return b64encode(nonce + self._cipher.encrypt(nonce, text, _bound(session, offset)))

    def open(self, session: str, offset: int, line: bytes) -> bytes:
        """What was closed. Raises `Broken`."""
        try:
            raw = b64decode(line, validate=True)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(session, offset))
        except (self._wrong, BadBase64, ValueError):
            raise Broken(f"what stands at byte {offset} was edited, or sealed with another key") from None


def _bound(session: str, offset: int) -> bytes:
    return _CONTEXT + session.encode() + b"\0%d" % offset


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: bytes and sessions of the directory, the age of a session in seconds since its last turn, and
    the turns of one. The oldest sessions go first."""

    max_bytes: int = 268_435_456
    max_sessions: int = 1_000
    max_age: float = 604_800.0
    max_turns: int = 200


class Records:
    """A directory of recorded sessions. All methods block: they belong into a thread. They raise OSError."""

    def __init__(self, directory: Path, seal: Seal, bounds: Bounds) -> None:
        self._directory = directory
        self._seal = seal
        self._bounds = bounds

    def prepare(self) -> None:
        """Make the directory, for its owner alone, and find out whether files can be written there."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = self._directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()

    def knows(self, session: str) -> bool:
        """Whether a session is being recorded, by any worker of this host."""
        return self._file(session).exists()

    def append(self, session: str, turns: Iterable[dict[str, Any]]) -> None:
        """Add turns to a session. One that is too long is as good as none, and removed."""
        handle = os.open(self._file(session), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1_048_576), b""))
            size = file.seek(0, os.SEEK_END)
            try:
                for turn in turns:
                    line = self._seal.close(session, size, json.dumps(turn).encode()) + b"\n"
                    size += len(line)
                    lines += 1
                    if size > MOST_BYTES or lines > self._bounds.max_turns:
                        self.remove(session)
                        return
                    file.write(line)
                file.flush()
            except OSError:  # as on a disk that is full: half a line would spoil it anyhow
                self.remove(session)
                raise

    def read(self, session: str) -> list[dict[str, Any]]:
        """A session's turns in the order in which they began. Raises `Broken`."""
        try:
            with self._file(session).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise Broken(f"it cannot be read: {error.strerror}") from None
        if not data.endswith(b"\n"):
            raise Broken("its last line is not whole")
        turns, offset = [], 0
        for line in data.split(b"\n")[:-1]:
            turns.append(json.loads(self._seal.open(session, offset, line)))
            offset += len(line) + 1
        return sorted(turns, key=lambda turn: float(turn["at"]))

    def remove(self, session: str) -> None:
        """Forget a session."""
        with suppress(FileNotFoundError):
            self._file(session).unlink()

    def size(self, session: str) -> int:
        """Bytes of a session's file; 0 where there is none."""
        with suppress(FileNotFoundError):
            return self._file(session).stat().st_size
        return 0

    def sessions(self) -> list[str]:
        """The names of all sessions, the newest first."""
        return [name for name, _, _ in sorted(self._files(), key=lambda one: -one[2])]

    def sweep(self) -> int:
        """Remove what is too old, and the oldest of what is too much; how many bytes are left."""
        now, bounds = time(), self._bounds
        count = size = 0
        for name, length, changed in sorted(self._files(), key=lambda one: -one[2]):
            if now - changed > bounds.max_age or count >= bounds.max_sessions or size + length > bounds.max_bytes:
                self.remove(name)
            else:
                count, size = count + 1, size + length
        return size

    def _files(self) -> Iterator[tuple[str, int, float]]:
        """Name, bytes, and when it was changed last, of each."""
        for entry in os.scandir(self._directory):
            name = entry.name.removesuffix(SUFFIX)
            if entry.name.endswith(SUFFIX) and _NAME.fullmatch(name):
                with suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    yield name, stat.st_size, stat.st_mtime

    def _file(self, session: str) -> Path:
        assert _NAME.fullmatch(session), "names are made by us"
        return self._directory / f"{session}{SUFFIX}"
