"""How a release's run changes: it begins, each step is put on record, it is approved, aborted, taken over, ended.

Each step is put on record in the change that moves the release's phase, by the node that leads and by nobody else: of
two that think so, the change of one is late, and None. A gate whose leader died may so be tried twice; the pointer
moves once, as the flip is asked for at the epoch at which the run began, and an aborted release is not READY any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from bgproxy.errors import Refused
from bgproxy.rules import fleet
from bgproxy.rules.baking import begin_bake
from bgproxy.rules.fleet import Change, FleetState, changed, known, recorded
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Plan
from bgproxy.rules.release import UNTRIED, Event, Phase, Release, checked
from bgproxy.rules.run import (
    AFTER,
    APPROVAL,
    BAKE,
    BEFORE,
    CANARY,
    FLIP,
    REVERT,
    Kind,
    Outcome,
    Run,
    Step,
    after_the_end,
    steps,
    told_of_the_end,
)

ACTOR: Final = "bgproxy"
"""On record for what is found out; what is done is on record for who asked for it."""

_WORDS: Final = {Verdict.FAIL: "failed", Verdict.UNDECIDED: "could not be decided"}


def begin(
    state: FleetState,
    color: str,
    release: Release | None,
    plan: Plan,
    written: Mapping[str, object],
    *,
    leader: str,
    actor: str,
    reason: str,
    at: float,
    if_epoch: int | None = None,
    force: bool = False,
    kind: Kind = "release",
) -> Change | None:
    """Stage `release` on an idle color and begin to run the plan on it; with None validate the one that stands there.

    `written`: the plan as it is kept. One run at a time; None where exactly this one is under way, or was the last one
    and has settled. `kind`: a bake watches what is active, see `baking.py`. Raises what `fleet.stage` raises, and
    `Refused`.
    """
    known(state.colors, color)
    run = state.run
    if run is not None and REVERT in run.tell:
        raise Refused(
            f"the schema that {run.id} has expanded for {run.label} is being reverted: wait until that is done"
        )
    if kind == "bake":
        who = {"leader": leader, "actor": actor, "reason": reason}
        return begin_bake(state, color, plan, written, **who, at=at, if_epoch=if_epoch)
    kind = "validate" if release is None else "release"
    if run is not None and (run.color, run.kind) == (color, kind) and _is_there(state, color, release):
        settled = run.outcome == "settled" and state.pointer.active == color
        if settled or (run.is_open and run.plan == written):
            return None
    if run is not None and run.is_open:
        raise Refused(
            f"{run.label} on {run.color} is being released by {run.actor} ({run.id}): wait, or abort it first"
        )
    stage = None
    if release is not None:
        stage = fleet.stage(state, color, release, actor=actor, reason=reason, at=at, if_epoch=if_epoch, force=force)
    base, staged = (stage.state, stage.facts) if stage is not None else (state, {})
    standing = base.releases.get(color)
    if standing is None:
        raise Refused(f"{color} has no release: stage one")
    if standing.phase not in UNTRIED:
        raise Refused(
            f"{color} holds {standing.label}, which is {standing.phase}: only a release that takes no traffic yet, and "
            "was not rejected, is validated; stage one"
        )
    name, label, epoch = f"r{state.revision + 1}", standing.label, state.pointer.epoch
    run = Run(name, kind, color, label, written, steps(plan, kind), actor, reason, epoch, leader, began=at, at=at)
    run = replace(run, tell=told_of_the_end(plan))
    after = replace(standing.after(Event.VALIDATE), at=at)
    facts = {**staged, **recorded(state, {color: after}, color=color, release=standing.label, run=run.id)}
    facts |= {"step": "begin", "kind": kind, "plan": written}
    if state.run is not None and state.run.tell:
        facts["untold"] = list(state.run.tell)  # hooks that did not hear of the end of the run before
    return changed(replace(state, run=run), {color: after}, "release", facts, actor, reason)


def _is_there(state: FleetState, color: str, release: Release | None) -> bool:
    """Whether the color holds what is to be brought out there; None is whatever it holds."""
    there = state.releases.get(color)
    return release is None or (there is not None and there.same_content(checked(release)))


def record(
    state: FleetState, run_id: str, leader: str, name: str, finding: Finding, *, at: float, took: float
) -> Change | None:
    """Put a step's finding on record, with what follows from it for the release; None where it is late."""
    run = _led(state, run_id, leader)
    if run is None or run.next != name:
        return None
    finding = finding.bounded()
    step = Step(name, finding.verdict, finding.why, at, round(took, 3))
    after = replace(run, done=(*run.done, step), at=at)
    outcome, event = _follows(after, name, finding.verdict)
    why = f"{name} {_WORDS[finding.verdict]}: {finding.why}" if outcome == "stopped" else ""
    facts = {"verdict": str(finding.verdict), "why": finding.why, "took": step.took, "evidence": dict(finding.evidence)}
    return _told(state, after, outcome, why, event, name, facts)


