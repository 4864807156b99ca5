"""Nodes that conduct releases on one store, with every step of a plan pretended; and stores whose nodes are killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bgproxy.config.plan import plan_from
from bgproxy.errors import StoreUnavailable
from bgproxy.rollout import conductor as module
from bgproxy.rollout import leading
from bgproxy.rollout.barrier import Barrier, FlipOptions
from bgproxy.rollout.conductor import Conductor
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rollout.validate import Validator
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.plan import Gate
from bgproxy.rules.release import Release
from bgproxy.rules.route import Route, RouteTable
from bgproxy.store.base import NodeReport
from bgproxy.store.mirror import Mirror
from tests.rollout.doors import Shut

SMOKE = {"kind": "http", "name": "smoke"}
BAKE = {"max_error_rate": 0.01}
V3 = Release("v3", ("http://127.0.0.1:1003",))
WHO = {"actor": "ada", "reason": "why"}
PASS = Finding(Verdict.PASS, "fine", {"answers": [1]})


class Steps:
    """Stands in for everything that is tried: what each step comes to, and which were tried, in order."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.comes_to: dict[str, Finding | Exception] = {}
        self.holds: dict[str, asyncio.Event] = {}
        self.cancelled: list[str] = []

    async def take(self, name: str) -> Finding:
        self.tried.append(name)
        try:
            if name in self.holds:
                await self.holds[name].wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        found = self.comes_to.get(name, PASS)
        if isinstance(found, Exception):
            raise found
        return found


def pretended(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Let all conductors take these steps."""
    made = Steps()

    async def ready(*_: Any) -> Finding:
        return await made.take("ready")

    async def parity(*_: Any) -> Finding:
        return await made.take("parity")

    async def gate(one: Gate, _trial: Any) -> Finding:
        return await made.take(f"gate:{one.name}")

    monkeypatch.setattr(module, "await_ready", ready)
    monkeypatch.setattr(module, "try_parity", parity)

    async def hook(_hook: Any, step: str, _trial: Any, _run: Any) -> Finding:
        return await made.take(step)

    async def bake(*_: Any) -> Finding:
        return await made.take("bake")

    monkeypatch.setattr(module, "bake", bake)
    monkeypatch.setattr(module, "try_gate", gate)
    monkeypatch.setattr(module, "run_hook", hook)
    monkeypatch.setattr(leading, "INTERVAL", 0.001)
    monkeypatch.setattr(leading, "PAUSE", 0.0)
    monkeypatch.setattr(module, "HOLD", 0.001)
    return made


class Mortal:
    """A store as a node sees it whose process is killed at one of its commits. After that it does nothing."""

    shared = True

    def __init__(self, store: Any, last: tuple[int, str] | None = None) -> None:
        """`last`: the number of the commit, and whether "before" or "after" it."""
        self._store = store
        self._last = last
        self.commits = 0
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, *arguments: Any, **more: Any) -> Any:
        number, self.commits = self.commits, self.commits + 1
        await self._may_die((number, "before"))
        made = await self._store.commit(*arguments, **more)
        await self._may_die((number, "after"))
        return made

    async def _may_die(self, moment: tuple[int, str]) -> None:
        if moment == self._last or self.died.is_set():
            self.died.set()
            await asyncio.Event().wait()


_ASKED = frozenset(
    {"now", "read", "nodes", "beat", "hold", "asleep", "recall", "keep", "tell", "told", "flips", "leave"}
)


class Cut:
    """A store as a node sees it that loses its line to it at one of its commits."""

    shared = True

    def __init__(self, store: Any, last: tuple[int, str]) -> None:
        self._store = store
        self._last = last
        self.commits = 0
        self.is_cut = False
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in _ASKED:
            return found

        async def asked(*arguments: Any, **more: Any) -> Any:
            if self.is_cut:
                raise StoreUnavailable("cut off")
            return await found(*arguments, **more)

        return asked

    async def commit(self, *arguments: Any, **more: Any) -> Any:
        number, self.commits = self.commits, self.commits + 1
        self._may_lose((number, "before"))
        if self.is_cut:
            raise StoreUnavailable("cut off")
        made = await self._store.commit(*arguments, **more)
        self._may_lose((number, "after"))
        if self.is_cut:
            raise StoreUnavailable("the answer was lost")
        return made

    def _may_lose(self, moment: tuple[int, str]) -> None:
        if moment == self._last:
            self.is_cut = True
            self.died.set()


class Nodes:
    """Nodes on one store and, unless it is said, one mirror, each with a conductor of its own."""

    def __init__(self, world: Any, steps: Steps) -> None:
        self.world = world
        self.steps = steps
        self.running: dict[str, Conductor] = {}
        self._owned: dict[str, tuple[Barrier, Mirror]] = {}

    async def add(
        self,
        name: str,
        *,
        options: RolloutOptions | None = None,
        default: Any = None,
        **own: Any,
    ) -> Conductor:
        """`own`: in place of what all nodes share, `store`, `mirror` and `ledger`."""
        world = self.world
        ledger, mirror, store = (own.get(part, getattr(world, part)) for part in ("ledger", "mirror", "store"))
        validator = Validator(ledger, mirror, world.probe)
        barrier = Barrier(ledger, mirror, store, name, FlipOptions(), Shut())
        switch = Switch(ledger, mirror, world.probe, validator, world.spread, barrier)
        if own:
            mirror.listen(barrier.apply)
            self._owned[name] = (barrier, mirror)

        routes = RouteTable((Route("default"),))
        told = options or RolloutOptions(), HealthOptions(), default or {}
        parts = name, ledger, mirror, store, switch
        made = Conductor(*parts, plan_from, lambda: routes, *told)
        await self.beat(name)
        made.start()
        self.running[name] = made
        return made

    async def beat(self, name: str) -> None:
        await self.world.store.beat(NodeReport(id=name, host="h", pid=1, version="1", epoch=1))

    async def dies(self, name: str) -> None:
        """As a process that is killed: nothing is handed over; its host signs it off."""
        dead = self.running.pop(name)
        dead._node_id = "a ghost"  # it has no time to say anything
        await dead.stop()
        await self._end_what_is_owned(name)
        await self.world.store.leave(name)

    async def close(self) -> None:
        for one in self.running.values():
            await one.stop()
        for name in [*self._owned]:
            await self._end_what_is_owned(name)

    async def _end_what_is_owned(self, name: str) -> None:
        for part in self._owned.pop(name, ()):
            await part.stop()


async def until(what: Callable[[], Any]) -> None:
    for _ in range(5_000):
        if what():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come true")
