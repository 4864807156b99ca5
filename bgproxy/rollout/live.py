"""The steps that watch live traffic before the flip: what is mirrored, and the canary."""

from __future__ import annotations

from typing import Final

from bgproxy.rollout.canary import watch_canary
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rollout.mirroring import watch_mirror
from bgproxy.rollout.synthetic import sending
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding
from bgproxy.rules.plan import Plan
from bgproxy.rules.run import CANARY, MIRROR, Run
from bgproxy.store.base import Store

LIVE: Final = (MIRROR, CANARY)


async def watch_live(name: str, run: Run, plan: Plan, state: FleetState, store: Store, trial: Trial) -> Finding:
    """Take the step of that name, one of `LIVE`; the plan has its section."""
    if name == MIRROR:
        assert plan.mirror is not None, "a step is there where its section is"
        return await watch_mirror(run, plan.mirror, store)
    assert plan.canary is not None, "a step is there where its section is"
    try:
        async with sending(plan.canary.synthetic, trial) as traffic:
            return await watch_canary(plan.canary, run, state, store, traffic)
    except Unanswerable as error:
        return error.finding()
