"""The step of a release that moves the pointer: once, whoever leads and however often that changes."""

from __future__ import annotations

import asyncio
import logging

from bgproxy.errors import FlipAbandoned, FlipOpen, Problem, StaleEpoch, StoreUnavailable
from bgproxy.rollout import leading
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.judges import unanswered
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Plan
from bgproxy.rules.run import Run
from bgproxy.store.mirror import Mirror

log = logging.getLogger(__name__)

FLIP_TRIES = 3  # where nodes do not say in time that they hold


async def cut_over(run: Run, plan: Plan, trial: Trial, mirror: Mirror, switch: Switch) -> Finding:
    """Move the pointer, at the epoch at which the run began; not where nobody would judge it after that."""
    given_up, late = 0, ""
    judges = plan.bake.judges if plan.bake is not None else ()
    while True:
        try:
            if (state := await mirror.refresh()) is not None and state.pointer.active == run.color:
                return Finding(Verdict.PASS, f"{run.color} is active, epoch {state.pointer.epoch}")
            if late:
                return Finding(Verdict.FAIL, late)
            if why := await unanswered(judges, trial):
                return Finding(Verdict.UNDECIDED, why)
            await switch.flip(
                run.color,
                actor=run.actor,
                reason=run.reason or f"release {run.label}",
                if_epoch=run.epoch,
                force=False,
                bake=plan.bake is not None,
            )
        except (StoreUnavailable, FlipOpen) as error:  # of the first it may be done or not: the next look tells
            log.warning("%s: the flip cannot be made now: %s", run.id, error)
            await asyncio.sleep(leading.PAUSE)
        except FlipAbandoned as error:
            given_up += 1
            if given_up == FLIP_TRIES:
                return Finding(Verdict.FAIL, error.detail)
            await asyncio.sleep(leading.PAUSE)
        except StaleEpoch as error:  # somebody who led before may have been faster, with the same flip
            late = error.detail
        except Problem as error:
            return Finding(Verdict.FAIL, error.detail)
