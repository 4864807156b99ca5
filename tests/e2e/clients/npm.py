"""Conversations by the npm clients of MCP: one node process that is told what to do by lines of JSON (`npm/mcp.mjs`).

Nothing here installs the packages, as that needs the network: `npm install --prefix tests/e2e/npm` does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from clients.talk import Said, Turn

_HERE = Path(__file__).parents[1] / "npm"
_END_TIMEOUT = 5.0  # seconds from the end of its input to its own


def missing() -> str:
    """Why the client cannot be had here; "" where it can."""
    if shutil.which("node") is None:
        return "node is not installed"
    for package in ("sdk", "client"):
        if not (_HERE / "node_modules" / "@modelcontextprotocol" / package).is_dir():
            return f"@modelcontextprotocol/{package} is not installed: npm install --prefix tests/e2e/npm"
    return ""


class Node:
    """The process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    async def ask(self, verb: str, talk: int, **order: Any) -> dict[str, Any]:
        """What the client says to that; raises RuntimeError with its error's text."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "do": verb, "talk": talk, **order})
        self._process.stdin.write(f"{line}\n".encode())
        said = await answer
        if "error" in said:
            raise RuntimeError(said["error"])
        return said

    def way(self, name: str) -> Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[Turn]]:
        """One of the ways to talk that the process has."""

        @asynccontextmanager
        async def talking(url: str, _: Mapping[str, str]) -> AsyncIterator[Turn]:
            # What a connection is for is not for scripts to say (Fetch Standard, forbidden request-headers).
            talk = next(self._numbers)
            await self.ask("begin", talk, way=name, url=url)

            async def turn(number: int) -> Said:
                return dict((await self.ask("turn", talk, number=number))["said"])

            yield turn
            await self.ask("close", talk)

        return talking

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            waiting = self._waiting.pop(said["id"])
            if not waiting.done():
                waiting.set_result(said)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(RuntimeError("node has ended"))

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_TIMEOUT)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._reader


async def start() -> Node:
    command = ["node", str(_HERE / "mcp.mjs")]
    pipe = asyncio.subprocess.PIPE
    return Node(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))
