"""A fleet, its clients and its operator put together for one fault, and what both sides saw of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Literal

from bench.history import STICKY, History, Request, Verdict
from bench.judge import check
from bench.reliability.agent import Agent
from bench.reliability.client import RELEASES, Clients, Notes
from bench.reliability.fleet import SECRET, Host, config, directory
from bench.reliability.line import FaultyLine
from bench.reliability.namespaces import Namespace
from bench.reliability.operator import Operator, percentile
from bench.reliability.stores import Cluster, Pair, Redis

WARM_UP = 1.5  # seconds before the fault
AFTER = 1.0  # seconds of load after the fleet has found itself again
LONGEST = 60.0  # seconds in which it must have
NOTICED = 2.0  # seconds after which every node is on the store again, and has told it of its sessions
Servers = Literal["one", "pair", "cluster"]


@dataclass(frozen=True, slots=True)
class Size:
    """How large the stage is. Connections of clients by what they do."""

    hosts: int = 1
    workers: int = 4  # of each host
    asking: int = 36
    conversing: int = 16
    streaming: int = 8
    talking: int = 4
    think: float = 0.03
    python: str = sys.executable
    outage: str = "refuse"  # on_store_outage: where the store is well, none is excused as the machine was too busy
    policy: str = "pinned"  # of sessions at a flip
    on_rollback: str = "stay"  # likewise; "move": half of the flips are rollbacks
    turns: int = 20  # of a session at most
    rest: float = 0.0  # seconds, now and then, between two of them
    pause: float = 0.0  # seconds between two flips
    store: str = ""  # further keys of [store]
    servers: Servers = "one"  # else with a replica, under a sentinel or in a Cluster, and reached without a line
    namespaces: bool = False  # each host is a network namespace, and reaches the store by a cable, not a line


@dataclass(slots=True)
class Seen:
    """What came of one fault. Times in seconds."""

    verdict: Verdict
    operator: Operator
    seconds: float  # that the fault lasted
    recovery: float  # from its end to the next flip that was made
    slowest: float  # of the slowest answer's head
    pause: float  # the longest time between two flips that were made
    strays: int = 0  # sessions that ran on two releases where the store was away, as `admit` lets them
    notes: Counter[str] = field(default_factory=Counter)  # what the fault has to say of itself

    @property
    def went_well(self) -> bool:
        """No guarantee was broken, and flips were made again."""
        return not self.verdict.broken and self.recovery < LONGEST


class Stage:
    """Everything that a fault can take hold of."""

    def __init__(self, size: Size, directory: Path) -> None:
        self.size = size
        self.notes = Notes()
        self.agents: dict[str, Agent] = {}
        self.hosts: list[Host] = []
        self.lines: list[FaultyLine] = []
        self.redis = Redis(directory / "redis")
        replicated = {"pair": Pair, "cluster": Cluster}.get(size.servers)
        self.pair = replicated(directory) if replicated is not None else None
        self.namespaces = [Namespace(number) for number in range(size.hosts if size.namespaces else 0)]
        self.operator = Operator([], SECRET, size.pause, 0.5 if size.on_rollback == "move" else 0.0)
        self.outages: list[tuple[float, float]] = []  # when a node may have been without the store
        self.marks: Counter[str] = Counter()
        self.dice = random.Random(1)
        self._directory = directory

    async def start(self) -> None:
        """Agents, Redis, hosts, each with a line of its own, clients and the operator's doors."""
        size = self.size
        for one in self.namespaces:
            one.make()
            one.reach(self.namespaces[0])  # where the agents are, for all: upstreams stand in the fleet's state
        for color, release in RELEASES.items():
            self.agents[color] = await Agent(release, self.notes.executions.append).start(
                "0.0.0.0" if self.namespaces else "127.0.0.1"
            )
        if self.pair is not None:
            await self.pair.start()
        else:
            await self.redis.start("--bind", "127.0.0.1", *(one.near("store") for one in self.namespaces))
        for number in range(size.hosts):
            line = await FaultyLine("127.0.0.1", self.redis.port).start()
            namespace = self.namespaces[number] if self.namespaces else None
            prefix: list[str] = []
            listen = here = "127.0.0.1"
            store = line.url
            if namespace is not None:
                prefix, listen, here = namespace.prefix, namespace.far("clients"), self.namespaces[0].near("clients")
                store = f"redis://{namespace.near('store')}:{self.redis.port}/0"
            elif self.pair is not None:
                store = self.pair.url
            host = Host(f"h{number}", self._directory, size.python, prefix)
            self.lines.append(line)
            self.hosts.append(host)
            text = config(
                listen=listen,
                store=store,
                agents={color: f"http://{here}:{agent.port}" for color, agent in self.agents.items()},
                workers=size.workers,
                directory=host.directory,
                outage=size.outage,
                policy=size.policy,
                on_rollback=size.on_rollback,
                keys=f"audit_keep = 100000\n{size.store}",
            )
            await host.start(text, size.workers)
        self.operator.doors = [host.admin for host in self.hosts]
        doors = [host.address for host in self.hosts]
        self.clients = Clients(self.notes, doors, think=size.think, turns=size.turns, rest=size.rest)

    async def close(self) -> None:
        """End all of it."""
        for host in self.hosts:
            await asyncio.to_thread(host.close)
        for line in self.lines:
            await line.stop()
        (self.redis if self.pair is None else self.pair).kill()
        for agent in self.agents.values():
            await agent.stop()
        for one in self.namespaces:
            one.close()

    # What faults do

    def worker(self) -> tuple[Host, int]:
        """Any worker that lives."""
        host = self.dice.choice([one for one in self.hosts if one.workers])
        return host, self.dice.choice(host.workers)

    def kill(self, host: Host, worker: int) -> None:
        """SIGKILL; its clients are excused."""
        self.notes.kill(*host.kill_worker(worker))

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Nodes may be without the store from here on, and for a moment after."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.outages.append((began, time.monotonic() + NOTICED))

    def unsure(self) -> set[str]:
        """The sessions with a turn while a node may have been without the store, where those are admitted: one node
        serves what another has not been told."""
        if self.size.outage != "admit":
            return set()
        turns = [(one.sent, one.answered, one.session) for one in self.notes.requests if one.session]
        return {
            session
            for sent, answered, session in turns
            if any(sent <= end and answered >= began for began, end in self.outages)
        }


