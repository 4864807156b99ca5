"""Whose a connection is, told from outside: both ways say the same."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from bench.reliability import sockets
from bench.reliability.sockets import connections, tabled

CHILD = """
import socket, sys
ours = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(3)]
ours.append(socket.create_server(("127.0.0.1", 0)))
ours += socket.socketpair()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_the_connections_of_a_process_are_those_that_it_has_open(allowed, monkeypatch):
    if not allowed:

        def refuses(_: int) -> None:
            raise PermissionError(errno.EPERM, "not here")

        monkeypatch.setattr(sockets, "_borrowed", refuses)
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        words = [sys.executable, "-c", CHILD, str(port)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            taken = [door.accept() for _ in range(3)]
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            expected = {(peer[1], port) for _, peer in taken}
            assert {one for one in connections(child.pid) if one[1]} == expected
            assert {one for one in tabled(child.pid) if one[1]} == expected
            child.communicate()
        for one, _ in taken:
            assert one.recv(1) == b"", "what was borrowed is given back: its end is heard"
            one.close()


def test_a_process_that_is_gone_has_none():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert connections(child.pid) == set()
