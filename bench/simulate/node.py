"""A node of the simulated fleet: bgproxy's own code for all that is decided, and visits in place of connections.

What is real: the mirror, the ledger, the switch, the heartbeat, the pins' memory, the plane that builds the routing
table, and the turns that place sessions. What is not: bytes. A visit is what a connection and an exchange are to them.
Put together as `app.py` does it, and started in that order. Runs on the interpreted source only.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, cast

import orjson

from bench.history import Execution, Request
from bench.simulate.near import Doors, Near
from bench.simulate.store import FarStore, Line, Server
from bench.simulate.visit import FIELD, Visit
from bench.simulate.world import World
from bgproxy.errors import BgproxyError, StoreUnavailable
from bgproxy.proxy.hold import Door
from bgproxy.proxy.options import ProxyOptions, RouteSessions, SessionOptions
from bgproxy.proxy.plane import DataPlane
from bgproxy.proxy.turn import Turn
from bgproxy.rollout.barrier import Barrier, FlipOptions
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.nearby import Nearby
from bgproxy.rollout.validate import Validator
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.pin import OnRollback, Pin, Policy
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.route import Route, RouteTable
from bgproxy.sessions.spec import preset_named
from bgproxy.store.badge import Badges
from bgproxy.store.base import NodeReport, StoreOptions
from bgproxy.store.document import state_document
from bgproxy.store.fence import Fence
from bgproxy.store.ledger import Ledger
from bgproxy.store.losses import Losses
from bgproxy.store.mirror import Mirror
from bgproxy.store.neighbours import LOOK_INTERVAL, Neighbours
from bgproxy.store.nodes import Heartbeat
from bgproxy.store.once import Once
from bgproxy.store.pin_outage import PinOptions
from bgproxy.store.pinning import Want
from bgproxy.store.pins import PinCache
from bgproxy.store.restorer import Restorer
from bgproxy.tasks import spawn
from bgproxy.telemetry.access import AccessLog, AccessLogOptions
from bgproxy.telemetry.metrics import Metrics

COLORS = ("blue", "green")
RELEASES = {
    "blue": Release("v1", ("http://127.0.0.1:1",), phase=Phase.READY),
    "green": Release("v2", ("http://127.0.0.1:2",), phase=Phase.READY),
}
LOOK = 0.3  # seconds between two looks at the other nodes


@dataclass(frozen=True, slots=True)
class Terms:
    """What a fleet is told by its configuration. Times in seconds."""

    store: StoreOptions
    pins: PinOptions
    flip: FlipOptions
    policy: Policy = Policy.PINNED
    on_rollback: OnRollback = OnRollback.MOVE
    beat_interval: float = 1.0

    def proxy(self) -> ProxyOptions:
        presets = (preset_named("header:" + FIELD.decode()),)
        route = RouteSessions(presets, self.policy, self.on_rollback)
        return ProxyOptions(sessions=SessionOptions({"agents": route}))


class Fleet:
    """Who the nodes are, and what is noted about them."""

    def __init__(self, world: World, server: Server, terms: Terms, asked: Callable[[str], None]) -> None:
        """`asked`: see `Doors`."""
        self.world = world
        self.server = server
        self.terms = terms
        self.nodes: list[Node] = []
        self.doors: dict[int, Doors] = defaultdict(lambda: Doors(world, asked))  # by host
        self.requests: list[Request] = []
        self.executions: list[Execution] = []
        self.visits: dict[int, Visit] = {}  # that have no answer yet
        self.dead: dict[int, float] = {}
        self.unsure: set[str] = set()
        self.strayed: set[str] = set()  # requests that a node placed before it had read the state for the first time
        self.disks: dict[int, FleetState] = {}  # the last known state, by host

    def answered(self, visit: Visit) -> None:
        """The client has its answer."""
        del self.visits[visit.number]
        if visit.run is not None:
            self.executions.append(visit.run)
        now, group = self.world.now, visit.group
        served = visit.status == 200
        self.requests.append(
            Request(
                id=visit.name,
                sent=visit.sent,
                answered=now,
                ended=now,
                status=visit.status,
                color=group.color if served and group is not None else "",
                release=group.release if served and group is not None else "",
                epoch=group.epoch if served and group is not None else 0,
                session=visit.session,
                line=visit.number,
                code=visit.code,
            )
        )
        if self.world.is_traced:
            said = f"{visit.group}" if served else f"{visit.status} {visit.code}"
            self.world.say("client", f"{visit.name} is answered by {said}")

    def lost(self, visit: Visit) -> None:
        """Its connection has died, and the agent's with it, which ends what it did."""
        now = self.world.now
        self.dead[visit.number] = now
        del self.visits[visit.number]
        self.requests.append(Request(visit.name, visit.sent, session=visit.session, line=visit.number))
        if visit.run is not None and visit.run.began < now:
            self.executions.append(visit.run._replace(ended=min(now, visit.run.ended)))


