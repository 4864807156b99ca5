"""A fleet of remembering agents, and a crowd of clients that others wrote which talk to it while it is moved about.

The agents are processes: two of each release, so that a session must find the very one that holds it. `Crowd` leads
everybody's conversations; in a round each of them takes a turn, all at once, while something is done to the proxy.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from clients.talk import PATIENCE, Talk, Way
from serving import environment

HERE = Path(__file__).parent
READY = "listens on "
HOPPING = {"Connection": "close"}  # each request on a connection of its own, so that any worker may take it


class Agents:
    """The processes, each with a memory of its own."""

    def __init__(self) -> None:
        self.urls: dict[str, list[str]] = {"v1": [], "v2": []}
        self._processes = [
            (release, self._start(f"{release}/{number}")) for release in self.urls for number in range(2)
        ]
        try:
            for release, process in self._processes:
                assert process.stdout is not None
                line = process.stdout.readline().decode()
                assert line.startswith(READY), f"an agent did not come up: {line!r}"
                self.urls[release].append(line.removeprefix(READY).strip())
        except BaseException:
            self.close()
            raise

    def _start(self, place: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "agents.serve", place]
        return subprocess.Popen(command, cwd=HERE, env=environment(), stdout=subprocess.PIPE)

    def close(self) -> None:
        for _, process in self._processes:
            process.terminate()
        for _, process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    async def memories(self) -> list[dict[str, Any]]:
        """What each process has counted since it was started, asked for beside the proxy."""
        async with aiohttp.ClientSession() as session:
            documents = []
            for url in sorted(url for urls in self.urls.values() for url in urls):
                async with session.get(f"{url}/memory") as answer:
                    documents.append(json.loads(await answer.text()))
            return documents

    async def count(self, what: str) -> Counter[str]:
        """The sum over all processes of `begun`, `turns` or `strangers`, by protocol."""
        total: Counter[str] = Counter()
        for document in await self.memories():
            total.update(document[what])
        return total

    def config(self, *, sessions: bool = True, on_rollback: str = "stay") -> str:
        """The proxy's configuration in front of them; without sessions it knows of none."""
        blue, green = self.urls["v1"], self.urls["v2"]
        common = f'on_rollback = "{on_rollback}"' if sessions else "presets = []"
        token = '["query:token"]' if sessions else "[]"
        # What is known of LangGraph is that its threads live in a database, which all processes of a release share.
        return f"""
            active = "blue"
            workers = 4
            grace_timeout = 1.0
            sessions.{common}
            colors.blue = {{ release = "v1", upstreams = {json.dumps(blue)} }}
            colors.green = {{ release = "v2", upstreams = {json.dumps(green)} }}
            [[route]]
            name = "agents"
            [[route]]
            name = "threads"
            path = "/threads"
            upstreams = {{ blue = ["{blue[0]}"], green = ["{green[0]}"] }}
            [[route]]
            name = "tokens"
            path = "/rejoin"
            sessions = {token}
        """


class Crowd:
    """Conversations of all ways."""

    def __init__(self, ways: Sequence[Way], url: str, patience: float = PATIENCE) -> None:
        self.ways = ways
        self.broken = False  # something is broken on purpose: turns may fail and are taken again
        self.talks: list[Talk] = []
        self._past: list[Talk] = []
        self._url = url
        self._patience = patience

    async def begin(self, each: int = 1) -> None:
        """New conversations of every way, and their first turn. Every other one hops between the workers."""
        new = []
        for way in self.ways:
            for _ in range(each):
                begun = sum(talk.way is way for talk in (*self.all, *new))
                fields = HOPPING if begun % 2 else {}
                new.append(Talk(way, self._url, fields, lambda: self.broken, self._patience))
        self.talks += new
        await asyncio.gather(*(talk.turn() for talk in new))

    async def round(self, meanwhile: Awaitable[Any] | None = None) -> None:
        """A turn of each conversation, all at once, while something is done."""
        turns = asyncio.gather(*(talk.turn() for talk in self.talks))
        if meanwhile is not None:
            await meanwhile
        await turns
        self._past += [talk for talk in self.talks if talk.over]
        self.talks = [talk for talk in self.talks if not talk.over]

    async def close(self) -> None:
        await asyncio.gather(*(talk.close() for talk in self.talks))
        self._past += self.talks
        self.talks = []

    @property
    def all(self) -> list[Talk]:
        """Those too that are past."""
        return [*self._past, *self.talks]

    @property
    def faults(self) -> list[str]:
        return [fault for talk in self.all for fault in talk.faults]
