"""`/v1/colors`: what each color holds, and staging a release on one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from bgproxy.admin.call import Call
from bgproxy.admin.once import answered
from bgproxy.admin.pointer import milliseconds, terms
from bgproxy.admin.targets import refuse_targets
from bgproxy.admin.view import look
from bgproxy.rules.fleet import known
from bgproxy.rules.release import Release, checked
from bgproxy.store.ledger import Outcome
from bgproxy.store.once import Done, Once


async def colors(call: Call) -> dict[str, Any]:
    """All colors, in the order of the configuration."""
    state = call.deps.state()
    view = await look(call.deps)
    return {
        "colors": [view.color(state, color) for color in state.colors],
        "epoch": state.pointer.epoch,
        "revision": state.revision,
    }


async def color(call: Call) -> dict[str, Any]:
    """One color."""
    state = call.deps.state()
    known(state.colors, call.color)
    return (await look(call.deps)).color(state, call.color)


async def stage(call: Call) -> Mapping[str, Any] | web.StreamResponse:
    """Put a release on a color that is not active; the same one again changes nothing."""
    known(call.deps.state().colors, call.color)
    release = checked(release_of(call.body))
    took = 0.0

    async def ask(once: Once | None) -> Outcome:
        nonlocal took
        await refuse_targets(release, (call.deps.options.listen, *call.deps.reserved))
        began = time.perf_counter()
        outcome = await call.deps.switch.stage(call.color, release, actor=call.actor, once=once, **terms(call))
        took = milliseconds(began)
        return outcome

    async def tell(done: Done) -> dict[str, Any]:
        resource = (await look(call.deps)).color(call.deps.state(), call.color)
        return {**resource, "epoch": done.epoch, "changed": done.changed, "took_ms": took}

    return await answered(call, ask, tell)


async def retire(call: Call) -> dict[str, Any]:
    """Have a drained release taken down, or not; it answers at once, `retirement` and `phase` tell how far it is."""
    body, reason = call.body, call.body.get("reason", "")
    if body.get("cancel", False):
        outcome = await call.deps.retirer.cancel(call.color, actor=call.actor, reason=reason)
    else:
        terms = {"force": body.get("force", False), "when_drained": body.get("when_drained", False)}
        outcome = await call.deps.retirer.order(call.color, actor=call.actor, reason=reason, **terms)
    return {**(await look(call.deps)).color(outcome.state, call.color), "changed": outcome.changed}


def release_of(body: Any) -> Release:
    """The release that a request describes, as it came."""
    return Release(
        label=body["release"],
        upstreams=tuple(body.get("upstreams", ())),
        routes={name: tuple(urls) for name, urls in body.get("routes", {}).items()},
        metadata=body.get("metadata", {}),
        origin="api",
    )
