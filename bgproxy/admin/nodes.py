"""`/v1/nodes`: the processes that serve this fleet, and those that are gone for good."""

from __future__ import annotations

from typing import Any

from bgproxy.admin.call import Call
from bgproxy.admin.view import look, node_json


async def nodes(call: Call) -> dict[str, Any]:
    """Every registered node, live or silent; while the store is away, this host's."""
    view = await look(call.deps)
    return {"nodes": view.nodes, "complete": view.complete, "silent": view.silent}


async def forget_node(call: Call) -> dict[str, Any]:
    """Take a node off the list: nothing waits for it any more. What it said last goes on record."""
    node_id, query = call.request.match_info["node"], call.query
    node = await call.deps.ledger.forget_node(node_id, actor=call.actor, reason=query["reason"], force=query["force"])
    return {**node_json(node), "forgotten": True}