class Node:
    """One worker."""

    def __init__(
        self,
        fleet: Fleet,
        host: int,
        slot: int = 0,
        *,
        successor_of: Node | None = None,
        beside: bool = False,
        rate: float = 1.0,
    ) -> None:
        """`slot`: its number on that host; `beside`: others that serve there, see `Place`."""
        self.fleet = fleet
        self.host = host
        self.is_beside = beside
        self.slot = slot
        number = len(fleet.nodes)
        self.id = f"n{number}"
        fleet.nodes.append(self)
        world, terms = fleet.world, fleet.terms
        self.process = process = world.process(self.id, rate)
        self.line = Line(world, process, fleet.server)
        self.store = FarStore(self.line, terms.store)
        self.is_open = self.is_blind = False  # the latter: it was started without the store, which it has not read yet
        self._dead = [] if successor_of is None else [*successor_of._dead, successor_of.id]
        store = cast("Any", self.store)
        timeout = terms.store.connect_timeout + terms.store.command_timeout
        self.fence = Fence(terms.store.fence_after, process.time)
        self.mirror = Mirror(store, read_interval=terms.store.read_interval, fence=self.fence, clock=process.time)
        self.ledger = Ledger(store, self.mirror, lambda: time.time(), timeout=timeout)
        self.restorer = Restorer(self.ledger, self.mirror)
        self.losses = Losses(store, lambda: self.mirror.state)
        self.pins = PinCache(
            store.pins,
            self.mirror,
            self.id,
            terms.pins,
            clock=process.time,
            wall=lambda: time.time(),
            strayed=self.losses.lost,
        )
        self.plane = DataPlane(
            terms.proxy(),
            RouteTable((Route("agents"),)),
            HealthOptions(),
            Metrics(),
            AccessLog(AccessLogOptions()),
            cast("Any", _Pins(self.pins, fleet.unsure)),
        )
        self.plane.refresh = self.mirror.refresh
        self.plane.fenced = self.fence.is_closed if self.fence.fence_after else None
        self.plane.loop = process
        self.validator = Validator(self.ledger, self.mirror, _is_well)
        self.heartbeat = Heartbeat(
            store, self.report, self.mirror.refresh, fence=self.fence, interval=terms.beat_interval
        )
        self.mirror.came_back = self._came_back
        # Nobody is forgotten here, and its host's badges are `_sign_off`.
        self.neighbours = Neighbours(
            store,
            Badges(Path("/nowhere"), "simulated"),
            _forgotten,
            node_ttl=terms.store.node_ttl,
            forget_after=inf,
            clock=process.time,
            sleep=lambda seconds: asyncio.sleep(seconds * LOOK / LOOK_INTERVAL),
        )
        self.barrier = Barrier(
            self.ledger,
            self.mirror,
            store,
            self.id,
            terms.flip,
            Door(self.plane),
            fenced=self.neighbours.fenced_among,
            clock=process.time,
            wall=lambda: time.time(),
        )
        own = self.ledger, self.mirror, store, self.id
        self.near = Near(fleet.doors[host], process, slot, self.id, self.barrier.promises)
        listed, wall = lambda: self.neighbours.listed, lambda: time.time()
        looks = lambda: process.time() * LOOK_INTERVAL / LOOK  # noqa: E731 - as often as the neighbours are looked at
        self.barrier.nearby = Nearby(*own, self.barrier.promises, self.near, listed, clock=looks, wall=wall)
        self.switch = Switch(self.ledger, self.mirror, _is_well, self.validator, _nothing, self.barrier)
        process.spawn(self._start())

    def __repr__(self) -> str:
        return f"<Node {self.id} {self.mirror!r}>"

    @property
    def is_serving(self) -> bool:
        """Whether clients can come here: its listening socket is its host's, so a pause does not matter."""
        return self.is_open and not self.process.is_dead

    @property
    def epoch(self) -> int:
        """By which it routes; 0: by none yet."""
        return self.mirror.state.pointer.epoch if self.mirror.state is not None else 0

    def report(self) -> NodeReport:
        """What it says of itself."""
        state = self.mirror.state
        return NodeReport(
            id=self.id,
            host=f"h{self.host}",
            pid=0,
            version="",
            epoch=self.epoch,
            revision=state.revision if state else 0,
            serial=self.heartbeat.serial,
            fence_after=self.fence.fence_after,
        )

    async def _start(self) -> None:
        """As `Worker._join_fleet`; a start that fails is made again, as a supervisor would."""
        world = self.fleet.world
        self.mirror.listen(self._applied)
        self.mirror.listen(self.plane.apply)
        self.mirror.listen(self.barrier.apply)
        binding = bool(self._dead) or self.is_beside
        while not self.is_open:
            known = self.mirror.load(cast("Path", _Disk(self.fleet.disks.get(self.host))), binding=binding)
            try:
                await self.store.open()
                await self.heartbeat.join()
                await self.ledger.bootstrap(COLORS, COLORS[0], RELEASES, actor="bgproxy", reason="start")
            except StoreUnavailable as error:
                world.say(self.id, f"starts without the store: {error}")
                if not known or self.is_beside:
                    await _sleep(self, 0.2)
                    continue
                self.is_blind = True
            await self.mirror.start()
            self.heartbeat.start()
            self.neighbours.start()
            self.pins.start()
            self.near.start()
            if self._dead:
                spawn(self._sign_off(), "sign off the workers before")
            self.is_open = True
            world.say(self.id, "serves")

    async def _sign_off(self) -> None:
        """As `Neighbours` does: all that died in this seat, as one of them may have done so before it could do this;
        and again where a failover has lost that."""
        while not self.heartbeat.joined:
            await _sleep(self, 0.1)
        listed = set(self._dead)
        while True:
            with suppress(StoreUnavailable):
                for node_id in [node_id for node_id in self._dead if node_id in listed]:
                    await self.store.leave(node_id, dead=True)
                    listed.discard(node_id)
                listed = {node.id for node in await self.store.nodes()}
            await _sleep(self, 0.4 if listed.intersection(self._dead) else 2.0)

    def _came_back(self) -> None:
        """The store is there (again)."""
        self.is_blind = False
        self.heartbeat.again()

    def _applied(self, state: FleetState) -> None:
        """Written to its host's disk, as it is noted for whoever reads the trace."""
        self.fleet.disks[self.host] = state
        if self.fleet.world.is_traced:
            self.fleet.world.say(self.id, f"applies revision {state.revision}, epoch {state.pointer.epoch}")

    def arrives(self, visit: Visit) -> None:
        """A request, in this process: as the client's connection and the exchange go about it."""
        visit.node = self
        routing = self.plane.routing
        group = routing.admit(b"", b"/") if routing is not None and self.is_open else None
        if group is None:
            visit.refuse("not_ready", "")
            return
        visit.group = group
        rules = group.sessions
        assert rules is not None, "the route knows its sessions"
        if visit.session:
            seen = rules.recogniser.request(b"POST", b"/", visit.marks, False, b"")
            visit.turn = Turn(cast("Any", visit), rules, seen)
        visit.go(self.process.time())

    def kill(self) -> None:
        """Its process dies, and every connection with it."""
        self.fleet.world.say(self.id, "is killed")
        self.process.kill()
        self.near.die()
        for visit in [*self.fleet.visits.values()]:
            if visit.node is self:
                self.fleet.lost(visit)

    def flip(self, to: str | None, told: Callable[[str, int], None], key: str = "") -> None:
        """Somebody asks here for a flip, or (None) a rollback; `told` hears what came of it, and the epoch. `key`: the
        idempotency key, if there is one."""
        self.process.spawn(self._flip(to, told, Once(key, f"to {to}") if key else None))

    async def _flip(self, to: str | None, told: Callable[[str, int], None], once: Once | None) -> None:
        try:
            if once is not None and (known := await self.switch.recall(once)) is not None:
                outcome = known
            elif to is None:
                outcome = await self.switch.rollback(actor="", reason="", if_epoch=None, force=False, once=once)
            else:
                outcome = await self.switch.flip(to, actor="", reason="", if_epoch=None, force=False, once=once)
        except BgproxyError as error:
            told(str(getattr(error, "code", error)), 0)
        else:
            first = outcome.replay
            epoch = outcome.state.pointer.epoch if first is None else first.epoch
            told("done" if outcome.changed else "unchanged", epoch)

    def pause(self, max_hold: float) -> None:
        """Somebody asks here for a pause; whether it comes about is seen by what is held."""
        self.process.spawn(self._pause(max_hold))

    async def _pause(self, max_hold: float) -> None:
        with suppress(BgproxyError):
            await self.switch.pause(max_hold, actor="", reason="")


