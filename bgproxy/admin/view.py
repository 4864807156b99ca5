"""What a status is made of: the counters of all workers of this host, and what the nodes of other hosts report.

With the store away the other hosts are left out, and how many sessions live is not known: an incident is no time for a
status that fails or waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bgproxy.admin.seams import AdminDeps
from bgproxy.errors import Problem
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.retire import cost, no_return
from bgproxy.store.base import NodeReport
from bgproxy.store.flips import FlipRecord
from bgproxy.store.mirror import Mirror
from bgproxy.store.pinning import PinCount
from bgproxy.telemetry.metrics import merge

_TOLD = ("alarm", "conflict", "problem")
_LOADS = ("in_flight", "streams", "websockets")
_UPSTREAM = {"healthy": None, "reason": "", "in_flight": 0, "open": 0, "idle": 0, "failures": 0}


@dataclass(frozen=True, slots=True)
class View:
    """One look. `metrics`: of this host, merged; `nodes`: of every host, this one's first-hand.

    `complete`: the store was there to tell of the other hosts.
    `sessions`: live pins of the whole fleet by color and release; None while the store is away. `flip`: what became of
    those that the last flip left; None where the pointer has not moved yet, and while the store is away. `now`: unix
    seconds by the store's clock; while it is away by this host's, for numbers that only people read.
    """

    metrics: Mapping[str, Any]
    nodes: list[dict[str, Any]]
    elsewhere: list[dict[str, Any]]
    complete: bool
    sessions: Mapping[tuple[str, str], PinCount] | None
    store: Mapping[str, Any]
    workers: int
    flip: FlipRecord | None
    now: float

    @property
    def silent(self) -> list[str]:
        """Registered nodes, by id, that are not heard and not known to have fenced themselves: all wait for them."""
        return [node["id"] for node in self.nodes if node["state"] == "silent"]

    def load(self, color: str) -> dict[str, int]:
        """What runs on a color, on all hosts."""
        series = [one for one in self.metrics["series"] if one["color"] == color]
        return {
            name: sum(one[name] for one in series) + sum(node[name].get(color, 0) for node in self.elsewhere)
            for name in _LOADS
        }

    def sessions_on(self, state: FleetState, color: str) -> int | None:
        """Live sessions of the release that stands on a color; None while nobody knows."""
        release = state.releases.get(color)
        if release is not None and release.ended:
            return 0  # those that have not come back yet to be told so hold nothing
        if self.sessions is None:
            return None
        count = self._count(state, color)
        return count.live if count is not None else 0

    def last_expires(self, state: FleetState, color: str) -> float | None:
        """When (unix seconds) the last of these expires if none is used any more; None where there is none."""
        count = self._count(state, color)
        return count.last if count is not None else None

    def _count(self, state: FleetState, color: str) -> PinCount | None:
        release = state.releases.get(color)
        if release is None or release.ended:
            return None
        return (self.sessions or {}).get((color, release.label))

    def color(self, state: FleetState, color: str) -> dict[str, Any]:
        """The color resource."""
        release = state.releases.get(color)
        known = {one["url"]: one for one in self.metrics["upstreams"] if one["color"] == color}
        urls = (
            () if release is None else (*release.upstreams, *(url for some in release.routes.values() for url in some))
        )
        return {
            "color": color,
            "active": state.pointer.active == color,
            "release": release and release.label,
            "phase": release and str(release.phase),
            "origin": release and release.origin,
            "at": release and release.at,
            "upstreams": [_upstream(url, known.get(url, {})) for url in dict.fromkeys(urls)],
            "routes": {name: list(some) for name, some in release.routes.items()} if release else {},
            "metadata": dict(release.metadata) if release else {},
            **self.load(color),
            "sessions": self.sessions_on(state, color),
            **self._leave(state, color),
        }

    def _leave(self, state: FleetState, color: str) -> dict[str, Any]:
        """What it costs beside the active one, and how it is taken down."""
        release = state.releases.get(color)
        spent = cost(release, self.now) if release is not None and state.pointer.active != color else None
        order = release.retirement if release is not None else None
        said = no_return(release) if release is not None else ""
        return {
            "double_running": spent and spent.document(),
            "retirement": order and asdict(order),
            "after_this": said or None,
        }


async def look(deps: AdminDeps) -> View:
    """Ask the workers of this host and the store. Never raises for the store's sake."""
    snapshots = await deps.peers.snapshots()
    # This worker alone where no worker reported.
    stores = [snapshot["store"] for snapshot in snapshots] or [store_report(deps.mirror, deps.store.kind)]
    here = [snapshot["node"] for snapshot in snapshots]
    told, sessions, flip, now = await asyncio.gather(
        _elsewhere(deps, {node["id"] for node in here}), _sessions(deps), _flip(deps), _now(deps)
    )
    elsewhere = told or []
    return View(
        metrics=merge([snapshot["metrics"] for snapshot in snapshots]),
        nodes=sorted((*here, *elsewhere), key=lambda node: (node["host"], node["id"])),
        elsewhere=elsewhere,
        complete=told is not None,
        sessions=sessions,
        store=_store(stores),
        workers=len(snapshots),
        flip=flip,
        now=now,
    )


