"""A bake by itself: the release that is active is watched against the one before it, whoever has flipped to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bgproxy.errors import BadInput, Refused
from bgproxy.rules.fleet import Change, FleetState, changed, fresh, recorded
from bgproxy.rules.plan import Plan
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.run import BAKE, Run


def begin_bake(
    state: FleetState,
    color: str,
    plan: Plan,
    written: Mapping[str, object],
    *,
    leader: str,
    actor: str,
    reason: str,
    at: float,
    if_epoch: int | None = None,
) -> Change | None:
    """Begin to watch the active color as the plan's [bake] has it, and no more of the plan; None where it is under way.

    Its epoch is the one before the flip, as with every run that has flipped. Raises `BadInput` for a plan without a
    bake, `StaleEpoch`, and `Refused`.
    """
    fresh(state, if_epoch)
    release, run = state.releases.get(color), state.run
    if plan.bake is None:
        raise BadInput("bake is missing in the plan: write [bake] and a limit below it")
    kept = {BAKE: written[BAKE]}
    if run is not None and run.is_open:
        if (run.kind, run.color, run.plan) == ("bake", color, kept):
            return None
        raise Refused(f"{run.label} on {run.color} is under way by {run.actor} ({run.id}): wait, or abort it first")
    if release is None or color != state.pointer.active:
        raise Refused(f"{color} is not active: what takes the traffic is watched, on {state.pointer.active}")
    if state.pointer.previous is None:
        raise Refused(
            "there is nothing to roll back to: the pointer has not moved yet, so there is nothing to watch for"
        )
    if gone := _gone(state.releases.get(state.pointer.previous)):
        raise Refused(f"there is nothing to roll back to on {state.pointer.previous}, {gone}, so nothing to watch for")
    name, epoch = f"r{state.revision + 1}", state.pointer.epoch - 1
    new = Run(name, "bake", color, release.label, kept, (BAKE,), actor, reason, epoch, leader, began=at, at=at)
    facts = recorded(state, {}, color=color, release=release.label, run=name, step="begin", kind="bake", plan=kept)
    if run is not None and run.tell:
        facts["untold"] = list(run.tell)
    return changed(replace(state, run=new), {}, "release", facts, actor, reason)


def _gone(release: Release | None) -> str:
    """Why the release before is none to roll back to; empty where it is one."""
    if release is None:
        return "it is empty"
    if release.is_taken_down:
        return f"{release.label} is being taken down"
    return f"{release.label} is retired" if release.phase is Phase.RETIRED else ""
