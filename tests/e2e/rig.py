"""A world around one proxy in this process: scripted agents, raw clients, and a look at everything that may go wrong.

The proxy is the real data plane with its listener, on a port of the kernel's choice. At a test's end every count must
be zero again, no callback may have raised, and nothing may have been logged as an error.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from wire import PATIENCE, Ended, Message, Wire

from bgproxy.proxy.listener import Listener
from bgproxy.proxy.options import (
    Balance,
    Forwarding,
    HoldOptions,
    Limits,
    PoolOptions,
    PreviewOptions,
    ProxyOptions,
    RouteSessions,
    SessionOptions,
    Timeouts,
)
from bgproxy.proxy.plane import DataPlane
from bgproxy.proxy.pool import Upstream
from bgproxy.rules import by_hand, deadline, fleet
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.pin import OnRollback, Pin, Policy
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.route import Route, RouteTable
from bgproxy.sessions.spec import preset_named
from bgproxy.store.memory_pins import MemoryPins
from bgproxy.store.pinning import Learned, Resolved, Turn, Want
from bgproxy.store.pins import PinCache
from bgproxy.telemetry.access import AccessLog, AccessLogOptions
from bgproxy.telemetry.metrics import Metrics, Slot

Handler = Callable[[Wire], Awaitable[None]]


async def until(condition: Callable[[], Any], what: str = "", patience: float = PATIENCE) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what or condition}"
        await asyncio.sleep(0.002)


def ok(body: bytes = b"", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a body of known length."""
    head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def get(target: str = "/", *fields: str, method: str = "GET", version: str = "1.1", host: str = "agents.test") -> bytes:
    """A request without a body."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(body: bytes, *fields: str, target: str = "/", method: str = "POST") -> bytes:
    """A request with a body of known length."""
    return get(target, f"Content-Length: {len(body)}", *fields, method=method) + body


class Agent:
    """A server whose every connection is played by a handler; it counts what it sees."""

    def __init__(
        self, handler: Handler, *, path: str = "", rcvbuf: int = 0, sndbuf: int = 0, address: str = "127.0.0.1:0"
    ) -> None:
        host, _, port = address.rpartition(":")
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.socket(family)
        if rcvbuf:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if sndbuf:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(path or (host.strip("[]"), int(port)))
        self._listening.listen(1024)
        self._listening.setblocking(False)
        self.port = 0 if path else self._listening.getsockname()[1]
        self.url = f"unix:{path}" if path else f"http://{host}:{self.port}"
        self.handler = handler
        self.wires: list[Wire] = []
        self.faults: list[BaseException] = []
        self._tasks: list[asyncio.Task[None]] = [asyncio.create_task(self._accept())]

    @property
    def received(self) -> int:
        """Bytes of all connections."""
        return sum(wire.received for wire in self.wires)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listening)
            wire = Wire(sock)
            self.wires.append(wire)
            self._tasks.append(asyncio.create_task(self._play(wire)))

    async def _play(self, wire: Wire) -> None:
        try:
            await self.handler(wire)
        except (Ended, ConnectionError):
            pass  # the proxy was done with it; a test that cares looks itself
        except Exception as error:
            self.faults.append(error)
        finally:
            wire.close()

    async def close(self) -> None:
        """Stop listening, and end what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listening.close()


class Serving:
    """A handler that answers every request of a connection; it keeps the requests it has seen."""

    def __init__(self, reply: bytes | Callable[[Message], bytes] = b"") -> None:
        self.reply = reply or ok(b"hello")
        self.seen: list[Message] = []

    async def __call__(self, wire: Wire) -> None:
        while True:
            request = await wire.asked()
            self.seen.append(request)
            await wire.send(self.reply(request) if callable(self.reply) else self.reply)


class Once:
    """A handler that says something at the first head it sees, then keeps the connection until it is ended."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply

    async def __call__(self, wire: Wire) -> None:
        await wire.head()
        await wire.send(self.reply)
        await wire.gone()


class Script:
    """A handler whose connection a test plays by hand: `wire = await script.next()`."""

    def __init__(self) -> None:
        self._wires: asyncio.Queue[Wire] = asyncio.Queue()
        self._over = asyncio.Event()

    async def __call__(self, wire: Wire) -> None:
        self._wires.put_nowait(wire)
        await self._over.wait()

    async def next(self) -> Wire:
        """The next connection that the proxy opens."""
        async with asyncio.timeout(PATIENCE):
            return await self._wires.get()


class GatedPins(MemoryPins):
    """Pins whose store answers only while its gate is open."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(lambda: rig.known.state, lambda: ["node"])
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0

    async def resolve(self, wants: Sequence[Want]) -> list[Resolved]:
        self.asked += 1
        await self.open.wait()
        return await super().resolve(wants)

    async def migrate(self, node: str, turns: Sequence[Turn]) -> list[Pin | None]:
        """What the store says stands when it is asked, and is heard when the gate opens."""
        self.asked += 1
        answer = await super().migrate(node, turns)
        await self.open.wait()
        return answer

    async def learn(self, learned: Sequence[Learned]) -> list[Resolved]:
        self.asked += 1
        await self.open.wait()
        return await super().learn(learned)


