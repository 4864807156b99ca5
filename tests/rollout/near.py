"""Nodes of one host on one store, which give one another their word without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from bgproxy.rollout.barrier import Barrier, FlipOptions
from bgproxy.rollout.nearby import Nearby
from bgproxy.rollout.promises import Promise
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import NodeReport, Store, StoreOptions, open_store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror

RELEASES = {
    color: Release(label, ("http://127.0.0.1:1",), phase=Phase.READY)
    for color, label in (("blue", "v1"), ("green", "v2"))
}


class Near:
    """One of them. `doors`: whether new admissions wait, at each change of that; `listed`: nodes, as it last saw."""

    def __init__(self, name: str, store: Store, options: FlipOptions) -> None:
        self.name = name
        self.store = store
        self.listed = 0
        self.now = 0.0  # by its own clock, in seconds
        self.doors = [False]
        self.is_early = False
        self.mirror = Mirror(store)
        self.ledger = Ledger(store, self.mirror, lambda: 1.0)
        own = self.ledger, self.mirror, store, name
        self.barrier = Barrier(*own, options, self)
        self.promises = self.barrier.promises
        self.host = Host()
        self.nearby = Nearby(*own, self.promises, cast("Any", self.host), lambda: self.listed, clock=lambda: self.now)
        self.mirror.listen(self._applied)
        self.mirror.listen(self.barrier.apply)

    async def start(self) -> None:
        """Register, then follow the store."""
        await self.store.beat(NodeReport(self.name, "host", 1, "0", 1))
        await self.mirror.start()

    async def stop(self) -> None:
        """As by a kill: the store is told nothing."""
        await self.barrier.stop()
        await self.mirror.stop()

    @property
    def is_shut(self) -> bool:
        return self.doors[-1]

    def shut(self) -> None:
        self.is_early = True
        self._turn(True)

    def settle(self) -> None:
        self.is_early = False
        self._applied(self.state)

    def _applied(self, state: FleetState) -> None:
        self._turn(state.is_held or self.is_early)

    def _turn(self, shut: bool) -> None:
        if shut != self.doors[-1]:
            self.doors.append(shut)

    @property
    def state(self) -> FleetState:
        assert self.mirror.state is not None
        return self.mirror.state

    async def verbs(self) -> list[str]:
        """On record, but for the first."""
        return [entry.verb for entry in reversed(await self.store.audit(limit=100))][1:]


async def begun(*names: str, hold_timeout: float = 60.0) -> list[Near]:
    """So many of a fleet that has begun on blue; the first of them knows it."""
    store = open_store(StoreOptions())
    nodes = [Near(name, store, FlipOptions(hold_timeout=hold_timeout)) for name in names]
    await nodes[0].ledger.bootstrap(("blue", "green"), "blue", RELEASES, actor="test")
    return nodes


async def come(true: Callable[[], bool]) -> None:
    """Wait until it is."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for happens in the tasks of several nodes
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Let what can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


class Host:
    """The siblings of one node, as it sees them."""

    def __init__(self) -> None:
        self.others: list[Near] = []
        self.asked: list[Asking] = []

    def doors(self) -> list[Path]:
        return [Path(other.name) for other in self.others]

    def ask(self, _: list[Path], revision: int) -> Asking:
        self.asked.append(Asking(self.others, revision))
        return self.asked[-1]


class Asking:
    """`nothing_came`: what was said of that in the end; None before."""

    def __init__(self, others: list[Near], revision: int) -> None:
        self.nothing_came: bool | None = None
        self._given: dict[Near, Promise | None] = {other: other.promises.give(revision) for other in others}

    async def held(self, _: float) -> frozenset[str] | None:
        return frozenset(one.name for one in self._given) if all(self._given.values()) else None

    def end(self, *, nothing_came: bool) -> None:
        self.nothing_came = nothing_came
        for other, promise in self._given.items():
            if promise is not None:
                other.promises.end(promise, nothing_came=nothing_came)
