"""A flip in two steps, and the pause: the decisions by which all nodes begin to hold new admissions, and go on.

A prepared flip has been judged as if it were made at once; it is judged again when it is made. Must not know what
holding is, nor who has to hold: the store looks after that when the flip is committed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from bgproxy.errors import BadInput, Refused
from bgproxy.rules import fleet
from bgproxy.rules.fleet import Change, FleetState, changed
from bgproxy.rules.holds import Pause, Pending

Strategy = Literal["auto", "barrier", "swap"]
"""How the pointer moves: over all nodes at once, in each node by itself, or by how many nodes there are."""

LONGEST_PAUSE = 600.0
"""Seconds: clients and their load balancers have given up long before."""


class _Terms(TypedDict):
    actor: str
    reason: str
    at: float
    if_epoch: int | None
    force: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class Move:
    """What an operator asks of the pointer: a flip `to` a color, or a rollback. See `fleet.flip` for the rest."""

    verb: str  # flip, rollback
    to: str  # of a flip
    actor: str
    reason: str
    if_epoch: int | None = None
    force: bool = False
    bake: bool = False
    problem: str | None = None

    def decided(self, state: FleetState, at: float) -> Change | None:
        """The change that makes it at once; None where there is nothing to do. Raises what the rules of both raise."""
        terms: _Terms = {
            "actor": self.actor,
            "reason": self.reason,
            "at": at,
            "if_epoch": self.if_epoch,
            "force": self.force,
            "problem": self.problem,
        }
        if self.verb == "rollback":
            return fleet.rollback(state, **terms)
        return fleet.flip(state, self.to, bake=self.bake, **terms)


def prepare(
    state: FleetState,
    move: Move,
    *,
    at: float,
    exclude: Sequence[str],
    hold_timeout: float,
    key: str,
    request: str,
    node: str = "",
) -> Change | None:
    """Begin a move that could be made now; None where there is nothing to do. The rest as `Pending` has it."""
    made = move.decided(state, at)
    if made is None:
        return None
    pointer = made.state.pointer
    pending = Pending(
        revision=state.revision + 1,
        verb=move.verb,
        to=pointer.active,
        epoch=pointer.epoch,
        actor=move.actor,
        reason=move.reason,
        force=move.force,
        bake=move.bake,
        problem=move.problem or "",
        exclude=tuple(exclude),
        hold_timeout=hold_timeout,
        key=key,
        request=request,
        node=node,
    )
    facts: dict[str, object] = {"verb": move.verb, "to": pending.to}
    if exclude:
        facts["exclude"] = list(exclude)
    return changed(replace(state, pending=pending), {}, "prepare", facts, move.actor, move.reason)


def complete(state: FleetState, revision: int, *, at: float, left_behind: Collection[str] = ()) -> Change | None:
    """Make the move that was prepared at that revision; None where it is open no more.

    `left_behind`: the nodes that were not waited for. Raises what `Move.decided` raises where the target cannot take
    it any more.
    """
    pending = state.pending
    if pending is None or pending.revision != revision:
        return None
    move = Move(
        pending.verb,
        pending.to,
        pending.actor,
        pending.reason,
        pending.epoch - 1,
        pending.force,
        pending.bake,
        pending.problem or None,
    )
    change = move.decided(replace(state, pending=None), at)
    if change is None or not left_behind:
        return change
    return replace(change, facts={**change.facts, "left_behind": sorted(left_behind)})


def abandon(state: FleetState, revision: int, *, actor: str, why: str, silent: Sequence[str] = ()) -> Change | None:
    """Give up the flip that was prepared at that revision; None where it is open no more.

    `silent`: the nodes that did not say in time that they hold.
    """
    pending = state.pending
    if pending is None or pending.revision != revision:
        return None
    facts: dict[str, object] = {"verb": pending.verb, "to": pending.to, "asked_by": pending.actor}
    if silent:
        facts["silent"] = list(silent)
    return changed(replace(state, pending=None), {}, "abandon", facts, actor, why)


def forestall(state: FleetState, revision: int, *, actor: str) -> Change | None:
    """Change nothing but the revision, so that no change can be made any more that was decided on that one or an older
    one; None where a later one stands."""
    if state.revision > revision:
        return None
    why = "who asked the workers of its host to hold for a flip did not say what came of it: it cannot be made any more"
    return changed(state, {}, "abandon", {}, actor, why)


def pause(state: FleetState, *, max_hold: float, actor: str, reason: str) -> Change:
    """Let all nodes hold new admissions. Raises `Refused` where they do already, `BadInput` for a time out of range."""
    if not 0 < max_hold <= LONGEST_PAUSE:
        raise BadInput(f"max_hold is {max_hold:g} s: it must be above 0 and at most {LONGEST_PAUSE:g}")
    if state.pause is not None:
        by = f" by {state.pause.actor}" if state.pause.actor else ""
        raise Refused(f"new admissions are paused already{by}, for at most {state.pause.max_hold:g} s: resume first")
    paused = Pause(state.revision + 1, actor, reason, max_hold)
    return changed(replace(state, pause=paused), {}, "pause", {"max_hold": max_hold}, actor, reason)


def resume(state: FleetState, *, actor: str, reason: str, revision: int = 0) -> Change | None:
    """Let new admissions go on; None where they do. `revision`: only the pause that was made at that one."""
    if state.pause is None or revision not in (0, state.pause.revision):
        return None
    return changed(replace(state, pause=None), {}, "resume", {}, actor, reason)
