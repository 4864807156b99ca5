"""The demo's agent as v1, as v2, and as a v2 for each way in which that can be bad: a port each, all in one process.

    python -m bench.releases.misbehave [--noise 0.02]     # prints one line of JSON: the address of each, by its name

With noise each turn of each agent takes that many seconds more in the median, log-normally, and one of a hundred ten
times as long. `GET /misbehaviour` on a port tells how often that agent was asked for a turn, how often it misbehaved,
and when first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.applications import Starlette

from bgproxy.cli.demo.agent import Reply, build, tools

HOST: Final = "127.0.0.1"
TURN: Final = "/v1/chat/completions"
TOLD: Final = "/misbehaviour"
LAG: Final = 0.4  # seconds by which a slow agent is late
LEAK: Final = 50  # of so many turns one is an error
AGENTS: Final = {
    "v1": "the old release",
    "good": "a new one without a fault",
    "crash": "its process is gone: nothing listens",
    "tool": "the tool ask fails",
    "gone": "the tool work is not there any more",
    "schema": "the tool ask requires more than it did",
    "slow": f"each turn takes {LAG:g} s longer",
    "errors": f"one turn of {LEAK} is answered with 500",
    "hang": "streams stop after their first event, and stay open",
    "break": "streams are broken off after their first event",
    "sockets": "WebSockets are refused",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Misbehaving:
    """An agent with a fault. Times are unix seconds, as on the proxy's record."""

    def __init__(self, fault: str, agent: Starlette, noise: float) -> None:
        self._fault = fault
        self._agent = agent
        self._noise = noise
        self._turns = self._bad = 0
        self._first: float | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and self._fault == "sockets":
            self._note()
            await receive()
            return await send({"type": "websocket.close"})  # before it is accepted: 403
        if scope["path"] == TOLD:
            told = {"turns": self._turns, "bad": self._bad, "first": self._first}
            return await _answer(send, 200, told)
        if scope["path"] == TURN:
            return await self._turn(scope, receive, send)
        return await self._agent(scope, receive, send)

    async def _turn(self, scope: Message, receive: Receive, send: Send) -> None:
        self._turns += 1
        leaks = self._fault == "errors" and self._turns % LEAK == 0
        if self._noise:
            await asyncio.sleep(noisy(self._noise))
        if leaks:
            self._note()
            return await _answer(send, 500, {"error": {"message": "out of memory", "type": "server_error"}})
        if self._fault == "slow":
            self._note()
            await asyncio.sleep(LAG)
        if self._fault in ("hang", "break"):
            send = self._stopping(send)
        return await self._agent(scope, receive, send)

    def _stopping(self, send: Send) -> Send:
        """Passes the first event of a stream, and then no more."""
        streams = passed = False

        async def stop(message: Message) -> None:
            nonlocal streams, passed
            if message["type"] == "http.response.start":
                streams = (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]
            elif streams and passed:
                self._note()
                if self._fault == "hang":
                    await asyncio.Event().wait()
                raise ConnectionAbortedError("as it is meant to")
            elif streams:
                passed = True
            await send(message)

        return stop

    def _note(self) -> None:
        self._bad += 1
        self._first = self._first or time.time()


def noisy(median: float) -> float:
    """How long a turn takes, in seconds: many about the median, few much longer, as of agents that think."""
    return random.lognormvariate(0.0, 0.6) * median * (10.0 if random.random() < 0.01 else 1.0)


async def _answer(send: Send, status: int, document: object) -> None:
    fields = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


def server(fault: str, release: str) -> MCPServer[None]:
    """The demo's tools, or what a fault makes of them."""
    if fault not in ("tool", "gone", "schema"):
        return tools(release)
    made: MCPServer[None] = MCPServer("demo-agent", version=release, log_level="CRITICAL")

    async def ask(tag: str) -> Reply:
        if fault == "tool":
            raise ToolError("the index is empty")
        return Reply(release=release, tag=tag, steps=1)

    async def ask_in_a_tone(tag: str, tone: str) -> Reply:
        return Reply(release=release, tag=f"{tag} {tone}", steps=1)

    async def work(tag: str, steps: int, every_ms: int) -> Reply:
        return Reply(release=release, tag=tag, steps=steps)

    made.add_tool(ask_in_a_tone if fault == "schema" else ask, name="ask")
    if fault != "gone":
        made.add_tool(work, name="work")
    return made


class Ports:
    """One ASGI app for many ports: each has its agent."""

    def __init__(self, agents: dict[int, tuple[Misbehaving, Starlette]]) -> None:
        self._agents = agents
        self._living = Starlette(lifespan=self._live)

    @contextlib.asynccontextmanager
    async def _live(self, _: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for _, agent in self._agents.values():
                await stack.enter_async_context(agent.router.lifespan_context(agent))
            yield

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._living(scope, receive, send)
        return await self._agents[scope["server"][1]][0](scope, receive, send)


class _Server(uvicorn.Server):
    """Says where its agents are once they take connections."""

    told = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.told, flush=True)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m bench.releases.misbehave", description="Agents that misbehave.")
    parser.add_argument("--noise", type=float, default=0.0, metavar="S", help="how long a turn takes in the median")
    noise = parser.parse_args().noise
    bound = {name: socket.socket() for name in AGENTS}
    for one in bound.values():
        one.bind((HOST, 0))
    urls = {name: f"http://{HOST}:{one.getsockname()[1]}" for name, one in bound.items()}
    gone = bound.pop("crash")  # never listens, so that whoever connects is refused
    agents = {}
    for name, one in bound.items():
        release = "v1" if name == "v1" else "v2"
        agent = build(release, HOST, server(name, release))
        agents[one.getsockname()[1]] = Misbehaving(name, agent, noise), agent
    config = uvicorn.Config(Ports(agents), log_level="critical", timeout_graceful_shutdown=1)
    serving = _Server(config)
    serving.told = json.dumps(urls)
    with contextlib.closing(gone):
        serving.run(sockets=[*bound.values()])


if __name__ == "__main__":
    main()