def _follows(run: Run, name: str, verdict: Verdict) -> tuple[Outcome, Event | None]:
    """What becomes of the run, and of its release, by the verdict on a step."""
    if run.has_failed:
        return "", None  # over once the pointer is back
    passed = verdict is Verdict.PASS or name.startswith(AFTER)  # who is informed has no say
    if not passed:
        # What was tried is bad; what was not let flip, or could not, is still as good as it was found.
        return "stopped", None if name == FLIP or name.startswith(f"{BEFORE}{FLIP}:") else Event.FAILED
    event = Event.SETTLE if name == BAKE else None
    if not run.has_flipped and _is_tried(run):
        event = Event.PASSED
    if run.next:
        return "", event
    return "settled" if run.has_flipped else "validated", event


def _is_tried(run: Run) -> bool:
    """Whether the step that was done now was the last one before the flip, and what is asked before that."""
    left = run.todo[len(run.done) :]
    at_flip = (FLIP, f"{BEFORE}{FLIP}:")
    return not run.done[-1].name.startswith(at_flip) and (not left or left[0].startswith(at_flip))


def take_over(state: FleetState, run_id: str, before: str, leader: str, *, at: float) -> Change | None:
    """Lead a run whose leader is gone, or what is left of it to be told; None where that is late."""
    run = state.run
    if run is None or (run.id, run.leader) != (run_id, before) or not (run.is_open or run.tell):
        return None
    facts: dict[str, object] = {"before": before, "leader": leader}
    return _told(state, replace(run, leader=leader, at=at), run.outcome, run.why, None, "take over", facts)


def troubled(state: FleetState, run_id: str, leader: str, *, why: str, at: float) -> Change | None:
    """Put on record that the run stands where it must not stay; None where that is known, or late."""
    run = _led(state, run_id, leader)
    if run is None or run.trouble:
        return None
    return _told(state, replace(run, trouble=why, at=at), "", "", None, "trouble", {"why": why})


def told(state: FleetState, run_id: str, leader: str, hook: str, finding: Finding, *, at: float) -> Change | None:
    """Put on record how a hook was told of the end, or how the revert went; None where that is late."""
    run = state.run
    if run is None or (run.id, run.leader) != (run_id, leader) or run.is_open or hook not in run.tell:
        return None
    finding = finding.bounded()
    after = replace(run, tell=tuple(name for name in run.tell if name != hook), at=at)
    facts = {"verdict": str(finding.verdict), "why": finding.why, "evidence": dict(finding.evidence)}
    return _told(state, after, run.outcome, run.why, None, after_the_end(hook), facts)


def approve(
    state: FleetState, gate: str, *, actor: str, reason: str, four_eyes: bool, by: Collection[str] = ()
) -> Change | None:
    """Put an approval on record; None where it is there. Raises `Refused` where none is waited for, or not by this one.

    A bake takes one too: it settles what cannot be judged, once its time is over.

    `four_eyes`, `by`: as the gate has it.
    """
    run = _open(state)
    if gate in run.approvals:
        return None
    if run.next != APPROVAL + gate and (gate, run.next) != (BAKE, BAKE):
        raise Refused(f"{run.id} waits for no approval of {gate!r} now: it is at {run.next or 'its end'}")
    if four_eyes and actor == run.actor:
        raise Refused(f"gate {gate} needs a second pair of eyes: {actor} began {run.id}, somebody else approves it")
    if by and actor not in by:
        raise Refused(f"gate {gate} is approved by {', '.join(by)}, not by {actor}: use a token of that name")
    after = replace(run, approvals={**run.approvals, gate: actor})
    return _told(state, after, "", "", None, f"approve {gate}", {}, actor=actor, reason=reason)


def abort(state: FleetState, *, actor: str, reason: str, at: float) -> Change:
    """End the run before its flip; its release is REJECTED, a canary's once drained. Raises `Refused` past that."""
    run = _open(state)
    if misplaced(state) is not None:
        return _ended(state, run, at)
    if run.kind == "bake":
        why = f"{actor} ended the watch" + (f": {reason}" if reason else "")
        return _told(state, replace(run, at=at), "aborted", why, None, "abort", {}, actor=actor, reason=reason)
    if run.has_flipped:
        raise Refused(f"{run.label} takes the traffic already: roll back, which ends {run.id} too")
    why = f"{actor} aborted it" + (f": {reason}" if reason else "")
    return _told(state, replace(run, at=at), "aborted", why, Event.FAILED, "abort", {}, actor=actor, reason=reason)


def misplaced(state: FleetState) -> tuple[Outcome, str] | None:
    """What the open run comes to because of what others did: its release was replaced, or the pointer moved."""
    run, pointer = state.run, state.pointer
    if run is None or not run.is_open:
        return None
    release, by = (
        state.releases.get(run.color),
        f" by {pointer.actor}" + (f": {pointer.reason}" if pointer.reason else ""),
    )
    if release is None or release.label != run.label:
        return "stopped", f"{run.color} holds {release.label if release else 'nothing'} by now"
    if run.has_flipped:
        return None if pointer.active == run.color else ("rolled_back", f"{pointer.active} was made active{by}")
    if run.next == FLIP and (pointer.active, pointer.epoch) == (run.color, run.epoch + 1):
        return None  # its own flip, whose step is still to be put on record
    if pointer.epoch != run.epoch:
        return "stopped", f"the pointer was moved meanwhile, {pointer.active} was made active{by}"
    if release.phase not in (Phase.VALIDATING, Phase.READY):
        return "stopped", f"{run.label} is {release.phase} by now"
    return None