async def _elsewhere(deps: AdminDeps, here: set[str]) -> list[dict[str, Any]] | None:
    if not deps.mirror.connected:  # known to be away: not even its time-out is waited for
        return None
    try:
        return [node_json(node, fenced=deps.fenced(node)) for node in await deps.store.nodes() if node.id not in here]
    except Problem:
        return None


async def _sessions(deps: AdminDeps) -> Mapping[tuple[str, str], PinCount] | None:
    if not deps.mirror.connected:
        return None
    try:
        return await deps.store.pins.counts()
    except Problem:
        return None


async def _flip(deps: AdminDeps) -> FlipRecord | None:
    state = deps.mirror.state
    if state is None or not deps.mirror.connected:
        return None
    try:
        found = await deps.store.flips([state.pointer.epoch])
    except Problem:
        return None
    return found[0] if found else None


async def _now(deps: AdminDeps) -> float:
    if deps.mirror.connected:
        try:
            return await deps.store.now()
        except Problem:
            pass
    return time.time()


def readiness(mirror: Mirror, *, draining: bool) -> tuple[bool, dict[str, Any]]:
    """Whether a worker takes new requests, and what that hangs on; a store that is away, or has lost data, makes
    it degraded only."""
    state = mirror.state
    facts: dict[str, Any] = {
        "degraded": not mirror.connected or bool(mirror.alarm),
        "alarm": bool(mirror.alarm),
        "pointer_age": round(mirror.age, 3),
        "epoch": state.pointer.epoch if state else None,
        "draining": draining,
        "fenced": mirror.fenced,
    }
    return state is not None and not draining and not facts["fenced"], facts


def store_report(mirror: Mirror, kind: str) -> dict[str, Any]:
    """How one worker hears the store; `problem`: why it cannot be read; `alarm`: how it contradicts what is held;
    `conflict`: both sides of that, where only an operator can put it right; `fenced`: whether it admits nothing new."""
    contradiction = mirror.contradiction
    return {
        "state": "up" if mirror.connected else "down",
        "kind": kind,
        "age": mirror.age,
        "alarm": mirror.alarm,
        "conflict": contradiction.document() if contradiction is not None and not contradiction.heals else None,
        "problem": mirror.problem,
        "fenced": mirror.fenced,
    }


def _store(reports: list[Mapping[str, Any]]) -> dict[str, Any]:
    """How the store is heard on this host."""
    up = [one["state"] == "up" for one in reports]
    state = "up" if all(up) else "degraded" if any(up) else "down"
    age = max(one["age"] for one in reports)
    # Of several that something is told of, the first; an older worker beside this one does not tell all of it.
    told = {name: next(filter(None, (one.get(name) for one in reports)), None) for name in _TOLD}
    return {
        "state": state,
        "kind": reports[0]["kind"],
        "age": round(age, 3),
        **told,
        "fenced": sum(one["fenced"] for one in reports),
    }


def _upstream(url: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"url": url, **{name: found.get(name, default) for name, default in _UPSTREAM.items()}}


def node_json(node: NodeReport, *, fenced: bool = False) -> dict[str, Any]:
    """A node as it is shown; `fenced`: it admits nothing new."""
    return {
        "id": node.id,
        "host": node.host,
        "pid": node.pid,
        "version": node.version,
        "epoch": node.epoch,
        **{name: dict(getattr(node, name)) for name in _LOADS},
        "age": round(node.age, 3),
        "revision": node.revision,
        "oldest": dict(node.oldest),
        "serial": node.serial,
        "schema": node.schema,
        "protocol": node.protocol,
        "fence_after": node.fence_after,
        "state": "fenced" if fenced else "silent" if not node.live else "finishing" if node.finishing else "live",
    }
