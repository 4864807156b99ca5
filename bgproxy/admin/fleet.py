"""`/v1/status`: the fleet as it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bgproxy.admin.call import Call
from bgproxy.admin.run import run_json
from bgproxy.admin.view import look


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
        "store": view.store,
        "pending": _members(state.pending, "verb", "to", "epoch", "actor", "reason"),
        "pause": _members(state.pause, "actor", "reason", "max_hold"),
        "flip": view.flip.document() if view.flip is not None else None,
        "run": run_json(state.run) if state.run is not None and state.run.is_open else None,
        "version": call.deps.version,
        "runtime_dir": call.deps.runtime_dir,
    }


def _members(hold: object, *names: str) -> dict[str, Any] | None:
    return None if hold is None else {name: getattr(hold, name) for name in names}
