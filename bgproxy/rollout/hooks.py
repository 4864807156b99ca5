"""A hook at a step of a release: a program or an address that is told of it, and before it may say no.

Told as JSON: which step, which release, what was found out so far. A program finds it in BGPROXY_EVENT. A call is
signed and repeated (`webhook.py`) under an id that stays the same whoever makes it: where a node died in between it may
come twice. A hook that hangs or fails before a step is a no; after one nothing follows from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bgproxy.rollout.gates.command import run_for
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rollout.webhook import post
from bgproxy.rules.action import Action, Hook
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.run import Run


async def run_hook(hook: Hook, step: str, trial: Trial, run: Run) -> Finding:
    """Tell the hook of the step; what it says to it."""
    return await act(hook, step, event_of(step, trial, run), trial, f"{run.id} {run.began} {step}")


async def act(action: Action, step: str, event: Mapping[str, Any], trial: Trial, name: str) -> Finding:
    """Run the program, or call the address; what it says. `name`: of this event and no other, for its id."""
    try:
        if action.command:
            told = {"BGPROXY_STEP": step, "BGPROXY_EVENT": json.dumps(event)}
            return await run_for(trial, action.command, action.env, action.timeout, told)
        return await _call(action, event, trial, name)
    except Unanswerable as error:
        return error.finding()


def event_of(step: str, trial: Trial, run: Run) -> dict[str, Any]:
    """What is told of a run's step."""
    done = [{"name": one.name, "verdict": str(one.verdict), "why": one.why} for one in run.done]
    outcome = {"outcome": run.outcome, "why": run.why} if run.outcome else {}
    return {"event": step, "actor": run.actor, "reason": run.reason, **trial.about, "steps": done, **outcome}


async def _call(hook: Action, event: Mapping[str, Any], trial: Trial, name: str) -> Finding:
    event_id = hashlib.sha256(name.encode()).hexdigest()[:32]
    told = await post(hook, event, event_id=event_id, trial=trial, attempts=hook.attempts)
    evidence = {"url": hook.url, "status": told.status, "attempts": told.attempts}
    if told.fault:
        return Finding(Verdict.FAIL, f"{hook.url}: {told.fault}, {told.tries}", evidence)
    verdict, why = told.said()
    verdict = verdict or Verdict.PASS  # any answer of 2xx lets go on but one that says otherwise
    return Finding(verdict, f"{hook.url}: {why or verdict}", evidence)