class Known:
    """What the pins' cache is told of the store."""

    state: fleet.FleetState | None = None
    connected = True
    fenced = held_early = False


class Proxy:
    """The data plane under test, its pointer, and what is in it."""

    def __init__(self, plane: DataPlane, listener: Listener, address: Any, family: socket.AddressFamily) -> None:
        self.plane = plane
        self.metrics = plane.metrics
        self.address = address
        self.listener = listener
        self._family = family
        self.clients: list[Wire] = []
        self.known = Known()
        self._upstreams: list[Upstream] = []

    @property
    def port(self) -> int:
        return int(self.address[1])

    def apply(self, state: fleet.FleetState) -> None:
        self.known.state = state
        self.plane.apply(state)
        self._upstreams += [u for u in self.plane.upstreams() if u not in self._upstreams]

    async def reads_no_more(self) -> None:
        """Wait until a client is held back: what it sent before is not taken yet."""
        await until(lambda: any(not c.reading for c in self.plane.connections), "reading is paused")

    def flip(self, to: str) -> None:
        """Move the pointer."""
        assert self.plane.state is not None
        change = fleet.flip(self.plane.state, to, actor="test", reason="", at=time.time(), force=True)
        assert change is not None
        self.apply(change.state)

    def roll_back(self) -> None:
        """Move the pointer back, away from a release that is bad."""
        assert self.plane.state is not None
        change = fleet.rollback(self.plane.state, actor="test", reason="", at=time.time(), force=True)
        self.apply(change.state)

    def order(self, pin: Pin, to: str) -> None:
        """By hand: a session is to live elsewhere."""
        assert self.plane.state is not None
        change = by_hand.move_session(self.plane.state, pin, to, actor="test", reason="")
        assert change is not None
        self.apply(change.state)

    def stage(self, color: str, label: str, *agents: Agent) -> None:
        """Put another release on a color."""
        assert self.plane.state is not None
        release = Release(label, tuple(agent.url for agent in agents))
        state = fleet.stage(self.plane.state, color, release, actor="test", reason="", at=time.time(), force=True)
        assert state is not None
        self.apply(state.state)

    def end_sessions(self, color: str) -> None:
        """A drain's deadline has passed: what lives on a color is over."""
        assert self.plane.state is not None
        terms: dict[str, Any] = {"actor": "test", "reason": ""}
        due = deadline.set_deadline(self.plane.state, color, 0.0, at=1.0, **terms)
        assert due is not None
        label = due.state.releases[color].label
        ended = deadline.end_sessions(due.state, color, label, at=time.time(), evidence={}, **terms)
        assert ended is not None
        self.apply(ended.state)

    async def connect(self, rcvbuf: int = 0) -> Wire:
        """A new client."""
        sock = socket.socket(self._family)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        wire = Wire(sock)
        self.clients.append(wire)
        return wire

    async def ask(self, request: bytes, method: bytes = b"GET") -> Message:
        """One request on a connection of its own."""
        client = await self.connect()
        await client.send(request)
        message = await client.answer(method)
        client.close()
        return message

    def upstream(self, color: str = "blue") -> Upstream:
        """The one upstream of a color."""
        (upstream,) = self.plane.upstreams(color)
        return upstream

    def slot(self, color: str = "blue", release: str = "v1", route: str = "default") -> Slot:
        return self.metrics.slot(route, color, release)

    def counts(self) -> dict[str, int]:
        """What must be zero when nobody is there; named, so that a failure says what leaks."""
        series = self.metrics.snapshot()["series"]
        found = {f"{name} {s['color']}": s[name] for s in series for name in ("in_flight", "streams", "websockets")}
        for upstream in self._upstreams:
            at = f"{upstream.color} {upstream.url}"
            found[f"upstream in_flight {at}"] = upstream.in_flight
            found[f"opening {at}"] = upstream.opening
            found[f"waiting {at}"] = len(upstream.waiting)
            found[f"open but not idle {at}"] = upstream.open - len(upstream.idle)
        found["connections"] = self.metrics.connections
        found["clients arriving"] = len(self.plane.arriving)
        found["client connections held"] = len(self.plane.connections)
        found["turns of sessions"] = len(self.plane.busy)
        found["tunnels held"] = len(self.plane.tunnels)
        return {name: count for name, count in found.items() if count}

    async def close(self) -> None:
        """Take every client away and see that nothing is left of them. A FIN would be half a close for a tunnel."""
        for client in self.clients:
            with suppress(OSError):
                client.reset()
        try:
            await until(lambda: not self.counts(), patience=3.0)
        except AssertionError:
            raise AssertionError(f"left behind: {self.counts()}") from None
        finally:
            self.listener.stop()
            await self.plane.stop()
        await until(lambda: not any(upstream.open for upstream in self._upstreams), "idle connections closed")


