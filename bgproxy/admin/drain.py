"""`/v1/colors/{color}/drain`: what still holds a color that traffic has left, over all nodes, and its deadline.

It tells what the drain itself looks at; whether a release is drained is decided there, and stands in its phase.
"""

from __future__ import annotations

from typing import Any

from bgproxy.admin.call import Call
from bgproxy.admin.seams import AdminDeps
from bgproxy.admin.view import View, look
from bgproxy.rules.fleet import FleetState, known
from bgproxy.rules.release import LEAVING, Release


async def drain(call: Call) -> dict[str, Any]:
    """What holds the color; nothing where it is drained."""
    return await _shown(call.deps, call.deps.state(), call.color)


async def set_deadline(call: Call) -> dict[str, Any]:
    """When the sessions that still live on the color are ended; null cancels."""
    seconds, reason = call.body["deadline"], call.body.get("reason", "")
    outcome = await call.deps.ledger.set_deadline(call.color, seconds, actor=call.actor, reason=reason)
    return {**await _shown(call.deps, outcome.state, call.color), "changed": outcome.changed}


async def _shown(deps: AdminDeps, state: FleetState, color: str) -> dict[str, Any]:
    known(state.colors, color)
    view = await look(deps)
    blockers = _blockers(state, color, view)
    release = state.releases.get(color)
    return {
        "color": color,
        "active": state.pointer.active == color,
        "release": release and release.label,
        "phase": release and str(release.phase),
        "drained": not blockers,
        **_deadline(release, view.now),
        "sessions": view.sessions_on(state, color),
        "last_expires": view.last_expires(state, color),
        **view.load(color),
        "oldest": max((node["oldest"][color] for node in view.nodes if color in node["oldest"]), default=None),
        "blockers": sorted(blockers, key=lambda blocker: -blocker["count"]),
    }


def _deadline(release: Release | None, now: float) -> dict[str, Any]:
    if release is None or not release.deadline:
        return {"deadline": None, "seconds_left": None, "ended": False}
    left = 0.0 if release.ended else max(0.0, release.deadline - now)
    return {"deadline": release.deadline, "seconds_left": round(left, 3), "ended": release.ended}


def _blockers(state: FleetState, color: str, view: View) -> list[dict[str, Any]]:
    """Each reason why the color is not drained."""
    if state.pointer.active == color:
        return [_blocker("active", f"{color} is active and takes new sessions: flip to another color first")]
    found = []
    sessions = view.sessions_on(state, color)
    if sessions is None:
        found.append(_blocker("store", "the store is away, so nobody knows how many sessions live there"))
    elif sessions:
        found.append(_blocker("sessions", f"live sessions on its release: {sessions}", count=sessions))
    found += [_load(node, color) for node in view.nodes if node["in_flight"].get(color, 0)]
    release = state.releases.get(color)
    if release is None or release.phase not in LEAVING:
        return found  # what never was active, or is drained already, waits for nobody
    epoch = state.pointer.epoch
    late = [node for node in view.nodes if node["epoch"] < epoch]
    found += [
        _blocker(
            "node",
            f"{node['id']} is at epoch {node['epoch']} and has not applied {epoch} yet{_silence(node)}",
            node["id"],
        )
        for node in late
    ]
    return found or [_blocker("phase", "nothing holds it; that is looked at a few times before it counts as drained")]


def _load(node: dict[str, Any], color: str) -> dict[str, Any]:
    """What one node has in flight on the color."""
    count, oldest = node["in_flight"][color], node["oldest"].get(color)
    parts = f"streams {node['streams'].get(color, 0)}, WebSockets {node['websockets'].get(color, 0)}"
    since = f", the oldest for {oldest:.0f} s" if oldest is not None else ""
    detail = f"in flight on {node['id']}: {count} ({parts}{since}){_silence(node)}"
    blocker = _blocker("in_flight", detail, node["id"], count)
    return {**blocker, "oldest": oldest}


def _silence(node: dict[str, Any]) -> str:
    """What is to be done about a node that was not heard for long."""
    if node["state"] != "silent":
        return ""
    return f"; it was last heard {node['age']:.0f} s ago: if it is gone for good, `bgproxy nodes forget {node['id']}`"


def _blocker(kind: str, detail: str, node: str | None = None, count: int = 0) -> dict[str, Any]:
    return {"kind": kind, "detail": detail, "node": node, "count": count, "oldest": None}
