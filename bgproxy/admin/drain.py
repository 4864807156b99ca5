"""`/v1/colors/{color}/drain`: what still holds a color that traffic has left, over all nodes.

It tells what the drain itself looks at; whether a release is drained is decided there, and stands in its phase.
"""

from __future__ import annotations

from typing import Any

from bgproxy.admin.call import Call
from bgproxy.admin.view import View, look
from bgproxy.errors import UnknownColor
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Phase

_LEAVING = (Phase.STANDBY, Phase.ROLLED_BACK)


async def drain(call: Call) -> dict[str, Any]:
    """What holds the color; nothing where it is drained."""
    state, color = call.deps.state(), call.color
    if color not in state.colors:
        raise UnknownColor(f"there is no color {color[:64]!r}; this fleet has {', '.join(state.colors)}")
    view = await look(call.deps)
    blockers = _blockers(state, color, view)
    release = state.releases.get(color)
    return {
        "color": color,
        "active": state.pointer.active == color,
        "release": release and release.label,
        "phase": release and str(release.phase),
        "drained": not blockers,
        "sessions": view.sessions_on(state, color),
        "last_expires": view.last_expires(state, color),
        **view.load(color),
        "blockers": blockers,
    }


def _blockers(state: FleetState, color: str, view: View) -> list[dict[str, Any]]:
    """Each reason why the color is not drained; the biggest holders first within their kind."""
    if state.pointer.active == color:
        return [_blocker("active", f"{color} is active and takes new sessions: flip to another color first")]
    found = []
    sessions = view.sessions_on(state, color)
    if sessions is None:
        found.append(_blocker("store", "the store is away, so nobody knows how many sessions live there"))
    elif sessions:
        found.append(_blocker("sessions", f"live sessions on its release: {sessions}", count=sessions))
    for node in sorted(view.nodes, key=lambda node: -node["in_flight"].get(color, 0)):
        if count := node["in_flight"].get(color, 0):
            parts = f"streams {node['streams'].get(color, 0)}, WebSockets {node['websockets'].get(color, 0)}"
            found.append(_blocker("in_flight", f"in flight on {node['id']}: {count} ({parts})", node["id"], count))
    release = state.releases.get(color)
    if release is None or release.phase not in _LEAVING:
        return found  # what never was active, or is drained already, waits for nobody
    epoch = state.pointer.epoch
    late = [node for node in view.nodes if node["epoch"] < epoch]
    found += [
        _blocker("node", f"{node['id']} is at epoch {node['epoch']} and has not applied {epoch} yet", node["id"])
        for node in late
    ]
    return found or [_blocker("phase", "nothing holds it; that is looked at a few times before it counts as drained")]


def _blocker(kind: str, detail: str, node: str | None = None, count: int = 0) -> dict[str, Any]:
    return {"kind": kind, "detail": detail, "node": node, "count": count}
