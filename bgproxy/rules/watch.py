"""What of a fleet's traffic is to be watched now: read off its state alone, so every node agrees on where it began.

A node that applies a state by which something else is watched begins to count anew at that very moment. A bake begins
with the flip itself, not with the step that judges it: what a hook in between takes its time for is watched too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bgproxy.rules.canary import canary
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.run import BAKE, CANARY, Run

BASELINE: Final = 60.0
"""Seconds of the old release's answers with which the new one's are compared, where a plan says nothing else."""

LONGEST_BASELINE: Final = 600.0
"""Also how far back a node remembers its seconds."""

JUDGEMENT: Final = "judgement"
"""In a node's place, where nodes tell what they count: what the one that leads makes of it, for whoever follows."""


@dataclass(frozen=True, slots=True)
class Watch:
    """`name`: what is told of it is kept under; empty: nothing is watched. `baseline`: seconds before it, compared
    with. `since_flip`: it reaches back to the last flip, as far as that is remembered."""

    name: str = ""
    baseline: float = BASELINE
    since_flip: bool = False


def watched(state: FleetState) -> Watch:
    """What is watched as of that state."""
    run = state.run
    if run is None or not run.is_open:
        return Watch()
    if canary(state) is not None:
        return Watch(f"{run.id}:{CANARY}:{state.pointer.epoch}")
    if BAKE in run.todo and run.color == state.pointer.active and state.pointer.epoch > run.epoch:
        return Watch(f"{run.id}:{BAKE}:{state.pointer.epoch}", _baseline(run), since_flip=True)
    return Watch()


def _baseline(run: Run) -> float:
    """As the run's plan is written. Whoever began it has checked that; a newer bgproxy may mean something else."""
    bake = run.plan.get(BAKE)
    seconds = bake.get("baseline") if isinstance(bake, Mapping) else None
    if isinstance(seconds, int | float) and 0 < seconds <= LONGEST_BASELINE:
        return float(seconds)
    return BASELINE
