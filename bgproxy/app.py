"""One worker process, put together: what is built, in which order it starts, and how it ends.

Start: the store and the pointer first, then the upstreams' care, then the doors, the clients' last. Stop: the clients'
doors first, then what is in flight gets its grace, the pointer's loops last, so that a flip still arrives meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any

import orjson
import uvloop

from bgproxy import __version__
from bgproxy.admin.peers import HostPeers
from bgproxy.admin.seams import AdminDeps
from bgproxy.admin.server import AdminServer
from bgproxy.config import Settings
from bgproxy.config.settings import reload_diff
from bgproxy.errors import BgproxyError, ConfigError, Problem, StoreUnavailable
from bgproxy.proxy.listener import Listener
from bgproxy.proxy.plane import DataPlane
from bgproxy.rollout.drain import Drainer
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.health import HealthChecker
from bgproxy.rollout.validate import Validator
from bgproxy.rules.route import RouteTable
from bgproxy.store.base import NodeReport, open_store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.nodes import Heartbeat
from bgproxy.tasks import spawn, stop
from bgproxy.telemetry import logs
from bgproxy.telemetry.access import AccessLog
from bgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

FATAL = 78  # exit status (EX_CONFIG): a restart would meet the same
SAVE_INTERVAL = 1.0  # seconds between two savings of the counters for a successor
READY = b"r"


@dataclass(frozen=True, slots=True)
class Place:
    """Where this worker stands on its host: its number, its sockets, and the line to its supervisor."""

    slot: int
    listening: Sequence[socket.socket]
    admin: Sequence[socket.socket]
    runtime_dir: Path
    supervisor: socket.socket  # readable at its end; one byte is written when the worker is ready


class Worker:
    """The composition root of one process."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self.settings = settings
        self.place = place
        self.started = time()
        self.node_id = f"{socket.gethostname()}-{os.getpid()}"
        options = settings.store()
        self.store = open_store(options)
        self.mirror = Mirror(
            self.store,
            read_interval=options.read_interval,
            last_state_path=place.runtime_dir / "state.json",
        )
        self.ledger = Ledger(self.store, self.mirror, time, timeout=options.connect_timeout + options.command_timeout)
        self.metrics = Metrics()
        self.access = AccessLog(settings.access_log())
        self.plane = DataPlane(
            settings.proxy(), RouteTable(settings.routes()), settings.health(), self.metrics, self.access
        )
        self.listeners = [Listener(self.plane, sock) for sock in place.listening]
        self.health = HealthChecker(settings.health(), self.plane.upstreams)
        self.validator = Validator(self.ledger, self.mirror, self.plane.warm_up)
        self.drainer = Drainer(self.ledger, self.mirror, self.store.nodes)
        self.switch = Switch(self.ledger, self.mirror, self.plane.warm_up, self.validator)
        self.heartbeat = Heartbeat(self.store, self.report)
        self.peers = HostPeers(place.runtime_dir, place.slot, self.snapshot)
        self.admin = AdminServer(place.admin)
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._saver: asyncio.Task[None] | None = None

    # Start and stop

    async def run(self) -> int:
        """Serve until told to end; the process's exit status."""
        try:
            await self.start()
        except BgproxyError as error:
            log.error("%s", error)
            return FATAL
        await self._ending.wait()
        await self.stop()
        return 0

    async def start(self) -> None:
        self._carry_on()
        self.access.start()
        self.mirror.listen(self.plane.apply)
        await self.plane.start()
        await self._join_fleet()
        for part in (self.health, self.validator, self.drainer, self.heartbeat):
            part.start()
        await self.peers.start()
        await self.admin.start(self.deps())
        for listener in self.listeners:
            listener.start()
        self._saver = spawn(self._save_for_successor(), "save counters")
        self._heed()
        self.place.supervisor.send(READY)
        state = self.mirror.state
        log.info(
            "worker %d serves fleet %s, active %s",
            self.place.slot,
            self.settings.fleet,
            f"{state.pointer.active} (epoch {state.pointer.epoch})" if state else "unknown",
        )

    async def stop(self) -> None:
        """Stop accepting, finish what is in flight within the grace, then end."""
        for listener in self.listeners:
            listener.stop()
        drain = spawn(self.plane.drain(self.settings.grace_timeout), "drain")
        hurry = spawn(self._hurry.wait(), "wait for a second signal")
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done() or not drain.result():
            left = len(self.plane.connections) + len(self.plane.tunnels)
            log.warning("worker %d: %d connections were still open at the deadline", self.place.slot, left)
        await stop(drain, hurry, self._saver)
        await self.admin.stop()
        await self.peers.stop()
        for part in (self.validator, self.drainer, self.health, self.heartbeat):
            await part.stop()
        await self.plane.stop()
        await self.mirror.stop()
        await self.store.close()
        await self.access.stop()
        self._save()

    async def _join_fleet(self) -> None:
        """Find the pointer: the store's, else (it holds none) the configuration's, else (it is away) the last known.

        Raises when the store cannot be used at all: its data are too new or broken, the password is wrong, or it is
        away and nothing is known from an earlier worker.
        """
        settings = self.settings
        try:
            await self.store.open()
            colors, releases = settings.colors(), settings.releases()
            outcome = await self.ledger.bootstrap(colors, settings.active, releases, actor="bgproxy", reason="start")
            if not outcome.changed:
                await self._reconfigure("start")
        except StoreUnavailable as error:
            if type(error) is not StoreUnavailable or not self.mirror.load():
                raise
            log.error("the store is away, the last known pointer is used: %s", error)
        await self.mirror.start()

    async def _reconfigure(self, reason: str) -> None:
        settings = self.settings
        try:
            await self.ledger.reconfigure(settings.colors(), settings.releases(), actor="configuration", reason=reason)
        except Problem as error:
            log.error("the configured releases were not taken over: %s", error)

    # What others ask

    def deps(self) -> AdminDeps:
        settings = self.settings
        listening = [str(address) for address in settings.listen]
        return AdminDeps(
            options=settings.admin(),
            fleet=settings.fleet,
            ledger=self.ledger,
            mirror=self.mirror,
            store=self.store,
            switch=self.switch,
            peers=self.peers,
            ready=self.ready,
            version=__version__,
            reserved=(settings.store().url, *listening),
        )

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether traffic can be routed; a store that is away makes that degraded, not unready."""
        state = self.mirror.state
        facts: dict[str, Any] = {
            "degraded": not self.mirror.connected,
            "pointer_age": round(self.mirror.age, 3),
            "epoch": state.pointer.epoch if state else None,
            "draining": self.plane.draining,
        }
        return state is not None and not self.plane.draining, facts

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
        )

    def snapshot(self) -> dict[str, Any]:
        """Everything that a sibling needs to speak for this worker."""
        return {
            "node": asdict(self.report()),
            "metrics": self.metrics.snapshot(self.plane.report()),
            "store": {
                "state": "up" if self.mirror.connected else "down",
                "kind": self.store.kind,
                "age": self.mirror.age,
            },
            "started": self.started,
        }

    # Counters outlive a worker

    @property
    def _counters(self) -> Path:
        return self.place.runtime_dir / f"worker-{self.place.slot}.json"

    def _carry_on(self) -> None:
        """Go on from where a dead predecessor in this place stood, so that the host's totals never fall."""
        try:
            self.metrics.carry(orjson.loads(self._counters.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError) as error:
            log.warning("the counters of the worker before are lost: %s", error)

    def _save(self) -> None:
        new = self._counters.with_suffix(".new")
        try:
            new.write_bytes(orjson.dumps(self.metrics.snapshot()))
            new.replace(self._counters)
        except OSError as error:
            log.debug("the counters were not saved: %s", error)

    async def _save_for_successor(self) -> None:
        while True:
            await asyncio.sleep(SAVE_INTERVAL)
            self._save()

    # Signals

    def _heed(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, lambda: spawn(self.reload(), "reload"))
        loop.add_reader(self.place.supervisor.fileno(), self._supervisor_gone)

    def _end(self) -> None:
        """Once: with grace. Twice: at once."""
        if self._ending.is_set():
            self._hurry.set()
        self._ending.set()

    def _supervisor_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self.place.supervisor.fileno())
        log.error("the supervisor is gone: worker %d ends", self.place.slot)
        self._ending.set()

    async def reload(self) -> None:
        """Take over what can be while running, and say what cannot. A bad configuration changes nothing."""
        self.access.reopen()
        try:
            new = self.settings.reread()
            taken, kept = reload_diff(self.settings, new)
            self.plane.configure(new.proxy(), new.health())
        except ConfigError as error:
            log.error("the configuration was not reloaded, the old one stays: %s", error)
            return
        old, self.settings = self.settings, new
        self.health.options = new.health()
        self.plane.routes = RouteTable(new.routes())
        if self.mirror.state is not None:
            self.plane.apply(self.mirror.state)
        if old.access_log() != new.access_log():
            await self.access.stop()
            self.access = self.plane.access = AccessLog(new.access_log())
            self.access.start()
        logs.setup(new.log().level, new.log().format, str(self.place.slot))
        if old.admin() != new.admin():
            await self.admin.replace(self.deps())
        await self._reconfigure("reload")
        log.info("reloaded: %s", ", ".join(taken) or "nothing has changed")
        if kept:
            log.warning("these need a restart and stay as they were: %s", ", ".join(kept))


def main(settings: Settings, place: Place, before: Callable[[], None]) -> int:
    """Run a worker in this process until it ends; its exit status. `before` runs when the loop is there."""
    logs.setup(settings.log().level, settings.log().format, str(place.slot))

    async def run() -> int:
        before()
        return await Worker(settings, place).run()

    # What was loaded stays for good: the collector need not look at it again, and seldom at the rest, of which the
    # data path makes no cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    began = monotonic()
    status = uvloop.run(run())
    log.debug("worker %d ended after %.1f s", place.slot, monotonic() - began)
    return status
