"""One worker process, put together: what is built, in which order it starts, and how it ends.

Start: the store and the pointer first, then the upstreams' care, then the doors, the clients' last. Stop: the clients'
doors first, then what is in flight gets its grace, the pointer's loops last, so that a flip still arrives meanwhile.

What outlives a worker lies in its host's runtime directory: its counters, the last known pointer, and the state of a
memory store. The successor in its place goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import replace
from time import time
from typing import Any

from bgproxy import __version__, orders
from bgproxy.admin.peers import HostPeers
from bgproxy.admin.seams import AdminDeps
from bgproxy.admin.server import AdminServer
from bgproxy.admin.view import node_json, readiness, store_report
from bgproxy.config import Settings
from bgproxy.config.plan import plan_from
from bgproxy.config.reloading import outcome, reload_diff
from bgproxy.errors import BgproxyError, ConfigError, Problem, StoreUnavailable
from bgproxy.onlookers import Onlookers
from bgproxy.orders import Place
from bgproxy.proxy.hold import Door
from bgproxy.proxy.listener import Listener
from bgproxy.proxy.plane import DataPlane
from bgproxy.rollout.barrier import Barrier
from bgproxy.rollout.conductor import Conductor
from bgproxy.rollout.drain import Drainer
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.health import HealthChecker
from bgproxy.rollout.nearby import Nearby
from bgproxy.rollout.retire import Retirer
from bgproxy.rollout.siblings import Siblings
from bgproxy.rollout.validate import Validator
from bgproxy.rollout.watching import Reporter
from bgproxy.rules.route import RouteTable
from bgproxy.store.base import NodeReport, open_store
from bgproxy.store.fence import Fence
from bgproxy.store.host import hosted
from bgproxy.store.ledger import Ledger
from bgproxy.store.losses import Losses
from bgproxy.store.membership import Membership
from bgproxy.store.mirror import Mirror
from bgproxy.store.outages import Outages
from bgproxy.store.pins import PinCache
from bgproxy.store.restorer import Restorer
from bgproxy.tasks import first_of, spawn, stop
from bgproxy.telemetry import logs
from bgproxy.telemetry.access import AccessLog
from bgproxy.telemetry.legacy import Estate
from bgproxy.telemetry.metrics import Metrics
from bgproxy.telemetry.windows import Windows

log = logging.getLogger(__name__)

FATAL = 78  # exit status (EX_CONFIG): a restart would meet the same
HANDOVER = "memory.json"  # in the runtime directory: a memory store's state, for a successor


class Worker:
    """The composition root of one process."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self.settings = settings
        self.place = place
        self.started = time()
        # Containers may share a host's name, and each count its processes from 1.
        self.node_id = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}"
        options = replace(settings.store(), handover=os.fspath(place.runtime_dir / HANDOVER))
        store = open_store(options)
        self.hosted = hosted(store, options, place.runtime_dir, successor=place.successor)
        self.store = self.hosted.as_store() if self.hosted is not None else store
        self.fence = Fence(options.fence_after if self.store.shared else 0.0)  # alone, nobody leaves it behind
        last = place.runtime_dir / f"state-{settings.fleet}.json" if self.store.shared else None
        self.mirror = Mirror(self.store, read_interval=options.read_interval, last_state_path=last, fence=self.fence)
        self.ledger = Ledger(self.store, self.mirror, time, timeout=options.patience)
        self.metrics = Metrics()
        self.access = AccessLog(settings.access_log())
        self.estate = Estate(place.runtime_dir, place.slot, self.metrics, self._collect)
        self.losses = Losses(self.store, lambda: self.mirror.state)
        self.pins = PinCache(self.store.pins, self.mirror, self.node_id, settings.pins(), strayed=self.losses.lost)
        self.plane = DataPlane(
            settings.proxy(), RouteTable(settings.routes()), settings.health(), self.metrics, self.access, self.pins
        )
        self.mirror.returned = Outages(self.ledger, self.store, self.node_id, self.pins.counted).over
        self.plane.cut = self.losses.cut
        self.plane.refresh = self.mirror.refresh
        self.plane.fenced = self.fence.is_closed if self.fence.fence_after else None
        self.listeners = [Listener(self.plane, sock) for sock in place.listening]
        self.listeners += [Listener(self.plane, sock, preview=True) for sock in place.preview]
        self.health = HealthChecker(settings.health(), self.plane.upstreams)
        self.validator = Validator(self.ledger, self.mirror, self.plane.warm_up)
        self.drainer = Drainer(self.ledger, self.mirror, self.store)
        self.peers = HostPeers(place.runtime_dir, place.slot, self.snapshot, self.mirror.refresh)
        here = self.node_id, self.store, options, self.fence, place.runtime_dir, self.ledger
        self.membership = Membership(*here, report=self.report, catch_up=self.mirror.refresh)
        self.mirror.came_back = self.membership.again
        self.restorer = Restorer(self.ledger, self.mirror)
        own = self.ledger, self.mirror, self.store, self.node_id
        self.barrier = Barrier(*own, settings.flip(), Door(self.plane), fenced=self.membership.fenced_among)
        self.siblings = Siblings(place.runtime_dir, place.slot, self.node_id, self.barrier.promises)
        self.barrier.nearby = Nearby(*own, self.barrier.promises, self.siblings, self.membership.listed)
        self.switch = Switch(*own[:2], self.plane.warm_up, self.validator, self.peers.catch_up, self.barrier)
        parts = self.node_id, self.ledger, self.mirror, self.store, self.switch
        told = settings.rollout(), settings.health(), settings.plan()
        self.onlookers = Onlookers(self.plane, self.mirror, settings.recording())
        records = self.onlookers.records
        self.conductor = Conductor(*parts, plan_from, lambda: self.plane.routes, *told, records=records)
        self.reporter = Reporter(self.node_id, self.store, Windows(self.metrics))
        self.retirer = Retirer(*parts[:4], plan_from, lambda: self.plane.routes, settings.rollout(), settings.plan())
        self.admin = AdminServer(place.admin)
        self._line = orders.Line(place.supervisor)
        self._started = asyncio.Event()
        events = self._accepting, self._finishing, self._ending, self._hurry = [asyncio.Event() for _ in range(4)]
        self._events = dict(zip((orders.ACCEPT, orders.FINISH, orders.END, orders.HURRY), events, strict=True))
        self._reloading = asyncio.Lock()
        self._saver: asyncio.Task[None] | None = None

    # Start and stop

    async def run(self) -> int:
        """Serve until told to end; the process's exit status."""
        self._heed()
        try:
            await self.start()
        except BgproxyError as error:
            log.error("%s", error)
            self._line.say(orders.FAILED, str(error))
            await self.membership.stop()
            return FATAL
        await first_of(self._ending, self._finishing)
        if not self._ending.is_set():
            await self.finish()
        await self.stop()
        return 0

    async def start(self) -> None:
        """Be ready, then open the doors: at once, or once told so where others still accept."""
        held = self.estate.carry_on()
        self.access.start()
        self.mirror.listen(self.plane.apply)
        self.mirror.listen(self.reporter.apply)
        self.mirror.listen(self.barrier.apply)
        await self.plane.start()
        await self._join_fleet()
        self.losses.cut(held)
        watching = self.health, self.validator, self.drainer, self.membership, self.pins
        parts = *watching, self.conductor, self.reporter, self.retirer
        for part in parts:
            part.start()
        await self.peers.start()
        self.siblings.start()
        await self.onlookers.start()
        self._saver = spawn(self.estate.save_for_ever(), "save counters")
        if self.place.beside:
            self._line.say(orders.READY)
            await first_of(self._ending, self._accepting)
        if not self._ending.is_set() or not self.place.beside:
            await self._open_doors()
        self._started.set()

    async def _open_doors(self) -> None:
        for listener in self.listeners:
            listener.start()
        await self.admin.start(self.deps(self.settings))
        if self.place.beside:
            # Not sooner: had it not come to this, those that go on would stand on a configuration that is not theirs.
            await self._reconfigure_at_start()
        else:
            self._line.say(orders.READY)
        state = self.mirror.state
        log.info(
            "worker %d serves fleet %s, active %s",
            self.place.slot,
            self.settings.fleet,
            f"{state.pointer.active} (epoch {state.pointer.epoch})" if state else "unknown",
        )

    async def finish(self) -> None:
        """Others accept from now on: what is in flight may take its time, until told to end.

        A client between two requests keeps its connection for one more, which is answered with the word that it was the
        last: one that is closed while its next request is on the way would see an error.
        """
        for listener in self.listeners:
            listener.stop()
        await self.admin.stop()
        if self.hosted is not None:
            self.hosted.retire()
        await self.conductor.stop()
        await self.retirer.stop()
        log.info("worker %d finishes what it holds, others accept", self.place.slot)
        timeout = self.settings.upgrade().finish_timeout or None
        finished = spawn(self.plane.finish(), "finish")
        ending = spawn(self._ending.wait(), "wait for the end")
        await asyncio.wait({finished, ending}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not finished.done() and not ending.done():
            self._hurry.set()  # the time is up: what is left is ended politely
        await stop(finished, ending)

    async def stop(self) -> None:
        """Stop accepting, finish what is in flight within the grace, then end."""
        for listener in self.listeners:
            listener.stop()
        drain = spawn(self.plane.drain(self.settings.grace_timeout), "drain")
        hurry = spawn(self._hurry.wait(), "wait for a second signal")
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        finished = drain.done() and drain.result()
        await stop(drain, hurry, self._saver)
        if not finished:
            left = len(self.plane.connections) + len(self.plane.tunnels)
            log.warning("worker %d: %d connections were still open at the deadline", self.place.slot, left)
            await self.plane.end_politely()
            self.losses.cut(sum(self.metrics.by_color("in_flight").values()))
        await self.plane.stop()
        self.estate.save()
        await self.admin.stop()
        await self.peers.stop()
        await self.siblings.stop()
        acting = self.onlookers, self.conductor, self.retirer, self.reporter
        rollout = *acting, self.barrier, self.validator, self.drainer, self.health
        for part in (*rollout, self.restorer, self.membership):
            await part.stop()
        await self.pins.stop()
        await self.losses.stop()
        await self.mirror.stop()
        await self.store.close()
        await self.access.stop()

    async def _join_fleet(self) -> None:
        """Find the pointer: the store's, else (it holds none) the last known, else the configuration's.

        Raises when the store cannot be used at all: its data are too new, broken or another fleet's, the password is
        wrong, other nodes speak otherwise, or it is away and nothing is known from an earlier worker. A successor uses
        what is known whatever the store says: the fleet served a moment ago.
        """
        settings, colors = self.settings, self.settings.colors()
        known = self.mirror.load(binding=self.place.successor)
        try:
            await self.store.open()
            await self.ledger.recognise(colors)
            await self.membership.join()
            await self.ledger.bootstrap(colors, settings.active, settings.releases(), actor="bgproxy", reason="start")
            if not self.place.beside:
                await self._reconfigure_at_start()
        except StoreUnavailable as error:
            # Beside others that serve nothing is gained by less than they know: their sessions' pins.
            if self.place.beside or not known or not (self.place.successor or type(error) is StoreUnavailable):
                raise
            log.error("the store cannot be used, the last known pointer is: %s", error)
        await self.mirror.start()

    async def _reconfigure_at_start(self) -> None:
        if refused := await self._reconfigure("start"):
            log.error("%s", refused)

    async def _reconfigure(self, reason: str) -> str:
        """Bring the configuration's releases into the fleet's state; why they were not taken over, or nothing."""
        settings = self.settings
        try:
            await self.ledger.reconfigure(settings.colors(), settings.releases(), actor="configuration", reason=reason)
        except Problem as error:
            return f"the configured releases were not taken over: {error}"
        return ""

    # What others ask

    def deps(self, settings: Settings) -> AdminDeps:
        """What the admin plane is introduced to."""
        listening = [str(address) for address in settings.listen] + [
            text for text in [settings.preview().listen] if text
        ]
        return AdminDeps(
            options=settings.admin(),
            fleet=settings.fleet,
            ledger=self.ledger,
            mirror=self.mirror,
            store=self.store,
            switch=self.switch,
            runs=self.conductor,
            retirer=self.retirer,
            peers=self.peers,
            ready=self.ready,
            version=__version__,
            has_moved=self.pins.counts.moved,
            fenced=self.membership.fenced,
            runtime_dir=os.fspath(self.place.runtime_dir),
            reserved=(settings.store().url, *listening),
        )

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether new requests are taken."""
        return readiness(self.mirror, draining=self.plane.draining)

    def report(self) -> NodeReport:
        """What this node says of itself."""
        state = self.mirror.state
        return NodeReport(
            id=self.node_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            epoch=state.pointer.epoch if state else 0,
            in_flight=self.metrics.by_color("in_flight"),
            streams=self.metrics.by_color("streams"),
            websockets=self.metrics.by_color("websockets"),
            revision=state.revision if state else 0,
            oldest={color: round(seconds, 3) for color, seconds in self.plane.oldest().items()},
            serial=self.membership.serial,
            fence_after=self.fence.fence_after,
            finishing=self.plane.draining,
            mirrored=self.onlookers.mirrored(),
        )

    def _collect(self) -> dict[str, Any]:
        return self.metrics.snapshot(self.plane.report(), self.plane.sessions())

    def snapshot(self) -> dict[str, Any]:
        """Everything that a sibling needs to speak for this worker; saved before it is told."""
        metrics = self.estate.save()
        return {
            "node": node_json(self.report(), fenced=self.mirror.fenced),
            "metrics": metrics,
            "store": store_report(self.mirror, self.store.kind),
            "started": self.started,
        }

    # Orders

    def _heed(self) -> None:
        """Listen to the supervisor, and to it alone: signals stay blocked here, as it has them.

        Terminals and service managers signal every process of a group. A worker that ended by itself would close its
        socket while the supervisor's copy still lets clients in, and twice told would be once too often.
        """
        asyncio.get_running_loop().add_reader(self.place.supervisor.fileno(), self._supervisor_says)

    def _supervisor_says(self) -> None:
        said = self._line.hear()
        if said is None:
            asyncio.get_running_loop().remove_reader(self.place.supervisor.fileno())
            log.error("the supervisor is gone: worker %d ends", self.place.slot)
            self._ending.set()
            return
        for word, _ in said:
            if word == orders.RELOAD:
                spawn(self.reload(), "reload")
            elif word == orders.BURY:
                self.membership.bury()
            elif (event := self._events.get(word)) is not None:
                event.set()

    async def reload(self) -> None:
        """Take over what can be while running, and say what cannot. A bad configuration changes nothing."""
        await self._started.wait()
        async with self._reloading:
            self.access.reopen()
            try:
                told = self.settings.reread()
                new = self.settings.taking(told)
                await self._take_over(new)
            except ConfigError as error:
                log.error("the configuration was not reloaded, the old one stays: %s", error)
                return
            taken, kept = reload_diff(self.settings, told)
            self.settings = new
            level, said = outcome(taken, new, self.mirror.state, await self._reconfigure("reload"))
            log.log(level, "%s", said)
            if kept:
                log.warning("these need a restart and stay as they were: %s", ", ".join(kept))

    async def _take_over(self, new: Settings) -> None:
        """What may still refuse the new settings goes first, so that half of them is never taken."""
        old = self.settings
        if old.access_log() != new.access_log():
            access, before = AccessLog(new.access_log()), self.access
            access.start()
            self.access = self.plane.access = access
            await before.stop()
        self.plane.configure(new.proxy(), new.health())
        self.barrier.options = new.flip()
        self.health.options = new.health()
        self.conductor.configure(new.rollout(), new.health(), new.plan())
        self.retirer.configure(new.rollout(), new.plan())
        self.plane.routes = RouteTable(new.routes())
        if self.mirror.state is not None:
            self.plane.apply(self.mirror.state)
        logs.setup(new.log().level, new.log().format, str(self.place.slot))
        if old.admin() != new.admin():
            await self.admin.replace(self.deps(new))
