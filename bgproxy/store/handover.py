"""What a worker of the embedded store leaves to its successor: the last whole document that it wrote.

Two files are written in turn, each in place and with its number and checksum, so that a process that dies in the middle
spoils none but the older one. They survive the process, not the machine. To rename a new file over an old one, as
`write_safely` does, takes many times as long: some file systems then write to the disk, while every request waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from bgproxy.errors import StoreBroken

_HEADER: Final = struct.Struct("<4sQQI")  # what it is, its number, bytes of the document, their CRC-32
_KIND: Final = b"BGP1"


class Handover:
    """The two files. Each call blocks and raises `OSError`."""

    def __init__(self, path: Path) -> None:
        """`path`: as the files are named, but for their ends."""
        self._paths = slots(path)
        self._open: dict[Path, int] = {}
        self._number = 0  # of the last document that was written, or found

    def write(self, document: Mapping[str, Any]) -> None:
        """Leave this document; readable by the files' owner alone. What fails leaves the one before."""
        body = orjson.dumps(document)
        number = self._number + 1
        path = self._paths[number % 2]
        if (file := self._open.get(path)) is None:
            file = self._open[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        data = _HEADER.pack(_KIND, number, len(body), zlib.crc32(body)) + body
        if os.pwrite(file, data, 0) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a full disk only a part is written
        self._number = number

    def read(self) -> bytes:
        """The last whole document. Raises `FileNotFoundError` where there is none, `StoreBroken` for another file."""
        found = b""
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                number, body = _opened(path)
                if number > self._number:
                    self._number, found = number, body
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._paths[0]))
        return found

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open.values():
            os.close(file)
        self._open.clear()


def slots(path: Path) -> tuple[Path, Path]:
    """The files that a handover of this name has."""
    return path.with_name(f"{path.name}.0"), path.with_name(f"{path.name}.1")


def _opened(path: Path) -> tuple[int, bytes]:
    """A document and its number; 0 where it is not whole. Raises `StoreBroken` for what is none."""
    data = path.read_bytes()
    if not data.startswith(_KIND[: len(data)]):
        raise StoreBroken(f"{path} cannot be understood: remove it to begin anew; it is left as it is")
    if len(data) < _HEADER.size:
        return 0, b""
    _, number, size, check = _HEADER.unpack_from(data)
    body = data[_HEADER.size : _HEADER.size + size]
    return (number, body) if zlib.crc32(body) == check else (0, b"")