class Rig:
    """What a test builds its world with; all of it is closed at the end."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.agents: list[Agent] = []
        self.known = Known()
        self._proxies: list[Proxy] = []
        self._watch = _Watch(self.errors)
        logging.getLogger().addHandler(self._watch)
        asyncio.get_running_loop().set_exception_handler(self._callback_failed)

    def _callback_failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"the loop: {context.get('message')}: {context.get('exception')!r}")

    def agent(self, handler: Handler, **options: Any) -> Agent:
        """A scripted agent."""
        agent = Agent(handler, **options)
        self.agents.append(agent)
        return agent

    async def proxy(self, *blue: Agent | str, green: tuple[Agent | str, ...] = (), **options: Any) -> Proxy:
        """A proxy whose active color is blue; options by the names of the data path's own."""
        releases = {"blue": Release("v1", _urls(blue), routes=options.pop("routes_of_blue", {}))}
        if green:
            routes_of_green = options.pop("routes_of_green", {})
            releases["green"] = Release("v2", _urls(green), routes=routes_of_green, phase=Phase.READY)
        health = HealthOptions(**options.pop("health", {}))
        routes = RouteTable(options.pop("routes", (Route("default"),)))
        listening = options.pop("listening", None) or socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.known = Known()
        self.pins = GatedPins(self)
        cache = PinCache(self.pins, self.known, "node") if "sessions" in options else None
        plane = DataPlane(_options(**options), routes, health, Metrics(), AccessLog(AccessLogOptions()), cache)
        proxy = Proxy(plane, Listener(plane, listening), listening.getsockname(), listening.family)
        proxy.known = self.known
        self._proxies.append(proxy)
        await plane.start()
        proxy.apply(fleet.bootstrap(("blue", "green"), "blue", releases, "test", time.time()).state)
        proxy.listener.start()
        return proxy

    async def asked(self, *request: bytes, **options: Any) -> tuple[Proxy, Script, Wire, Wire]:
        """A proxy before one agent that the test plays, and a client whose request's head has just reached it: the
        proxy, the agent's further connections, and the wires to the client and to the agent."""
        script = Script()
        proxy = await self.proxy(self.agent(script), **options)
        client = await proxy.connect()
        await client.send(*request)
        agent = await script.next()
        await agent.head()
        return proxy, script, client, agent

    async def close(self) -> None:
        """End everything; whatever went wrong unseen fails the test here."""
        try:
            for proxy in self._proxies:
                await proxy.close()
        finally:
            for agent in self.agents:
                await agent.close()
            logging.getLogger().removeHandler(self._watch)
        faults = [fault for agent in self.agents for fault in agent.faults]
        assert not faults, f"an agent's script failed: {faults}"
        assert not self.errors, "\n".join(self.errors)


class _Watch(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(f"logged: {self.format(record)}")


def _urls(agents: tuple[Agent | str, ...]) -> tuple[str, ...]:
    return tuple(agent if isinstance(agent, str) else agent.url for agent in agents)


def _options(**options: Any) -> ProxyOptions:
    return ProxyOptions(
        timeouts=Timeouts(**options.pop("timeouts", {})),
        limits=Limits(**options.pop("limits", {})),
        pool=PoolOptions(**options.pop("pool", {})),
        forwarding=Forwarding(**options.pop("forwarding", {})),
        balance=Balance(**options.pop("balance", {})),
        sessions=_sessions(options.pop("sessions", ()), **options.pop("session_options", {})),
        hold=HoldOptions(**options.pop("hold", {})),
        preview=options.pop("preview", PreviewOptions()),
    )


def _sessions(presets: Sequence[str], **options: Any) -> SessionOptions:
    """Sessions on the one route; options by the names of the route's or of all routes'."""
    common = {name: options.pop(name) for name in ("inspect_bytes", "pin_write_timeout") if name in options}
    for name, kind in (("policy", Policy), ("on_rollback", OnRollback)):
        if name in options:
            options[name] = kind(options[name])
    own = RouteSessions(tuple(preset_named(text) for text in presets), **options)
    return SessionOptions({"default": own}, **common)
