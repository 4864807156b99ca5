"""The connections to one upstream: kept for the next request, opened up to a limit, waited for in a queue.

A request that finds a free connection gets it in the same callback. Otherwise it joins the queue, and whichever comes
first, a connection given back or a new one opened, serves the head of the queue. Nothing is sent before a connection
stands, so a request whose connection fails to open may go to another upstream, whatever its method (RFC 9110 §9.2.2).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bgproxy.proxy.options import PoolOptions
from bgproxy.proxy.upstream import UpstreamConnection
from bgproxy.rules.health import OUR_FAULT, Health
from bgproxy.tasks import spawn

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange

WARM_PAUSE = 2.0  # seconds before an agent that refused to be kept warm is tried again

log = logging.getLogger(__name__)


class Upstream:
    """One agent address of one color: its connections, its queue, its health, its load."""

    def __init__(
        self, color: str, url: str, health: Health, options: PoolOptions, connect_timeout: float, high_water: int
    ) -> None:
        self.color = color
        self.url = url
        self.health = health
        self.high_water = high_water
        self.in_flight = 0
        self.failures = 0
        self.failing = False  # since it was last answered by
        self.idle: list[UpstreamConnection] = []
        self.waiting: deque[Exchange] = deque()
        self.open = 0  # connections that stand, busy or idle
        self.opening = 0
        self.retired = False  # no routing names it any more: it finishes what it has
        self._options = options
        self._max_idle = options.max_idle
        self._connect_timeout = connect_timeout
        parts = urlsplit(url)
        self.path = parts.path if parts.scheme == "unix" else ""
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.addresses: tuple[str, ...] = (self.host,)  # what the name stands for now (proxy/resolve.py)
        self._turn = 0
        self._warming = False
        self._warm_after = 0.0
        self.on_connect_failure: Callable[[Upstream], None] = _nothing

    def __repr__(self) -> str:
        return (
            f"<Upstream {self.color} {self.url} in_flight={self.in_flight} open={self.open} idle={len(self.idle)} "
            f"opening={self.opening} waiting={len(self.waiting)}>"
        )

    def configure(self, options: PoolOptions, connect_timeout: float, high_water: int) -> None:
        """Take new options, for what happens from now on."""
        self._options = options
        self._max_idle = options.max_idle
        self._connect_timeout = connect_timeout
        self.high_water = high_water

    @property
    def authority(self) -> bytes:
        """What stands in Host for a client that sent none (HTTP/1.0)."""
        if self.path:
            return b"localhost"
        return (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}").encode()

    def take(self, now: float) -> UpstreamConnection | None:
        """A connection that rests here, the one used last first: the others may then expire."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.usable(now):
                return connection
            connection.close()
        return None

    def wait(self, exchange: Exchange) -> None:
        """Queue for a connection; the exchange hears of it by `connected` or `unconnected`.

        One that is `fresh` takes only a connection that has carried nothing yet (RFC 9112 §9.3.1).
        """
        self.waiting.append(exchange)
        self._open_for_waiting()

    def full(self) -> bool:
        """Whether no more requests may wait here."""
        return len(self.waiting) >= self._options.max_waiting

    def leave(self, exchange: Exchange) -> None:
        """The exchange does not wait any more (its client is gone, or its time is up)."""
        if exchange in self.waiting:
            self.waiting.remove(exchange)

    def release(self, connection: UpstreamConnection, now: float) -> None:
        """A connection that may serve again is given back."""
        connection.exchange = None
        connection.reused = True
        connection.resume_reading()
        if connection.address not in self.addresses or self.retired:
            connection.close()
        elif self.waiting and self.waiting[0].fresh:
            connection.close()  # who has waited longest needs a new one: this makes room for it
        elif self.waiting:
            self.waiting.popleft().connected(connection, now)
        elif len(self.idle) < self._max_idle:
            connection.idle_since = now
            self.idle.append(connection)
        else:
            connection.close()

    def answered(self) -> None:
        """A request was answered: the row of failures is broken, if there was one."""
        if self.failing:
            self.failing = False
            self.health.request_done()

    def failed(self, reason: str) -> None:
        """A live request has met a refused, broken or timed-out connection."""
        self.failures += 1
        self.failing = True
        self.health.request_failed(monotonic(), reason)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection has ended; its place is free for one that waits."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        self._open_for_waiting()

    def forget_other_addresses(self) -> None:
        """The name stands for other addresses now: idle connections to the old ones close, busy ones finish first."""
        for connection in [c for c in self.idle if c.address not in self.addresses]:
            self.idle.remove(connection)
            connection.close()

    def expire(self, now: float) -> None:
        """Close what has rested longer than `idle_timeout`, or what nobody will ask for again."""
        limit = now - self._options.idle_timeout
        for connection in [c for c in self.idle if self.retired or c.idle_since < limit]:
            self.idle.remove(connection)
            connection.close()

    async def warm(self, count: int) -> str:
        """Open connections ahead of a flip, as far as `max_connections` lets; why that failed, or nothing."""
        missing = min(count, self._options.max_idle) - len(self.idle)
        for _ in range(missing):
            if self.open + self.opening >= self._options.max_connections:
                break
            self.opening += 1
            try:
                self._give(await self._connect())
            except (OSError, TimeoutError) as error:
                return describe(error, self._connect_timeout)
            finally:
                self.opening -= 1
                self._open_for_waiting()  # who has come to wait meanwhile has counted on this one
        return ""

    def is_warm(self, now: float) -> bool:
        """Whether a connection rests here that the agent holds open too."""
        return any(connection.usable(now) for connection in self.idle)

    def keep_warm(self, now: float) -> None:
        """Keep `warm_connections` resting here while no request uses them; one that is away is tried now and then."""
        if len(self.idle) < self._options.warm_connections and not self._warming and now >= self._warm_after:
            self._warming = True
            spawn(self._warm_again(), f"warm {self.url}")

    async def _warm_again(self) -> None:
        try:
            if await self.warm(self._options.warm_connections):
                self._warm_after = monotonic() + WARM_PAUSE
        finally:
            self._warming = False

    def report(self, now: float) -> dict[str, Any]:
        """For status and metrics."""
        return {
            "color": self.color,
            "url": self.url,
            "healthy": self.health.usable(now),
            "reason": self.health.reason,
            "in_flight": self.in_flight,
            "open": self.open,
            "idle": len(self.idle),
            "failures": self.failures,
        }

    def _open_for_waiting(self) -> None:
        """As many connections in the making as requests wait, within the limits."""
        options = self._options
        while (
            len(self.waiting) > self.opening
            and self.opening < options.max_opening
            and self.open + self.opening < options.max_connections
        ):
            self.opening += 1
            spawn(self._open_one(), f"connect {self.url}")

    async def _open_one(self) -> None:
        try:
            connection = await self._connect()
        except (OSError, TimeoutError) as error:
            self.opening -= 1
            self._failed(error)
        else:
            self.opening -= 1
            self._give(connection)
        self._open_for_waiting()

    def _give(self, connection: UpstreamConnection) -> None:
        """A new connection, for who has waited longest."""
        if self.waiting:
            self.waiting.popleft().connected(connection, monotonic())
        else:
            connection.idle_since = monotonic()
            self.idle.append(connection)

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        connection = UpstreamConnection(self)
        # The loop's stubs ask for a base class that the data path does without.
        protocol: Callable[[], Any] = lambda: connection  # noqa: E731
        async with asyncio.timeout(self._connect_timeout or None):
            if self.path:
                await loop.create_unix_connection(protocol, self.path)
                connection.address = self.host
            else:
                await self._connect_to_one(loop, connection, protocol)
        self.open += 1
        if connection.closed:
            raise ConnectionResetError(errno.ECONNRESET, "closed at once")
        return connection

    async def _connect_to_one(
        self, loop: asyncio.AbstractEventLoop, connection: UpstreamConnection, protocol: Callable[[], Any]
    ) -> None:
        """The addresses of the name in turn; one that refuses leaves it to the next."""
        for left in reversed(range(len(self.addresses))):
            address = connection.address = self.addresses[self._turn % len(self.addresses)]
            self._turn += 1
            try:
                await loop.create_connection(protocol, address, self.port)
                return
            except OSError:
                if not left:
                    raise

    def _failed(self, error: OSError | TimeoutError) -> None:
        ours = isinstance(error, OSError) and error.errno in OUR_FAULT
        reason = describe(error, self._connect_timeout)
        if not ours:
            self.failed(reason)
            self.on_connect_failure(self)
        log.debug("%s: %s", self.url, reason)
        if self.waiting:
            code = "out_of_descriptors" if ours else "agent_unreachable"
            if isinstance(error, TimeoutError):
                code = "connect_timeout"
            self.waiting.popleft().unconnected(code, f"{self.url}: {reason}")


def describe(error: OSError | TimeoutError, timeout: float) -> str:
    """A failed connect in words, without the library's own."""
    if isinstance(error, TimeoutError):
        return f"no connection within {timeout:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or str(error)).lower()


def _nothing(_: Upstream) -> None:
    """Nobody listens."""
