"""The data path of one worker: the routing table of the moment, the upstreams, and every open connection.

`apply` is how a flip reaches the traffic: it builds a new table and puts it in place by one assignment. Nothing that is
under way is touched by that. A sweep twice a second looks at deadlines; no request has a timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from bgproxy.errors import StoreUnavailable
from bgproxy.http1.parser import Parser
from bgproxy.proxy.ending import SHUTDOWN, Endings, end_exchange, end_tunnel
from bgproxy.proxy.forwarding import Forwarder
from bgproxy.proxy.hold import Hold, hold_by, wait_at, waits_only
from bgproxy.proxy.options import ProxyOptions
from bgproxy.proxy.pool import Upstream
from bgproxy.proxy.resolve import Resolver
from bgproxy.proxy.routing import Group, Routing
from bgproxy.proxy.session_rules import SessionRules
from bgproxy.proxy.warming import warm_up
from bgproxy.rules.canary import canary
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.health import Health, HealthOptions
from bgproxy.rules.plan import Match
from bgproxy.rules.route import RouteTable
from bgproxy.store.pins import PinCache
from bgproxy.tasks import spawn, stop
from bgproxy.telemetry.access import AccessLog
from bgproxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from bgproxy.proxy.client import ClientConnection
    from bgproxy.proxy.exchange import Exchange
    from bgproxy.proxy.tap import Tap
    from bgproxy.proxy.tunnel import Tunnel

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.25  # seconds: how late a timeout may come, and how soon a gone client is noticed
IDLE_GRACE = 0.5  # seconds that idle clients have for a last request once a shutdown has begun
LONGEST_IDLE = 75.0  # seconds that an idle client holds the end of an upgrade up where `keepalive_timeout` is off
TOUCH_INTERVAL = 0.75  # seconds between two looks at which sessions are in use; config.sessions.LEAST_TTL hangs on it
ENDING_GRACE = 1.0  # seconds in which streams may reach the end of an event, once the deadline has passed

_HEX: Final = [b"%02x" % number for number in range(256)]


class DataPlane:
    """See the module."""

    def __init__(
        self,
        options: ProxyOptions,
        routes: RouteTable,
        health: HealthOptions,
        metrics: Metrics,
        access: AccessLog,
        pins: PinCache | None = None,
    ) -> None:
        """`pins`: where sessions live; without, none is known and all requests go to the active color."""
        self.routing: Routing | None = None
        self.draining = False
        self.arriving: set[ClientConnection] = set()  # accepted, and about to be among the connections
        self.connections: set[ClientConnection] = set()
        self.tunnels: set[Tunnel] = set()
        self.metrics = metrics
        self.access = access
        self.routes = routes
        self.state: FleetState | None = None
        self.fenced: Callable[[], bool] | None = None  # whether nothing new is admitted: what is known may be too old
        self.hold: Hold | None = None  # where new admissions wait now
        self.tap: Tap | None = None  # copies what passes; None: nobody looks
        self.listed: tuple[Match, ...] = ()  # whose new sessions begin on the canary's color
        self.pins = pins
        self.busy: dict[bytes, int] = {}  # turns under way by their session's pin
        self.attended: dict[bytes, int] = {}  # streams on which clients only listen, by their session's pin: no turns
        self.unpinned_by: dict[str, int] = {}  # bodies that may hold a key and were not read, by reason
        self.ignored = 0  # values that stood where a key stands, and can be none
        self.counted = {"preview": 0, "preview_wrong_token": 0}  # requests that asked to begin elsewhere
        # How many turns were broken off, and the epoch by which traffic had left their release; 0: the one that stands.
        self.cut: Callable[[int, int], None] = _nobody
        self.refresh: Callable[[], Awaitable[object]] = _nothing  # applies what the store holds
        self._behind: list[Callable[[], None]] = []  # who waits for that
        self._catching: asyncio.Task[None] | None = None
        self._endings = Endings(self)
        self._touched = 0.0
        self._upstreams: dict[tuple[str, str], Upstream] = {}
        self._retired: list[Upstream] = []
        self._resolver = Resolver(options.pool.dns_interval)
        self._sweeper: asyncio.Task[None] | None = None
        self.date = b""  # the value of a Date field (RFC 9110 §5.6.7), made anew by each sweep
        self._ids = os.urandom(10).hex().encode()
        self._requests = 0
        self._id_start = b"%b%010x" % (self._ids, 0)
        self.configure(options, health)

    def configure(self, options: ProxyOptions, health: HealthOptions) -> None:
        """Take new options: for connections made from now on, and for every next request.

        Raises ConfigError, with nothing changed, for trusted proxies that are no networks.
        """
        self.forwarding = Forwarder(options.forwarding)
        self.options = options
        self._health = health
        self.limits = options.limits
        self.timeouts = options.timeouts
        # Those that each request needs once more, where compiled code finds them at once.
        self.max_head_bytes = options.limits.max_head_bytes
        self.max_body_bytes = options.limits.max_body_bytes
        self.replay_bytes = options.limits.replay_bytes
        self.keepalive_timeout = options.timeouts.keepalive_timeout
        self.body_timeout = options.timeouts.client_body_timeout
        self.answer_timeout = options.timeouts.response_head_timeout
        self.debug_header = options.forwarding.debug_header
        self.forward_trailers = options.forwarding.trailers == "forward"
        sessions = options.sessions
        self._sessions = (
            {route: SessionRules(route, own, sessions) for route, own in sessions.routes.items() if own.presets}
            if self.pins is not None
            else {}
        )
        self.parser = Parser(
            options.limits.max_fields,
            options.limits.max_target_bytes,
            options.forwarding.underscores,
            options.forwarding.trace_method,
            frozenset().union(*(rules.request_fields for rules in self._sessions.values())),
            frozenset().union(*(rules.response_fields for rules in self._sessions.values())),
        )
        self._resolver.interval = options.pool.dns_interval
        for upstream in self._upstreams.values():
            upstream.configure(options.pool, options.timeouts.connect_timeout, options.limits.high_water_bytes)
            upstream.health.configure(health)

    # The life of the plane

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._sweep_once()
        self._sweeper = spawn(self._sweep(), "sweep connections")
        self._resolver.start()

    async def stop(self) -> None:
        """End what is left, at once."""
        await stop(self._sweeper)
        await stop(self._catching)
        await self._resolver.stop()
        for tunnel in list(self.tunnels):
            tunnel.abort()
        for client in list(self.connections):
            client.abort()
        for upstream in self._all_upstreams():
            upstream.retired = True
            upstream.expire(float("inf"))

    async def drain(self, grace: float) -> bool:
        """Finish what is in flight, streams included, within `grace` seconds; whether all of it finished.

        The caller has stopped accepting. Idle clients have a moment for a request that is already on its way; then
        they are closed, and the others after their answer.
        """
        self.draining = True
        deadline = monotonic() + grace
        if self.connections or self.tunnels or self.arriving:
            await asyncio.sleep(min(IDLE_GRACE, grace))
        while monotonic() < deadline and (self.connections or self.tunnels):
            for client in list(self.connections):
                client.close_if_idle()
            await asyncio.sleep(0.02)
        return not self.connections and not self.tunnels

    async def finish(self) -> None:
        """Finish what is in flight, for as long as that takes, while others serve whoever comes.

        The caller has stopped accepting. No client is closed between two requests: its next one is answered, and that
        answer tells it to connect anew. Whoever sends none is closed when it has been idle for as long as ever.
        """
        self.draining = True
        patience = monotonic() + LONGEST_IDLE
        while self.connections or self.tunnels or self.arriving:
            await asyncio.sleep(SWEEP_INTERVAL)
            if not self.timeouts.keepalive_timeout and monotonic() > patience:
                for client in list(self.connections):
                    client.close_if_idle()

    async def end_politely(self) -> None:
        """The time is up: WebSockets get a close frame, event streams end between two events, and who still waits for
        an answer gets one of ours. What then is left, `stop` ends."""
        deadline = monotonic() + ENDING_GRACE
        while monotonic() < deadline and (self.connections or self.tunnels):
            for tunnel in list(self.tunnels):
                end_tunnel(tunnel, SHUTDOWN)
            for client in list(self.connections):
                if client.exchange is not None:
                    end_exchange(client.exchange, SHUTDOWN)
            await asyncio.sleep(0.02)

    # The pointer

    def apply(self, state: FleetState) -> None:
        """A newer state of the fleet: from the next admitted request on, this is where requests go."""
        metrics, before = self.metrics, self.state
        if waits_only(before, state):
            self.state = state
            wait_at(self, hold_by(self, state))
            return
        groups: dict[tuple[str, str], Group] = {}
        used: dict[tuple[str, str], Upstream] = {}
        for color in state.colors:
            release = state.releases.get(color)
            for route in self.routes.routes:
                urls = release.upstreams_for(route.name) if release is not None else ()
                label = release.label if release is not None else ""
                upstreams = tuple(self._upstream(color, url, used) for url in urls)
                slot = metrics.slot(route.name, color, label)
                policy = self.options.balance.policy
                groups[route.name, color] = Group(
                    route.name,
                    color,
                    label,
                    state.pointer.epoch,
                    slot,
                    upstreams,
                    policy,
                    self._sessions.get(route.name),
                    release is not None and release.ended,
                )
        on = canary(state)
        place = (on.color, on.share) if on is not None else ("", 0.0)
        self.listed = on.match if on is not None else ()
        self.routing = Routing(state.pointer.epoch, state.pointer.active, self.routes, groups, *place)
        wait_at(self, hold_by(self, state))
        self.state = state
        metrics.stand({group.release for group in groups.values()})
        if self.pins is not None:
            self._tell_pins(before, state, self.pins)
        for key, upstream in self._upstreams.items():
            if key not in used:
                upstream.retired = True
                self._retired.append(upstream)
        self._upstreams = used
        self._resolver.watch(used.values())
        self._endings.apply(state)

    def admitting(self, exchange: Exchange) -> Group:
        """Where an exchange without a session goes now."""
        routing = self.routing
        return routing.admit_again(exchange.group, exchange.wish) if routing is not None else exchange.group

    def catch_up(self, done: Callable[[], None]) -> None:
        """A session was found on a release that is not known here: read what the store holds, then call `done`."""
        self._behind.append(done)
        if self._catching is None or self._catching.done():
            self._catching = spawn(self._catch_up(), "catch up with the store")

    async def _catch_up(self) -> None:
        while self._behind:
            waiting, self._behind = self._behind, []
            with suppress(StoreUnavailable):  # the mirror tells of a store that is away
                await self.refresh()
            for done in waiting:
                done()

    def _tell_pins(self, before: FleetState | None, state: FleetState, pins: PinCache) -> None:
        """Sessions may move from here on, once every node has said which of them have a turn under way."""
        epoch = state.pointer.epoch
        flipped = before is None or before.pointer.epoch != epoch
        if flipped:
            pins.applied(epoch, state.revision, tuple(self.busy))
        if before is None or before.orders == state.orders:
            return
        if not flipped:
            pins.applied(epoch, state.revision, [pin_id for pin_id in state.orders if pin_id in self.busy])
        # Where an order was carried out, this node may hear of the move only after the next order, or its end.
        pins.drop([p for p in {**before.orders, **state.orders} if before.orders.get(p) != state.orders.get(p)])

    def _upstream(self, color: str, url: str, used: dict[tuple[str, str], Upstream]) -> Upstream:
        key = (color, url)
        upstream = used.get(key) or self._upstreams.get(key)
        if upstream is None:
            options = self.options
            upstream = Upstream(
                color,
                url,
                Health(self._health),
                options.pool,
                options.timeouts.connect_timeout,
                options.limits.high_water_bytes,
            )
            upstream.on_connect_failure = self._resolver.again
        used[key] = upstream
        return upstream

    def upstreams(self, color: str | None = None) -> list[Upstream]:
        """The upstreams of one color, or of all."""
        return [u for (owner, _), u in self._upstreams.items() if color is None or owner == color]

    async def warm_up(self, color: str) -> str:
        """See `warming.warm_up`."""
        return await warm_up(color, self.upstreams(color), self.routing, self.options.pool.warm_connections)

    def report(self) -> list[dict[str, Any]]:
        """Every upstream, for status and metrics."""
        now = monotonic()
        return [upstream.report(now) for upstream in self._upstreams.values()]

    def sessions(self) -> dict[str, Any]:
        """What was counted of sessions, for status and metrics."""
        own = {"unpinned": dict(self.unpinned_by), "ignored": self.ignored, **self.counted}
        return {**self.pins.counted(), **own} if self.pins is not None else own

    def oldest(self) -> dict[str, float]:
        """By color, how many seconds the oldest of what is in flight there has been under way."""
        now = monotonic()
        under_way = [client.exchange for client in self.connections]
        under_way += [tunnel.exchange for tunnel in self.tunnels]
        began: dict[str, float] = {}
        for exchange in under_way:
            if exchange is not None and not exchange.over:
                color = exchange.group.color
                began[color] = min(exchange.started, began.get(color, now))
        return {color: now - at for color, at in began.items()}

    def _all_upstreams(self) -> list[Upstream]:
        return [*self._upstreams.values(), *self._retired]

    # What connections ask for

    def joined(self, client: ClientConnection) -> None:
        self.arriving.discard(client)
        self.connections.add(client)
        self.metrics.connections += 1
        self.metrics.connections_total += 1

    def left(self, client: ClientConnection) -> None:
        if client in self.connections:
            self.connections.discard(client)
            self.metrics.connections -= 1

    def trusts(self, peer: str) -> bool:
        return self.forwarding.trusts(peer)

    def unpinned(self, reason: str) -> None:
        """A request may have named its session, or an answer a new one, in a body that was not read."""
        self.unpinned_by[reason] = self.unpinned_by.get(reason, 0) + 1

    def new_request_id(self) -> bytes:
        """An id for a request that brought none: random per worker, counted within it."""
        self._requests += 1
        last = self._requests & 255
        if not last:
            self._id_start = b"%b%010x" % (self._ids, self._requests >> 8)
        return self._id_start + _HEX[last]

    # The sweep

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            try:
                self._sweep_once()
            except Exception:
                log.exception("a sweep over the connections failed")

    def _sweep_once(self) -> None:
        now = monotonic()
        self.date = formatdate(time(), usegmt=True).encode()
        for client in list(self.connections):
            client.look(now)
        for tunnel in list(self.tunnels):
            tunnel.look(now)
        self._endings.look(now)
        if self.pins is not None and now >= self._touched + TOUCH_INTERVAL:
            self._touched = now
            for pin_id in (*self.busy, *self.attended):
                self.pins.touch(pin_id)
        for upstream in self._all_upstreams():
            upstream.expire(now)
        active = self.routing.active if self.routing is not None else ""
        for upstream in self._upstreams.values():
            if upstream.color != active and not self.draining:
                upstream.keep_warm(now)
        self._retired = [u for u in self._retired if u.open or u.opening or u.waiting]


async def _nothing() -> None:
    """There is no store to be read."""


def _nobody(_: int, __: int) -> None:
    """Nobody counts what is cut."""
