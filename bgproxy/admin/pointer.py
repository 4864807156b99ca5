"""`/v1/flip` and `/v1/rollback`: the pointer moves, through the switch and nothing else."""

from __future__ import annotations

import time
from typing import Any

from bgproxy.admin.call import Call
from bgproxy.store.ledger import Outcome


async def flip(call: Call) -> dict[str, Any]:
    """Make a color the active one."""
    to = call.body["to"]
    began = time.perf_counter()
    outcome = await call.deps.switch.flip(to, actor=call.actor, **terms(call))
    answer = _moved(outcome, began)
    if not outcome.changed:
        answer["detail"] = f"{to} is the active color already; nothing was changed"
    return answer


async def rollback(call: Call) -> dict[str, Any]:
    """Make the previous color the active one again."""
    began = time.perf_counter()
    outcome = await call.deps.switch.rollback(actor=call.actor, **terms(call))
    return _moved(outcome, began)


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


def _moved(outcome: Outcome, began: float) -> dict[str, Any]:
    took = milliseconds(began)  # first of all: what follows is not part of the flip
    pointer = outcome.state.pointer
    return {
        "active": pointer.active,
        "previous": pointer.previous,
        "epoch": pointer.epoch,
        "took_ms": took,
        "changed": outcome.changed,
    }
