"""`/v1/flip`, `/v1/rollback`, `/v1/pause`, `/v1/resume`: what all nodes do together, through the switch alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from bgproxy.admin.call import Call
from bgproxy.admin.once import answered
from bgproxy.store.ledger import Outcome
from bgproxy.store.once import Done, Once


async def flip(call: Call) -> Mapping[str, Any] | web.StreamResponse:
    """Make a color the active one."""
    to = call.body["to"]
    began = time.perf_counter()

    async def ask(once: Once | None) -> Outcome:
        return await call.deps.switch.flip(to, actor=call.actor, once=once, **terms(call), **_nodes(call))

    async def tell(done: Done) -> dict[str, Any]:
        answer = _moved(done, began)
        if not done.changed:
            answer["detail"] = f"{to} is the active color already; nothing was changed"
        return answer

    return await answered(call, ask, tell)


async def rollback(call: Call) -> Mapping[str, Any] | web.StreamResponse:
    """Make the previous color the active one again."""
    began = time.perf_counter()

    async def ask(once: Once | None) -> Outcome:
        return await call.deps.switch.rollback(actor=call.actor, once=once, **terms(call), **_nodes(call))

    async def tell(done: Done) -> dict[str, Any]:
        return _moved(done, began)

    return await answered(call, ask, tell)


async def pause(call: Call) -> Mapping[str, Any]:
    """Let every node hold new requests, for work that needs a quiet moment."""
    began = time.perf_counter()
    max_hold = float(call.body.get("max_hold", 30))
    state = await call.deps.switch.pause(max_hold, actor=call.actor, reason=call.body.get("reason", ""))
    return {"paused": True, "max_hold": max_hold, "epoch": state.pointer.epoch, "took_ms": milliseconds(began)}


async def resume(call: Call) -> Mapping[str, Any]:
    """Let new requests go on."""
    outcome = await call.deps.switch.resume(actor=call.actor, reason=call.body.get("reason", ""))
    return {"paused": False, "changed": outcome.changed, "epoch": outcome.state.pointer.epoch}


def _nodes(call: Call) -> dict[str, Any]:
    """Which nodes the pointer waits for."""
    return {"strategy": call.body.get("strategy"), "exclude": call.body.get("exclude", ())}


def terms(call: Call) -> dict[str, Any]:
    """Under which terms a change is asked for."""
    body = call.body
    return {
        "reason": body.get("reason", ""),
        "if_epoch": body.get("if_epoch"),
        "force": body.get("force", False),
    }


def milliseconds(began: float) -> float:
    """Since `began`, by `perf_counter`."""
    return round((time.perf_counter() - began) * 1000, 3)


def _moved(done: Done, began: float) -> dict[str, Any]:
    took = milliseconds(began)  # first of all: what follows is not part of the flip
    return {
        "active": done.active,
        "previous": done.previous,
        "epoch": done.epoch,
        "took_ms": took,
        "changed": done.changed,
    }
