"""Nodes and their store under the test's hand: one clock, a line to the store that can be cut or held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from bgproxy.errors import StoreUnavailable
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Pin
from bgproxy.store.memory_pins import MemoryPins
from bgproxy.store.pin_outage import PinOptions
from bgproxy.store.pinning import Learned, PinCount, PinStore, Resolved, Turn, Want
from bgproxy.store.pins import PinCache
from tests.clocks import Clock

TTL = 600.0


def key(name: object) -> bytes:
    return str(name).encode().rjust(16, b"-")


def want(*names: object, **more: Any) -> Want:
    return Want(tuple(map(key, names)), **{"route": "chat", "preset": "mcp", "ttl": TTL, **more})


def learned(*names: object, pin: bytes | None = None, **more: Any) -> Learned:
    place = {"color": "blue", "release": "v1", "upstream": "", "epoch": 1}
    return Learned(tuple(map(key, names)), pin, **{**place, "route": "chat", "preset": "mcp", "ttl": TTL, **more})


class Line:
    """One node's line to the store: what went over it, and what is wrong with it."""

    def __init__(self, pins: PinStore) -> None:
        self.calls: list[tuple[str, int]] = []  # verb, and how many sessions at once
        self.is_cut = False
        self.loses_answers = False
        self.breaks = 0  # so many calls are lost on their way
        self.fenced = self.held_early = False
        self.road: asyncio.Event | None = None  # calls that are made now wait for it on their way
        self.gate: asyncio.Event | None = None  # answers wait for it
        self.ears = asyncio.Event()  # bells wait for it
        self.ears.set()
        self.state: FleetState | None = None
        self._pins = pins
        self._bells: list[asyncio.Queue[tuple[bytes, ...] | None]] = []

    @property
    def connected(self) -> bool:
        return not self.is_cut

    def cut(self) -> None:
        self.is_cut = True
        for heard in self._bells:
            heard.put_nowait(None)

    def mend(self) -> None:
        self.is_cut = False

    def count(self, verb: str) -> int:
        return sum(1 for called, _ in self.calls if called == verb)

    async def resolve(self, wants: Sequence[Want]) -> list[Resolved]:
        return cast("list[Resolved]", await self._over("resolve", len(wants), lambda: self._pins.resolve(wants)))

    async def learn(self, lessons: Sequence[Learned]) -> list[Resolved]:
        return cast("list[Resolved]", await self._over("learn", len(lessons), lambda: self._pins.learn(lessons)))

    async def refresh(self, keys: Sequence[bytes]) -> list[bytes]:
        return cast("list[bytes]", await self._over("refresh", len(keys), lambda: self._pins.refresh(keys)))

    async def end(self, keys: Sequence[bytes]) -> list[bool]:
        return cast("list[bool]", await self._over("end", len(keys), lambda: self._pins.end(keys)))

    async def place(self, pin: Pin, upstream: str) -> Pin | None:
        return cast("Pin | None", await self._over("place", 1, lambda: self._pins.place(pin, upstream)))

    async def move(self, key: bytes) -> Pin | None:
        return await self._pins.move(key)

    async def migrate(self, node: str, turns: Sequence[Turn]) -> list[Pin | None]:
        answer = await self._over("migrate", len(turns), lambda: self._pins.migrate(node, turns))
        return cast("list[Pin | None]", answer)

    async def applied(
        self, node: str, epoch: int, revision: int, turns: Sequence[Turn], *, anew: bool = True, serial: int = 0
    ) -> bool:
        verb = "applied anew" if anew else "applied"
        return bool(
            await self._over(
                verb, len(turns), lambda: self._pins.applied(node, epoch, revision, turns, anew=anew, serial=serial)
            )
        )

    async def idle(self, node: str, turns: Sequence[Turn]) -> None:
        await self._over("idle", len(turns), lambda: self._pins.idle(node, turns))

    async def find(self, key: bytes) -> Pin | None:
        return await self._pins.find(key)

    async def counts(self) -> Mapping[tuple[str, str], PinCount]:
        return await self._pins.counts()

    async def page(self, cursor: str, limit: int, color: str | None = None) -> tuple[list[tuple[Pin, float]], str]:
        return await self._pins.page(cursor, limit, color)

    async def watch(self) -> AsyncIterator[tuple[bytes, ...]]:
        if self.is_cut:
            raise StoreUnavailable("cut")
        heard: asyncio.Queue[tuple[bytes, ...] | None] = asyncio.Queue()
        self._bells.append(heard)
        listening = asyncio.ensure_future(self._listen(heard))
        try:
            while (ids := await heard.get()) is not None:
                yield ids
            raise StoreUnavailable("cut")
        finally:
            listening.cancel()
            self._bells.remove(heard)

    async def _listen(self, heard: asyncio.Queue[tuple[bytes, ...] | None]) -> None:
        async with aclosing(cast("AsyncGenerator[tuple[bytes, ...], None]", self._pins.watch())) as bells:
            async for ids in bells:
                await self.ears.wait()
                heard.put_nowait(ids)

    async def _over(self, verb: str, size: int, call: Callable[[], Any]) -> Any:
        self.calls.append((verb, size))
        await asyncio.sleep(0)
        if self.is_cut or self.breaks:
            self.breaks = max(0, self.breaks - 1)
            raise StoreUnavailable("cut")
        if self.road is not None:
            await self.road.wait()
        answer = await call()
        if self.gate is not None:
            await self.gate.wait()
        if self.is_cut or self.loses_answers:
            raise StoreUnavailable("the answer was lost")
        return answer


