"""The watch over a canary: once a second the windows of all nodes, the new release's beside the active one's.

Both are of the same time, from the moment at which each node began to route by the canary. It ends as soon as the new
release is found to be bad, else when its time is over. Another node that takes over goes on from what all nodes tell.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

import orjson

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout.watching import Gatherer
from bgproxy.rules.canary import canary
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.judge import Judge, Judgement
from bgproxy.rules.plan import Bake, Canary
from bgproxy.rules.run import Run
from bgproxy.rules.watch import JUDGEMENT, watched
from bgproxy.rules.window import Window
from bgproxy.store.base import Store

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0  # seconds between two looks


async def watch_canary(plan: Canary, run: Run, state: FleetState, store: Store) -> Finding:
    """Watch until it is decided. `state`: one by which the canary is on."""
    on = canary(state)
    assert on is not None, "that is what this step is for"
    topic, active = watched(state).name, state.active
    pair = CanaryJudge(plan)
    gatherer = Gatherer(store, topic)
    while True:
        left = plan.duration
        with suppress(StoreUnavailable):  # the mirror tells of a store that is away
            left = max(0.0, on.since + plan.duration - await store.now())
            gathered = await gatherer.look()
            new = gathered.since.get((run.color, run.label), Window())
            old = gathered.since.get((state.pointer.active, active.label if active is not None else ""), Window())
            found = pair.look(new, old, last=not left)
            evidence = {**found.evidence, "nodes": gathered.nodes, "left": round(left, 1)}
            if gathered.silent:
                evidence["silent"] = list(gathered.silent)
            told = {"verdict": str(found.verdict), "why": found.why[:500], "held": False, **evidence}
            await store.tell(topic, JUDGEMENT, orjson.dumps(told).decode())
            if not left or found.verdict is Verdict.FAIL:
                return Finding(found.verdict, found.why, evidence)
        await asyncio.sleep(min(INTERVAL, left) or INTERVAL)


class CanaryJudge:
    """A bake's judge, for which what the active release does meanwhile is the baseline.

    That grows all the time, and with each other baseline the judge begins to count anew in how many looks it has seen
    bad answers. So it is told another one only once there is twice as much.
    """

    def __init__(self, plan: Canary) -> None:
        limits: dict[str, Any] = dict(plan.limits())
        self._judge = Judge(Bake(duration=plan.duration, min_samples=plan.min_samples, **limits))
        self._old = Window()

    def look(self, new: Window, old: Window, *, last: bool = False) -> Judgement:
        """The judgement as of now."""
        if old.answers >= 2 * self._old.answers:
            self._old = old
        return self._judge.look(new, self._old, last=last)
