"""The steps of a database's migration: expand and revert in a run, contract once the old release is gone.

Each is an action of the plan, told as a hook is. A step is done again where the node that led died while it ran, under
the same id: an action must bear being called twice, and after a part of itself. What fails or hangs has not been done.
"""

from __future__ import annotations

from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.hooks import act, event_of
from bgproxy.rules.action import Action, Migrate
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.run import REVERT, Run


async def try_migration(migrate: Migrate | None, step: str, state: FleetState, trial: Trial, run: Run) -> Finding:
    """Do a step of a run; what it came to. The revert of a run that is over is left where its release has traffic."""
    action: Action | None = None
    if migrate is not None:
        action = migrate.revert if step == REVERT else migrate.expand
    if action is None:
        return Finding(Verdict.UNDECIDED, "the plan does not say how")
    if not run.is_open and state.pointer.active == run.color:
        return Finding(Verdict.UNDECIDED, f"{run.label} was made active meanwhile and needs the schema: it was left")
    return await act(action, step, event_of(step, trial, run), trial, f"{run.id} {run.began} {step}")
