"""What a run of this bench stands on: the agents, one proxy for each release, live traffic, and the release's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from bench.processes import free_ports
from bench.releases.traffic import Traffic

START_TIMEOUT = 15.0
RATE = 150.0  # turns per second
BEFORE = 4.0  # seconds of traffic before a release: what the old one does is what the new one is compared with
AFTER = 0.3  # seconds after its end


class Processes:
    """Python processes of this checkout, ended by their id when the block ends."""

    def __init__(self) -> None:
        self._running: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in reversed(self._running):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self._running:
            try:
                async with asyncio.timeout(5.0):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """`python -m …`, its stdout on a pipe."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._running.append(process)
        return process


async def agents(processes: Processes, noise: float) -> dict[str, str]:
    """Their addresses, by name."""
    process = await processes.start("bench.releases.misbehave", "--noise", str(noise))
    assert process.stdout is not None
    async with asyncio.timeout(START_TIMEOUT):
        return dict(json.loads(await process.stdout.readline()))


@dataclass(frozen=True, slots=True)
class Proxy:
    """One `bgproxy serve`."""

    url: str
    admin: str

    async def get(self, path: str) -> Any:
        """A document of the admin API."""
        return json.loads(await asyncio.to_thread(_read, f"{self.admin}{path}"))

    async def entries(self) -> list[dict[str, Any]]:
        """The record, oldest first."""
        return list(reversed((await self.get("/v1/audit?limit=500"))["entries"]))


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5.0) as answer:
        data: bytes = answer.read()
        return data


@asynccontextmanager
async def proxy(blue: str) -> AsyncIterator[Proxy]:
    """A proxy of one worker with that agent behind it, for as long as the block runs."""
    async with Processes() as processes:
        port, admin = free_ports(2)
        listens = ("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}")
        await processes.start("bgproxy", "serve", *listens, "--blue", blue)
        made = Proxy(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}")
        async with asyncio.timeout(START_TIMEOUT):
            while True:
                with contextlib.suppress(OSError):
                    await made.get("/readyz")
                    break
                await asyncio.sleep(0.05)
        yield made


@dataclass(frozen=True, slots=True)
class Story:
    """One release: the command's exit status and end, the record, what clients saw, what the agent says of itself."""

    status: int
    end: Mapping[str, Any]
    entries: list[dict[str, Any]]
    traffic: Traffic
    agent: Mapping[str, Any]

    def at(self, verb: str, step: str = "") -> float | None:
        """When that was put on record, unix seconds; None where it was not."""
        found = (one for one in self.entries if one["verb"] == verb and (not step or one["facts"].get("step") == step))
        return next((float(one["at"]) for one in found), None)

    @property
    def harmed(self) -> int:
        """Turns that the new release did not answer as it should, by what their clients saw."""
        return sum(self.traffic.troubles().values())


async def release(v1: str, name: str, url: str, plan: str, before: float = BEFORE) -> Story:
    """Bring it out by the command, under live traffic, on a proxy of its own."""
    async with proxy(v1) as serve, Processes() as processes:
        traffic = Traffic(serve.url, RATE)
        flowing = asyncio.create_task(traffic.flow())
        await asyncio.sleep(before)
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(plan)
            file.flush()
            words = ("release", "green", "--release", name, "--upstream", url, "--plan", file.name)
            command = await processes.start("bgproxy", *words, "--yes", "--json", "--admin", serve.admin)
            out, _ = await command.communicate()
        await asyncio.sleep(AFTER)
        traffic.is_over.set()
        await flowing
        agent: Mapping[str, Any] = {}
        with contextlib.suppress(OSError):
            agent = json.loads(await asyncio.to_thread(_read, f"{url}/misbehaviour"))
        assert command.returncode is not None
        return Story(command.returncode, json.loads(out.splitlines()[-1]), await serve.entries(), traffic, agent)