def close(state: FleetState, run_id: str, *, at: float) -> Change | None:
    """End a run that has been misplaced; None where it was not, or is over. Whoever notices does it."""
    if state.run is None or state.run.id != run_id or misplaced(state) is None:
        return None
    return _ended(state, state.run, at)


def _ended(state: FleetState, run: Run, at: float) -> Change:
    outcome, why = misplaced(state) or ("stopped", "")
    release = state.releases.get(run.color)
    # Nobody will say of the canary's sessions what becomes of them, if not this.
    is_left = run.next == CANARY and release is not None and release.label == run.label and release.phase in UNTRIED
    return _told(state, replace(run, at=at), outcome, why, Event.FAILED if is_left else None, "end", {})


def _open(state: FleetState) -> Run:
    if state.run is None or not state.run.is_open:
        raise Refused("nothing is being released")
    return state.run


def _led(state: FleetState, run_id: str, leader: str) -> Run | None:
    """The open run of that id, led by that node, where nothing has come between; else None."""
    run = state.run
    if run is None or not run.is_open or (run.id, run.leader) != (run_id, leader) or misplaced(state) is not None:
        return None
    return run


def _told(
    state: FleetState,
    run: Run,
    outcome: Outcome,
    why: str,
    event: Event | None,
    step: str,
    more: Mapping[str, object],
    *,
    actor: str = ACTOR,
    reason: str = "",
) -> Change:
    """The change that puts this run in place, on record as `step`; `event`: what happens to its release with it."""
    new: dict[str, Release] = {}
    release = state.releases.get(run.color)
    # A release may be READY before its last gate: an older node's doing, which knows of no plans. And one that is
    # watched by hand may have settled long ago.
    done = ((Event.PASSED, Phase.READY), (Event.SETTLE, Phase.ACTIVE))
    if event is not None and release is not None and (event, release.phase) not in done:
        new[run.color] = replace(release.after(event), at=run.at)
    base, moved = state, False
    is_tried = base.run is not None and base.run.has_had_sessions
    if event is Event.FAILED and release is not None and (is_tried or release.is_tried):
        # By the pointer's next epoch every node says which sessions have a turn there, and the others move.
        state, moved = _leave(base, actor, reason or why, run.at), True
        # They live there until then, so it drains before it is REJECTED, as after a rollback.
        epoch = state.pointer.epoch
        new[run.color] = replace(release.after(Event.ROLL_BACK), at=run.at, rolled_back=epoch, left=epoch)
    elif release is not None and not outcome and run.has_had_sessions and release.phase in UNTRIED and not release.left:
        # From its canary on, whatever becomes of this run and comes after it: nobody stages over its sessions unasked.
        new[run.color] = replace(new.get(run.color, release), at=run.at, left=state.pointer.epoch)
    tell, left = _reverted(state, run, outcome)
    why, more = (f"{why}; {left}" if why else left, {**more, "schema": left}) if left else (why, more)
    after = replace(run, outcome=outcome, why=why, tell=tell, plan={} if outcome and not tell else run.plan)
    facts = recorded(state, new, color=run.color, release=run.label, run=run.id, step=step)
    facts |= {**more, **({"outcome": outcome} if outcome else {})}
    change = changed(replace(state, run=after), new, "release", facts, actor, reason or why, moved=moved)
    return replace(change, base=base, left=run.color if moved else "")


def _reverted(state: FleetState, run: Run, outcome: Outcome) -> tuple[tuple[str, ...], str]:
    """What is to be done after the end, with the revert of an expanded schema; and why that is left, where it is."""
    if not run.is_open or outcome not in ("stopped", "aborted", "rolled_back") or not run.has_expanded:
        return run.tell, ""
    migrate = run.plan.get("migrate")
    if not isinstance(migrate, Mapping) or "revert" not in migrate:
        return run.tell, "the schema stays expanded, the plan has no revert"
    release = state.releases.get(run.color)
    is_tried = run.has_had_sessions or (release is not None and release.is_tried)
    if run.has_flipped or is_tried or state.pointer.active == run.color:
        return (
            run.tell,
            f"the schema stays expanded, revert was left: {run.label} has had traffic and may still need it",
        )
    return (REVERT, *run.tell), ""


def _leave(state: FleetState, actor: str, reason: str, at: float) -> FleetState:
    """The pointer where it is, at its next epoch: sessions that live elsewhere are left by it as by a flip.

    Raises `FlipOpen` while one is under way, which is to have that epoch.
    """
    fleet.settled(state)
    pointer = state.pointer
    return replace(state, pointer=replace(pointer, epoch=pointer.epoch + 1, actor=actor, reason=reason, at=at))