class _Pins:
    """The pins' memory as the plane has it, and who learns which sessions were placed without the store."""

    def __init__(self, pins: PinCache, unsure: set[str]) -> None:
        self._pins = pins
        self._unsure = unsure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pins, name)

    def resolve(self, want: Want, done: Callable[[Pin | None, str], None]) -> None:
        """See `PinCache.resolve`."""
        self._pins.resolve(want, self._noting(done, "journalled"))

    def migrate(self, pin: Pin, done: Callable[[Pin | None, str], None]) -> None:
        """See `PinCache.migrate`."""
        self._pins.migrate(pin, self._noting(done, "kept"))

    def _noting(self, done: Callable[[Pin | None, str], None], doubtful: str) -> Callable[[Pin | None, str], None]:
        session = cast("Any", done).__self__._exchange.session

        def told(pin: Pin | None, why: str) -> None:
            if why == doubtful:
                self._unsure.add(session)
            done(pin, why)

        return told


class _Disk:
    """A file that may not be there."""

    def __init__(self, written: FleetState | None) -> None:
        self._written = written

    def read_bytes(self) -> bytes:
        if self._written is None:
            raise FileNotFoundError
        return orjson.dumps(state_document(self._written))

    def __str__(self) -> str:
        return "the disk"


async def _is_well(_: str) -> str:
    return ""


async def _forgotten(_: NodeReport) -> None:
    """Never called."""


async def _nothing() -> None:
    pass


async def _sleep(node: Node, seconds: float) -> None:
    done = node.process.create_future()
    node.process.call_later(seconds, done.set_result, None)
    await done
