"""`/v1/status`: the fleet as it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bgproxy.admin.call import Call
from bgproxy.admin.run import run_json
from bgproxy.admin.view import look
from bgproxy.rules.canary import canary
from bgproxy.rules.fleet import FleetState


async def status(call: Call) -> dict[str, Any]:
    """Everything at one look."""
    state = call.deps.state()
    view = await look(call.deps)
    return {
        "fleet": call.deps.fleet,
        **asdict(state.pointer),
        "revision": state.revision,
        "colors": {color: view.color(state, color) for color in state.colors},
        "nodes": view.nodes,
        "silent": view.silent,
        "store": view.store,
        "pending": _members(state.pending, "verb", "to", "epoch", "actor", "reason"),
        "pause": _members(state.pause, "actor", "reason", "max_hold"),
        "flip": view.flip.document() if view.flip is not None else None,
        "run": run_json(state.run) if state.run is not None and state.run.is_open else None,
        "canary": _canary(state),
        "version": call.deps.version,
        "runtime_dir": call.deps.runtime_dir,
    }


def _canary(state: FleetState) -> dict[str, Any] | None:
    """The one that is on."""
    on = canary(state)
    if on is None:
        return None
    lists = [{"header": one.header, "cookie": one.cookie, "values": list(one.values)} for one in on.match]
    return {"color": on.color, "release": on.release, "share": on.share, "since": on.since, "match": lists}


def _members(hold: object, *names: str) -> dict[str, Any] | None:
    return None if hold is None else {name: getattr(hold, name) for name in names}
