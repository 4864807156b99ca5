"""What the tests of the admin plane are made of: real store, mirror and ledger; the switch and the peers stand in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from bgproxy.admin.app import AdminDeps
from bgproxy.admin.options import AdminOptions, Token
from bgproxy.admin.view import node_json
from bgproxy.rules import barrier, retire, running
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import ManualGate, Plan
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import NodeReport
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.memory import MemoryStore
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import Once
from bgproxy.telemetry.metrics import Metrics

VIEWER = "viewer-0123456789abcdefghijklmnopqrs"
OPERATOR = "operator-9876543210zyxwvutsrqponmlkj"
TOKENS = (Token("dashboard", "viewer", VIEWER), Token("deploy", "operator", OPERATOR))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


class LedgerSwitch:
    """The switch without probes: straight to the ledger. Remembers what it was asked."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.asked: list[dict[str, Any]] = []

    async def recall(self, once: Once) -> Outcome | None:
        return await self.ledger.recall(once)

    async def flip(self, to: str, **terms: Any) -> Outcome:
        self.asked.append({"to": to, **terms})
        return await self.ledger.flip(to, **_alone(terms))

    async def rollback(self, **terms: Any) -> Outcome:
        self.asked.append(terms)
        return await self.ledger.rollback(**_alone(terms))

    async def pause(self, max_hold: float, **who: str) -> FleetState:
        return (await self.ledger.make(lambda state: barrier.pause(state, max_hold=max_hold, **who))).state

    async def resume(self, **who: str) -> Outcome:
        return await self.ledger.make(lambda state: barrier.resume(state, **who))

    async def stage(self, color: str, release: Release, **terms: Any) -> Outcome:
        self.asked.append({"color": color, **terms})
        return await self.ledger.stage(color, release, **terms)


def _alone(terms: dict[str, Any]) -> dict[str, Any]:
    """Without what is said of other nodes."""
    return {name: value for name, value in terms.items() if name not in ("strategy", "exclude")}


class LedgerRuns:
    """Runs without a conductor: straight to the ledger. `plan`: what every plan is taken for."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.plan = Plan(gates=(ManualGate(name="look", four_eyes=True),))

    async def begin(
        self, color: str, release: Release | None, written: Any, *, once: Once | None, **terms: Any
    ) -> Outcome:
        def decide(state: FleetState) -> Change | None:
            return running.begin(state, color, release, self.plan, written, leader="here-1", at=5.0, **terms)

        return await self.ledger.make(decide, once=once)

    async def approve(self, gate: str, **terms: Any) -> Outcome:
        name = gate or "look"
        return await self.ledger.make(lambda state: running.approve(state, name, four_eyes=True, **terms))

    async def abort(self, **terms: Any) -> Outcome:
        return await self.ledger.make(lambda state: running.abort(state, at=6.0, **terms))

    async def passes(self, times: int) -> None:
        """So many steps of the run pass."""
        for _ in range(times):
            await self.ledger.make(self._next)

    def _next(self, state: FleetState) -> Change | None:
        assert state.run is not None
        found = Finding(Verdict.PASS, "fine")
        return running.record(state, state.run.id, "here-1", state.run.next, found, at=6.0, took=0.5)


class LedgerRetirer:
    """A retirer that runs nothing: straight to the ledger. `window`: the rollback window."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.window = 0.0

    async def order(self, color: str, **terms: Any) -> Outcome:
        at = time.time()
        return await self.ledger.make(lambda state: retire.order(state, color, window=self.window, at=at, **terms))

    async def cancel(self, color: str, **who: str) -> Outcome:
        return await self.ledger.make(lambda state: retire.cancel(state, color, at=time.time(), **who))

    async def finishes(self, color: str, finding: Finding) -> None:
        """The order is carried out."""
        at = time.time() + 1
        label = (await self.ledger.make(lambda _: None)).state.releases[color].label
        await self.ledger.make(lambda state: retire.lead(state, color, label, "", "n1", at=at))
        await self.ledger.make(lambda state: retire.finish(state, color, label, "n1", finding, at=at))


def worker(
    name: str, *, up: bool = True, age: float = 0.0, upstreams: Any = (), sessions: Any = None
) -> tuple[Metrics, dict[str, Any]]:
    """A worker's counters and the snapshot that its peers see (taken anew by `Workers`)."""
    metrics = Metrics()
    node = NodeReport(id=name, host="here", pid=1, version="0", epoch=1)
    store = {
        "state": "up" if up else "down",
        "kind": "memory",
        "age": age,
        "alarm": "",
        "conflict": None,
        "problem": "",
        "fenced": False,
    }
    return metrics, {"node": node, "store": store, "upstreams": list(upstreams), "sessions": sessions, "started": 0.0}


@dataclass
class Workers:
    """The peers: metrics objects of this process, one per pretended worker."""

    workers: list[tuple[Metrics, dict[str, Any]]] = field(default_factory=list)

    async def snapshots(self) -> list[dict[str, Any]]:
        return [
            {
                **facts,
                "node": node_json(
                    replace(facts["node"], **{n: metrics.by_color(n) for n in ("in_flight", "streams", "websockets")})
                ),
                "metrics": metrics.snapshot(facts["upstreams"], facts["sessions"]),
            }
            for metrics, facts in self.workers
        ]


@dataclass
class Plane:
    """What a test sets before it makes a client."""

    store: MemoryStore
    mirror: Mirror
    ledger: Ledger
    switch: LedgerSwitch
    runs: LedgerRuns
    retirer: LedgerRetirer
    peers: Workers
    moved: list[tuple[str, str]] = field(default_factory=list)
    fenced: set[tuple[str, int]] = field(default_factory=set)
    ready: tuple[bool, dict[str, Any]] = (True, {"degraded": False})

    def deps(self, options: AdminOptions | None = None, **more: Any) -> AdminDeps:
        return AdminDeps(
            options=options or AdminOptions(),
            fleet="agents",
            ledger=self.ledger,
            mirror=self.mirror,
            store=self.store,
            switch=self.switch,
            runs=self.runs,
            retirer=self.retirer,
            peers=self.peers,
            ready=lambda: self.ready,
            version="9.9.9",
            fenced=lambda node: (node.id, node.serial) in self.fenced,
            has_moved=lambda preset, color: self.moved.append((preset, color)),
            **more,
        )


def hear_nothing(plane: Plane, seconds: float) -> None:
    """From now on whoever has beaten has been silent for so long."""
    plane.store._nodes._clock = lambda: time.monotonic() + seconds


def release(label: str, port: int, phase: Phase = Phase.READY) -> Release:
    return Release(label, (f"http://127.0.0.1:{port}",), phase=phase, origin="config")