Fault = Callable[[Stage, float], Awaitable[None]]
"""Goes wrong for about so many seconds, and mends it."""


async def see(fault: Fault, size: Size, seconds: float) -> Seen:
    """Play one fault under load and flips, and judge what was seen."""
    with directory() as name:
        stage = Stage(size, Path(name))
        try:
            await stage.start()
            return await _see(stage, fault, seconds)
        finally:
            await stage.close()


async def _see(stage: Stage, fault: Fault, seconds: float) -> Seen:
    size, operator, notes = stage.size, stage.operator, stage.notes
    stage.clients.start(asking=size.asking, conversing=size.conversing, streaming=size.streaming, talking=size.talking)
    flipping = asyncio.get_running_loop().create_task(operator.flip_on())
    await asyncio.sleep(WARM_UP)
    began = time.monotonic()
    await fault(stage, seconds)
    mended = time.monotonic()
    recovery = await _recovered(operator, mended)
    gathered = inf
    if size.policy == "follow" or size.on_rollback == "move":
        operator.over = True
        await flipping
        if await operator.roll_back():
            await asyncio.sleep(NOTICED)
            gathered = time.monotonic()
        else:
            recovery = LONGEST
    await asyncio.sleep(AFTER)
    operator.over = True
    await flipping
    await stage.clients.stop()
    await asyncio.sleep(0.2)  # agents hear of the last connections' ends
    unsure = stage.unsure()
    history = History(
        notes.requests,
        await operator.epochs(),
        notes.executions,
        dead=notes.dead,
        unsure=unsure,
        follow=size.policy == "follow",
        flee=size.on_rollback == "move",
        gathered=gathered,
        record=operator.record,
    )
    told = sorted(flip.told for flip in operator.flips.values())
    return Seen(
        verdict=check(history),
        operator=operator,
        seconds=mended - began,
        recovery=recovery,
        slowest=max((one.answered - one.sent for one in notes.requests if one.release), default=0.0),
        pause=max((later - earlier for earlier, later in itertools.pairwise(told)), default=0.0),
        strays=_strays(history),
        notes=stage.marks,
    )


def _strays(history: History) -> int:
    """Of the sessions that are excused from guarantee 3, those that would have broken it."""
    turns = defaultdict[str, list[Request]](list)
    for one in history.requests:
        if one.session in history.unsure:
            turns[one.session].append(one)
    runs = {one.request: one for one in history.executions}
    alone = replace(history, unsure=())
    return sum(
        STICKY
        in check(replace(alone, requests=said, executions=[runs[one.id] for one in said if one.id in runs])).broken
        for said in turns.values()
    )


async def _recovered(operator: Operator, mended: float) -> float:
    """Seconds until the first flip that was asked for after that is made."""
    while time.monotonic() < mended + LONGEST:
        for flip in reversed(operator.flips.values()):
            if flip.asked >= mended:
                return flip.told - mended
        await asyncio.sleep(0.005)
    return LONGEST


def told(seen: Seen) -> str:
    """A few lines for whoever looks on."""
    operator = seen.operator
    outcomes = ", ".join(f"{what}: {count}" for what, count in operator.outcomes.most_common())
    took = f"p50 {percentile(operator.took, 0.5) * 1e3:.1f} ms, p99 {percentile(operator.took, 0.99) * 1e3:.1f} ms"
    lines = [
        seen.verdict.told(),
        f"flips: {outcomes}; {took}; the next {seen.recovery:.2f} s after the fault, the longest time without one "
        f"{seen.pause:.2f} s; slowest answer {seen.slowest * 1e3:.0f} ms; sessions strayed: {seen.strays}, moved: "
        f"{seen.verdict.moved} times",
        *(f"{what}: {count}" for what, count in sorted(seen.notes.items())),
        *(f"{code}: {text}" for code, text in sorted(operator.told.items())),
    ]
    return "\n".join(lines)
