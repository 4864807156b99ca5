"""The watch over a canary: once a second the windows of all nodes, the new release's beside the active one's.

Both are of the same time, from the moment at which each node began to route by the canary. It ends as soon as the new
release is found to be bad, else when its time is over. Another node that takes over goes on from what all nodes tell.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout.synthetic import Traffic
from bgproxy.rollout.watching import Gatherer
from bgproxy.rules.canary import canary
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.judge import Judge, Judgement
from bgproxy.rules.plan import Bake, Canary
from bgproxy.rules.run import Run
from bgproxy.rules.watch import watched
from bgproxy.rules.window import Window
from bgproxy.store.base import Store

INTERVAL: Final = 1.0  # seconds between two looks
_NONE: Final = Window()


async def watch_canary(
    plan: Canary, run: Run, state: FleetState, store: Store, traffic: Traffic | None = None
) -> Finding:
    """Watch until it is decided. `state`: one by which the canary is on; `traffic`: what the plan has of synthetic."""
    on = canary(state)
    assert on is not None, "that is what this step is for"
    active = state.active
    pair = CanaryJudge(plan)
    gatherer = Gatherer(store, watched(state).name)
    while True:
        left = plan.duration
        with suppress(StoreUnavailable):  # the mirror tells of a store that is away
            left = max(0.0, on.since + plan.duration - await store.now())
            gathered = await gatherer.look()
            new = gathered.since.get((run.color, run.label), Window())
            old = gathered.since.get((state.pointer.active, active.label if active is not None else ""), Window())
            made = _NONE
            if traffic is not None:
                traffic.check()
                made = traffic.window
            found = pair.look(new, old, made, last=not left)
            evidence = {**found.evidence, **gathered.evidence(left)}
            if traffic is not None:
                evidence["synthetic"] = traffic.evidence()
            finding = Finding(found.verdict, found.why, evidence)
            await gatherer.tell(finding)
            if not left or finding.verdict is Verdict.FAIL:
                return finding
        await asyncio.sleep(min(INTERVAL, left) or INTERVAL)


class CanaryJudge:
    """A bake's judge, for which what the active release does meanwhile is the baseline.

    That grows all the time, and with each other baseline the judge begins to count anew in how many looks it has seen
    bad answers. So it is told another one only once there is twice as much.

    With synthetic traffic there are three: of live answers, of the errors of synthetic ones, and of both together. Each
    may say FAIL, so good answers of one kind hide no bad ones of the other; where live ones are fewer than they should
    be, none the worse for errors, the last one says whether there are enough. Times are of live answers alone.
    """

    def __init__(self, plan: Canary) -> None:
        limits: dict[str, Any] = dict(plan.limits())
        bake = Bake(duration=plan.duration, min_samples=plan.min_samples, **limits)
        self._plan = plan
        self._old = Window()
        self._alone = self._both = None
        if plan.synthetic is not None:  # all of them together accuse a good release no oftener than one would
            bake = replace(bake, confidence=1.0 - (1.0 - bake.confidence) / 3)
            errors = Bake(max_error_rate=plan.max_error_rate, confidence=bake.confidence)
            self._alone = Judge(replace(errors, duration=plan.duration, min_samples=plan.min_samples))
            self._both = Judge(bake)
        self._live = Judge(bake)

    def look(self, new: Window, old: Window, made: Window = _NONE, *, last: bool = False) -> Judgement:
        """The judgement as of now. `made`: what came of synthetic traffic."""
        if old.answers >= 2 * self._old.answers:
            self._old = old
        live = self._live.look(new, self._old, last=last)
        if self._alone is None or self._both is None:
            return live
        alone = self._alone.look(made, _NONE, last=last)
        answers = Window(new.answers + made.answers, new.errors + made.errors, new.latency, new.first_byte)
        both = self._both.look(answers, self._old, last=last)
        if live.verdict is Verdict.FAIL:
            return live
        if alone.verdict is Verdict.FAIL:
            return Judgement(Verdict.FAIL, f"synthetic traffic: {alone.why}", live.evidence)
        if both.verdict is Verdict.FAIL:
            return Judgement(Verdict.FAIL, f"with synthetic traffic: {both.why}", live.evidence)
        limit = self._plan.max_error_rate or 0.0
        if new.answers >= self._plan.min_samples or new.errors > limit * new.answers:
            return live
        return Judgement(
            both.verdict, f"{both.why} (of {answers.answers} answers {made.answers} are synthetic)", live.evidence
        )
