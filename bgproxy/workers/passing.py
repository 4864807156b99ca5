"""What passes between a proxy's processes at an upgrade: documents with open files, over a pair of sockets or an exec.

Both ends may be of different versions: members are added, never changed, and `FORMAT` is raised where that cannot be.
Must not know what is done with anything.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from bgproxy.config.addresses import parse_address
from bgproxy.errors import ConfigError
from bgproxy.workers.doors import Door

FORMAT: Final = 1

_MOST = 200  # descriptors in one message; Linux lets 253 through

Document = dict[str, Any]


class Passing:
    """One end of the line between the process that serves and the one that is to."""

    def __init__(self, line: socket.socket) -> None:
        """`line`: of packets (SOCK_SEQPACKET), so that each message is whole."""
        self._line = line
        self._begun: Document | None = None  # some of its descriptors are still to come
        self._files: list[int] = []

    def fileno(self) -> int:
        return self._line.fileno()

    def send(self, document: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        """Raises OSError where the other end is gone."""
        text = json.dumps({**document, "format": FORMAT, "files": len(files)}).encode()
        socket.send_fds(self._line, [text], files[:_MOST])
        for at in range(_MOST, len(files), _MOST):
            socket.send_fds(self._line, [b"+"], files[at : at + _MOST])

    def receive(self) -> tuple[Document, list[int]] | None:
        """The next message with its descriptors, the caller's from now on; None where nothing has come yet.

        Raises EOFError once the other end is gone, and ValueError for what is no message of ours.
        """
        while True:
            try:
                text, files, _, _ = socket.recv_fds(self._line, 1_000_000, _MOST)
            except BlockingIOError:
                return None
            except ConnectionResetError:  # it had not read all of ours; what it said before its end comes now
                continue
            for file in files:  # `recv_fds` cannot ask for it
                os.set_inheritable(file, False)
            self._files += files
            if not text:
                raise EOFError
            if self._begun is None:
                document = json.loads(text)
                if not isinstance(document, dict) or document.get("format") != FORMAT:
                    raise ValueError("it speaks another language")
                self._begun = document
            if len(self._files) >= int(self._begun["files"]):
                document, files, self._begun, self._files = self._begun, self._files, None, []
                return document, files

    def close(self) -> None:
        """Let go of this end, and of what has come in part."""
        for file in self._files:
            os.close(file)
        self._files = []
        self._line.close()


def written(text: bytes, name: str) -> int:
    """The descriptor of a file without a name in any directory, which says this."""
    file = os.memfd_create(name)
    os.write(file, text)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def read(file: int) -> bytes:
    """What such a file says; it is closed."""
    with os.fdopen(file, "rb") as opened:
        opened.seek(0)
        return opened.read()


def doors_document(doors: Iterable[Door]) -> list[Document]:
    """The doors, without their sockets."""
    return [
        {"key": door.key, "address": str(door.address), "sockets": len(door.sockets), "given": door.given}
        for door in doors
    ]


def files_of(doors: Iterable[Door]) -> list[int]:
    """The sockets' descriptors, in the document's order."""
    return [sock.fileno() for door in doors for sock in door.sockets]


def doors_from(document: Iterable[Document], files: Iterable[int]) -> list[Door]:
    """The doors of such a document, with the sockets behind these descriptors."""
    left, doors = iter(files), []
    for one in document:
        sockets = [socket.socket(fileno=next(left)) for _ in range(one["sockets"])]
        doors.append(Door(one["key"], parse_address(one["address"]), sockets, bool(one.get("given"))))
    return doors


def variable(name: str) -> int | None:
    """The descriptor that one of the two variables tells, which no child of this process is to see; None without it."""
    told = os.environ.pop(name, None)
    if told is None:
        return None
    try:
        os.set_inheritable(int(told), False)
    except (ValueError, OSError):
        raise ConfigError(f"{name}: bgproxy sets this for its own processes; unset it") from None
    return int(told)
