"""`/v1/run`: the release that is being brought out by a plan, or the last that was; beginning, approving, aborting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from bgproxy.admin.call import Call
from bgproxy.admin.colors import release_of
from bgproxy.admin.once import answered
from bgproxy.admin.targets import refuse_targets
from bgproxy.errors import BadInput, NoRun, StoreUnavailable
from bgproxy.rules.fleet import FleetState, known
from bgproxy.rules.mirrored import tally_from, together
from bgproxy.rules.release import checked
from bgproxy.rules.run import APPROVAL, MIRROR, Run
from bgproxy.rules.watch import JUDGEMENT, watched
from bgproxy.store.ledger import Outcome
from bgproxy.store.once import Done, Once


async def run(call: Call) -> dict[str, Any]:
    """The run that stands, with what is seen of it while it is mirrored, and while it bakes."""
    state = call.deps.state()
    return {**shown(state), "watch": await _seen(call, state), "mirrored": await _mirrored(call, state.run)}


async def _seen(call: Call, state: FleetState) -> dict[str, Any] | None:
    """What the leader told last; None where nothing is watched, or that cannot be had now."""
    if not (topic := watched(state).name):
        return None
    try:
        text = (await call.deps.store.told(topic)).get(JUDGEMENT)
        return dict(orjson.loads(text)) if text else None
    except (StoreUnavailable, ValueError, TypeError):
        return None


async def _mirrored(call: Call, run: Run | None) -> dict[str, Any] | None:
    """What all nodes have told so far; None where nothing is mirrored, or that cannot be had now."""
    if run is None or not run.is_open or run.next != MIRROR:
        return None
    try:
        nodes = await call.deps.store.nodes()
    except StoreUnavailable:
        return None
    return together(tally_from(node.mirrored) for node in nodes if node.mirrored.get("run") == run.id).document()


async def begin_run(call: Call) -> Mapping[str, Any] | web.StreamResponse:
    """Begin to run a plan; the same one that is under way changes nothing."""
    body = call.body
    color, kind = body["color"], body.get("kind", "release")
    known(call.deps.state().colors, color)
    if kind == "release" and "release" not in body:
        raise BadInput("release is missing: the label of what is brought out")
    release = checked(release_of(body)) if kind == "release" else None
    if release is None and (given := {"release", "upstreams", "routes", "metadata"} & body.keys()):
        what = f"what is validated is what waits on {color}" if kind == "validate" else "what is active is watched"
        raise BadInput(f"{min(given)}: {what}; leave it out, or begin a release")

    async def ask(once: Once | None) -> Outcome:
        if release is not None:
            await refuse_targets(release, (call.deps.options.listen, *call.deps.reserved))
        return await call.deps.runs.begin(
            color,
            release,
            body.get("plan"),
            actor=call.actor,
            reason=body.get("reason", ""),
            if_epoch=body.get("if_epoch"),
            force=body.get("force", False),
            once=once,
            kind=kind,
        )

    async def tell(done: Done) -> dict[str, Any]:
        return {**shown(call.deps.state()), "changed": done.changed}

    return await answered(call, ask, tell)


async def approve_run(call: Call) -> dict[str, Any]:
    """Say yes to a gate that waits for it."""
    gate, reason = call.body.get("gate", ""), call.body.get("reason", "")
    outcome = await call.deps.runs.approve(gate, actor=call.actor, reason=reason)
    return {**shown(outcome.state), "changed": outcome.changed}


async def abort_run(call: Call) -> dict[str, Any]:
    """End it."""
    outcome = await call.deps.runs.abort(actor=call.actor, reason=call.body.get("reason", ""))
    return {**shown(outcome.state), "changed": outcome.changed}


def shown(state: FleetState) -> dict[str, Any]:
    """The run as it is told. Raises `NoRun` where there never was one."""
    if state.run is None:
        raise NoRun("no release was brought out by a plan yet: `bgproxy release` does")
    return run_json(state.run)


def run_json(run: Run) -> dict[str, Any]:
    """A run as it is told: every step, those to come without a verdict."""
    done = {step.name: step for step in run.done}
    steps = []
    for name in run.todo:
        step = done.get(name)
        told = {"verdict": str(step.verdict), "why": step.why, "at": step.at, "took": step.took} if step else {}
        steps.append({"name": name, "verdict": None, "why": "", "at": None, "took": None, **told})
    return {
        "id": run.id,
        "kind": run.kind,
        "color": run.color,
        "release": run.label,
        "actor": run.actor,
        "reason": run.reason,
        "leader": run.leader,
        "began": run.began,
        "at": run.at,
        "epoch": run.epoch,
        "open": run.is_open,
        "outcome": run.outcome or None,
        "why": run.why,
        "step": run.next if run.is_open and run.next else None,
        "waits_for": run.next.removeprefix(APPROVAL) if run.is_open and run.next.startswith(APPROVAL) else None,
        "waits_text": _what_to_look_at(run),
        "trouble": run.trouble,
        "approvals": dict(run.approvals),
        "steps": steps,
    }


def _what_to_look_at(run: Run) -> str:
    """What the plan tells whoever has to approve something now; empty where that is nobody."""
    written: Any = run.plan.get("gate", ()) if run.is_open else ()
    for number, gate in enumerate(written, start=1):
        if run.next == APPROVAL + (gate.get("name") or f"manual-{number}"):
            return str(gate.get("text", ""))
    return ""
