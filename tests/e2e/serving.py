"""The proxy as it is run: `bgproxy serve` in processes of its own, agents to stand behind it, and a hand on everything.

Ports are the kernel's choice and read from what the proxy says of itself. Whatever a test starts, `Town.close` ends,
by its pid, and says so if something had to be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from wire import Wire

ROOT = Path(__file__).parents[2]
BGPROXY = [sys.executable, "-m", "bgproxy"]
ANYWHERE = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
PATIENCE = 15.0  # seconds for anything to come true: generous, for machines that are busy
_LISTENING = re.compile(r"listening on (\S+), admin on (\S+), \d+ worker")
_numbers = itertools.count()
A = TypeVar("A", bound="Agent")


async def until(what: Callable[[], Any], why: str = "", patience: float = PATIENCE) -> Any:
    """Wait until `what` returns (or resolves to) something true; that."""
    deadline = time.monotonic() + patience
    while True:
        found = what()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"did not come true within {patience} s: {why or what}"
        await asyncio.sleep(0.01)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what would configure a proxy or a command behind the test's back."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BGPROXY_")} | dict(more or {})


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Agent:
    """An agent that says which release it is, in every way in which agents talk."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.port = 0
        self.held = 0  # requests that wait for `go`
        self.streams = 0
        self.asked = 0
        self.go = asyncio.Event()
        self._ticks: set[asyncio.Event] = set()  # one per open event stream
        self.closes: list[int | None] = []  # the codes with which WebSockets were closed
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> Agent:
        """Serve; on the same port as before if there was one."""
        app = web.Application()
        self.add_routes(app.router)
        app.router.add_get("/hold", self._hold)
        app.router.add_get("/events", self._events)
        app.router.add_get("/half", self._half)
        app.router.add_get("/socket", self._socket)
        app.router.add_route("*", "/{path:.*}", self._who)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """What an agent can do beyond this."""

    async def stop(self) -> None:
        """Be gone: nothing listens, no connection stands."""
        self.finish()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def say(self) -> None:
        """Every open event stream gets the next event."""
        for tick in self._ticks:
            tick.set()

    def finish(self) -> None:
        """What waits is answered, and every event stream ends."""
        self.go.set()
        self.say()

    async def _who(self, request: web.Request) -> web.Response:
        self.asked += 1
        await request.read()
        return web.Response(text=self.label)

    async def _hold(self, _: web.Request) -> web.Response:
        self.held += 1
        try:
            await self.go.wait()
        finally:
            self.held -= 1
        return web.Response(text=self.label)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Numbered events, one at each tick or every `every` seconds, until `count` of them or `go`."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count, every = int(request.query.get("count", 0)), float(request.query.get("every", 0))
        tick = asyncio.Event()
        self._ticks.add(tick)
        self.streams += 1
        try:
            for number in itertools.count(1):
                await response.write(f"id: {number}\ndata: {self.label}\n\n".encode())
                if number == count or self.go.is_set():
                    break
                if every:
                    await asyncio.sleep(every)
                else:
                    await tick.wait()
                    tick.clear()
            await response.write_eof()
        finally:
            self.streams -= 1
            self._ticks.discard(tick)
        return response

    async def _half(self, request: web.Request) -> web.StreamResponse:
        """The beginning of an event that never ends."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: ha")
        await self.go.wait()
        return response

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        line = web.WebSocketResponse()
        await line.prepare(request)
        async for message in line:
            await line.send_str(f"{self.label} {message.data}")
        self.closes.append(line.close_code)
        return line


class Serve:
    """One `bgproxy serve`. What it logs is in `log`."""

    def __init__(
        self, session: aiohttp.ClientSession, arguments: Sequence[str], env: Mapping[str, str], log: Path
    ) -> None:
        self.session = session
        self._log = log
        with log.open("wb") as written:
            self.process = subprocess.Popen(
                [*BGPROXY, "serve", *arguments],
                cwd=ROOT,
                env=environment(env),
                stdout=subprocess.DEVNULL,
                stderr=written,
                start_new_session=True,  # a group of its own, which a test may signal as a terminal would
            )
        self.address = ("", 0)
        self.admin = ""
        self.token = ""

    @property
    def log(self) -> str:
        """Everything that supervisor and workers have logged so far."""
        return self._log.read_text()

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def workers(self) -> list[int]:
        """The pids of its living workers."""
        pid = self.process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            return []
        return [int(child) for child in children if is_alive(int(child))]

    async def ready(self, workers: int = 1) -> Serve:
        """Wait until so many workers serve."""
        await until(lambda: self.process.poll() is not None or _LISTENING.search(self.log), "an address in the log")
        found = _LISTENING.search(self.log)
        assert found, f"it ended at once:\n{self.log}"
        host, _, port = found[1].rpartition(":")
        self.address = (host, int(port))
        self.admin = f"http://{found[2]}"
        await until(lambda: self._serving() >= workers, f"{workers} workers that serve")
        return self

    def _serving(self) -> int:
        assert self.process.poll() is None, f"it ended:\n{self.log}"
        return self.log.count(" serves fleet ")

    async def said(self, pattern: str) -> re.Match[str]:
        """Wait until something stands in the log."""
        return await until(lambda: re.search(pattern, self.log), f"{pattern!r} in the log")

    async def api(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        """One call of the admin API, on a connection of its own, so that any worker may answer it."""
        token = token or self.token
        fields = {"Connection": "close"} | ({"Authorization": f"Bearer {token}"} if token else {})
        async with self.session.request(method, self.admin + path, json=body, headers=fields) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type.endswith("json") else text

    async def status(self) -> dict[str, Any]:
        code, body = await self.api("GET", "/v1/status")
        assert code == 200, body
        return dict(body)

    async def flip(self, to: str, **terms: Any) -> dict[str, Any]:
        """A flip that must be done."""
        code, body = await self.api("POST", "/v1/flip", {"to": to, **terms})
        assert code == 200, body
        return dict(body)

    async def phase(self, color: str) -> str:
        return str((await self.status())["colors"][color]["phase"])

    async def has_ended(self, color: str) -> bool:
        """Whether a drain's deadline has passed there, and every node knows it."""
        code, body = await self.api("GET", f"/v1/colors/{color}/drain")
        assert code == 200, body
        status = await self.status()
        return bool(body["ended"]) and all(node["revision"] >= status["revision"] for node in status["nodes"])

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as they are written."""
        code, text = await self.api("GET", "/metrics")
        assert code == 200
        lines = (line for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def counted(self, family: str, **labels: str) -> float:
        """The sum of a family's samples that have these labels."""
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        samples = (await self.metrics()).items()
        return sum(v for n, v in samples if n.split("{")[0] == family and all(one in n for one in wanted))

    async def connect(self) -> Wire:
        """A raw client."""
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        return Wire(sock)

    async def ask(self, path: str = "/", *fields: str) -> tuple[int, str]:
        """One request on a connection of its own: any worker may get it."""
        wire = await self.connect()
        try:
            lines = [f"GET {path} HTTP/1.1", "Host: agents.test", "Connection: close", *fields]
            await wire.send("\r\n".join(lines).encode() + b"\r\n\r\n")
            answer = await wire.answer()
            return answer.status, answer.body.decode()
        finally:
            wire.close()

    async def all_say(self, label: str, times: int = 20) -> bool:
        """Whether so many requests on connections of their own were all answered by that release."""
        answers = await asyncio.gather(*(self.ask() for _ in range(times)))
        return set(answers) == {(200, label)}

    def signal(self, number: int, *, group: bool = False) -> None:
        """To the supervisor, or to every process of its group."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    async def ended(self, patience: float = PATIENCE) -> int:
        """Wait for its end; its exit status."""
        await until(lambda: self.process.poll() is not None, "the end of the proxy", patience)
        return self.process.returncode

    def close(self) -> None:
        """End it whatever it does; and what it started, should that have been left."""
        workers = self.workers
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(map(is_alive, workers)):  # what is killed may still write for a moment
            time.sleep(0.005)


class Town:
    """What a test builds its world with; all of it is gone at the end."""

    def __init__(self) -> None:
        self._agents: list[Agent] = []
        self._serves: list[Serve] = []
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        self._directory = tempfile.TemporaryDirectory(prefix="town-")
        self.fleet = f"town-{os.getpid()}-{next(_numbers)}"  # apart from every other test's on one Redis

    async def agent(self, label: str, kind: type[A] = Agent) -> A:
        agent = kind(label)
        await agent.start()
        self._agents.append(agent)
        return agent

    def start(self, *arguments: str, **env: str) -> Serve:
        """A serve that is not waited for."""
        places = () if {"--config", "--listen"} & {*arguments} else ANYWHERE
        log = Path(self._directory.name, f"serve-{len(self._serves)}.log")
        # One that is killed cannot tidy up after itself.
        serve = Serve(self.session, [*places, *arguments], {"TMPDIR": self._directory.name} | env, log)
        self._serves.append(serve)
        return serve

    async def serve(
        self, blue: Agent | None = None, green: Agent | None = None, *more: str, workers: int = 1, **env: str
    ) -> Serve:
        """A serve with these agents behind it, ready."""
        arguments = [*(("--blue", blue.url) if blue else ()), *(("--green", green.url) if green else ()), *more]
        if workers > 1:
            arguments += ["--workers", str(workers)]
        return await self.start(*arguments, **env).ready(workers)

    async def close(self) -> None:
        for serve in self._serves:
            serve.close()
        for agent in self._agents:
            await agent.stop()
        await self.session.close()
        self._directory.cleanup()


async def cli(*arguments: str, **env: str) -> tuple[int, str, str]:
    """One verb: its exit status, what it printed, what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *BGPROXY, *arguments, cwd=ROOT, env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
