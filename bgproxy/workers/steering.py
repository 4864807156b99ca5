"""Which of the sockets of one port get new connections, while a worker is missing.

Each worker has a socket of its own, and the kernel draws among all that listen (SO_REUSEPORT, socket(7)): one in so
many clients would wait in a queue that nobody serves, for seconds where workers die again and again. Who is in it
already is left there, for the worker's successor: to close the socket would reset them. Where the kernel cannot do this
(Linux before 5.3), nothing changes.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

_ATTACH: Final = 51  # SO_ATTACH_REUSEPORT_CBPF
_DETACH: Final = 68  # SO_DETACH_REUSEPORT_BPF

# Classic BPF (bpf(4) of BSD, linux/filter.h): code, where to go on if so and if not so, and a number.
_RANDOM: Final = (0x20, 0, 0, 0xFFFF_F000 + 56)  # load the word that the kernel draws
_MODULO: Final = 0x94
_IF_EQUAL: Final = 0x15
_ANSWER: Final = 0x06


def steer(sockets: Sequence[socket.socket], away: Collection[socket.socket]) -> None:
    """Draw among those that are not away; among all where none, or all, are. `sockets`: of one port, in the order in
    which they began to listen. Never raises."""
    rest = [number for number, sock in enumerate(sockets) if sock not in away]
    with suppress(OSError):
        _detach(sockets[0])
        if 0 < len(rest) < len(sockets):
            words = _drawn_of(rest)
            text = ctypes.create_string_buffer(words, len(words))
            program = struct.pack("@HP", len(words) // 8, ctypes.addressof(text))
            sockets[0].setsockopt(socket.SOL_SOCKET, _ATTACH, program)


def _detach(sock: socket.socket) -> None:
    """Raises OSError where the kernel does not know how: then nothing must be attached either."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:  # there was nothing
            raise


def _drawn_of(numbers: Sequence[int]) -> bytes:
    """A program that answers with any of these numbers, each as likely as the others."""
    program = [_RANDOM, (_MODULO, 0, 0, len(numbers))]
    for drawn, number in enumerate(numbers[:-1]):
        program += [(_IF_EQUAL, 0, 1, drawn), (_ANSWER, 0, 0, number)]
    program.append((_ANSWER, 0, 0, numbers[-1]))
    return b"".join(struct.pack("HBBI", *one) for one in program)
