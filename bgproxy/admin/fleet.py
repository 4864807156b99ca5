"""`/v1/status`, `/v1/nodes` and `/v1/audit`: the fleet as it is, and how it came to be so."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bgproxy.admin.call import Call
from bgproxy.admin.view import look
from bgproxy.store.base import AuditEntry


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
        "flip": view.flip.document() if view.flip is not None else None,
        "version": call.deps.version,
    }


async def nodes(call: Call) -> dict[str, Any]:
    """Every node that is known; without the other hosts' while the store is away."""
    return {"nodes": (await look(call.deps)).nodes}


async def audit(call: Call) -> dict[str, Any]:
    """A page of the record, newest first; `next` is the `before` of the page behind it, null on the last one."""
    limit = call.query["limit"]
    entries = await call.deps.ledger.audit(limit=limit, before=call.query.get("before"))
    return {
        "entries": [_entry(entry) for entry in entries],
        "next": entries[-1].id if len(entries) == limit else None,
    }


def _entry(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at,
        "verb": entry.verb,
        "actor": entry.actor,
        "reason": entry.reason,
        "epoch": entry.epoch,
        "revision": entry.revision,
        "facts": dict(entry.facts),
    }