class Rig:
    """A fleet of blue (v1, active) and green (v2), its store, and any number of nodes."""

    def __init__(self, flips: Any) -> None:
        self.flips = flips
        self.clock = Clock(1_000_000.0)
        self.state: FleetState | None = flips.first().state
        self.nodes: dict[str, tuple[PinCache, Line]] = {}
        self.pins = MemoryPins(lambda: self.state, lambda: self.nodes, self.clock)
        self.naps: list[asyncio.Event] = []
        self.strayed: list[str] = []  # nodes that found a session elsewhere, though nobody had moved it

    def node(self, name: str = "one", **options: Any) -> tuple[PinCache, Line]:
        line = Line(self.pins)
        line.state = self.state
        cache = PinCache(
            line,
            line,
            name,
            PinOptions(**options),
            clock=self.clock,
            wall=self.clock,
            sleep=self._sleep,
            strayed=lambda: self.strayed.append(name),
        )
        self.nodes[name] = cache, line
        return cache, line

    def flip(self, *, heard: bool = True) -> int:
        assert self.state is not None
        self.state = self.flips.flip(self.state).state
        assert self.state is not None
        for _, line in self.nodes.values() if heard else ():
            line.state = self.state
        return self.state.pointer.epoch

    def order(self, pin: Pin, to: str, *, heard: bool = True) -> int:
        """An operator wants a session elsewhere; the revision of that order."""
        assert self.state is not None
        self.state = self.flips.order(self.state, pin, to).state
        assert self.state is not None
        for _, line in self.nodes.values() if heard else ():
            line.state = self.state
        return self.state.revision

    def moved(self, pin_id: bytes, to: str) -> Pin:
        """A session that some other node has moved."""
        kept = self.pins._kept(pin_id)
        assert kept is not None
        assert self.state is not None
        self.pins._moved(kept, to, self.state.releases[to].label, self.state.pointer)
        return kept.pin

    def stage(self, color: str, label: str) -> None:
        assert self.state is not None
        self.state = self.flips.stage(self.state, color, label).state
        for _, line in self.nodes.values():
            line.state = self.state

    def lose_everything(self) -> None:
        """The store is a new one, which knows the pointer but no pins."""
        self.pins = MemoryPins(lambda: self.state, lambda: self.nodes, self.clock)
        for _, line in self.nodes.values():
            line._pins = self.pins

    async def _sleep(self, seconds: float) -> None:
        nap = asyncio.Event()
        self.naps.append(nap)
        await nap.wait()

    async def wake(self) -> None:
        """Let all that sleeps between two tries go on."""
        naps, self.naps = self.naps, []
        for nap in naps:
            nap.set()
        await settle()


async def settle() -> None:
    for _ in range(25):
        await asyncio.sleep(0)


class Answers:
    """What a callback was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Pin | None, str]] = []

    def __call__(self, pin: Pin | None, why: str) -> None:
        self.told.append((pin, why))

    @property
    def pin(self) -> Pin:
        [(pin, _)] = self.told
        assert pin is not None
        return pin

    @property
    def why(self) -> str:
        [(_, why)] = self.told
        return why


async def resolved(cache: PinCache, *names: object, **more: Any) -> Answers:
    answers = Answers()
    cache.resolve(want(*names, **more), answers)
    await settle()
    return answers


def counted(cache: PinCache, name: str) -> int:
    return cast("int", cache.counted()[name])


def waiting(cache: PinCache) -> int:
    return cast("int", cache.counted()["gauges"]["waiting"])


def elsewhere(pin: Pin) -> Pin:
    return replace(pin, color="green", release="v2")
