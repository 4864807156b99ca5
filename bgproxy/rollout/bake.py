"""The watch after a flip: once a second the windows of all nodes, the judges' votes, and what follows from them.

It ends as soon as the release is found to be bad, else when its time is over. Each look is told beside the state, for
whoever follows the release; what it came to in the end goes on record. Another node that takes over goes on from what
all nodes tell, which reaches back to the flip.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.judges import Jury
from bgproxy.rollout.watching import Gathered, Gatherer
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.judge import Judge, Judgement
from bgproxy.rules.plan import Bake
from bgproxy.rules.run import BAKE, Run
from bgproxy.rules.series import Series
from bgproxy.rules.watch import watched
from bgproxy.rules.window import Window
from bgproxy.store.base import Store

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0  # seconds between two looks

States = Callable[[], FleetState | None]


async def bake(plan: Bake, run: Run, trial: Trial, store: Store, states: States) -> Finding:
    """Watch the release of a run that has flipped. `states`: the fleet's state as this node has it."""
    state = states()
    assert state is not None, "whoever leads has one"
    watch = _Watch(plan, run, trial, store, state)
    watch.jury.start()
    try:
        return await watch.over(states)
    finally:
        await watch.jury.stop()


class _Watch:
    def __init__(self, plan: Bake, run: Run, trial: Trial, store: Store, state: FleetState) -> None:
        self._plan = plan
        self._run = run
        self._store = store
        self._new = run.color, run.label
        previous = state.pointer.previous or ""
        old = state.releases.get(previous)
        self._old = previous, old.label if old is not None else ""
        began = run.began if run.kind == "bake" else state.pointer.at
        self._ends = began + plan.duration
        self._judge = Judge(plan)
        self._gatherer = Gatherer(store, watched(state).name)
        self._left = plan.duration  # seconds
        self._is_asked = False  # once more, at the end
        self._is_held = False
        self._series = Series(plan.duration)
        self.jury = Jury(plan, trial)

    async def over(self, states: States) -> Finding:
        """What it comes to."""
        while True:
            began = monotonic()
            try:
                if (found := await self._look(states())) is not None:
                    return found
            except StoreUnavailable as error:
                log.warning("%s: the windows cannot be had now: %s", self._run.id, error)
            pause = min(INTERVAL, self._left) or INTERVAL
            await asyncio.sleep(max(0.0, pause - (monotonic() - began)))

    async def _look(self, state: FleetState | None) -> Finding | None:
        self._left = max(0.0, self._ends - await self._store.now())
        is_over = not self._left
        is_last = is_over and not self._is_asked  # held, it goes on, and what is good enough as a last word is none
        gathered = await self._gatherer.look()
        new, old = gathered.since.get(self._new, Window()), gathered.before.get(self._old, Window())
        if is_last:
            self._is_asked = True
            await self.jury.ask_all()
        found = self._judge.look(new, old, last=is_last)
        finding = self._with_votes(found, gathered)
        await self._gatherer.tell(finding, held=self._is_held)
        both = {"new": new, "old": gathered.since.get(self._old, Window())}
        is_bad = finding.verdict is Verdict.FAIL
        self._series.take(self._plan.duration - self._left, both, last=is_over or is_bad)
        finding = replace(finding, evidence={**finding.evidence, "series": self._series.document()})
        if is_over and finding.verdict is Verdict.UNDECIDED:
            return self._undecided(finding, state)
        return finding if is_over or is_bad else None

    def _with_votes(self, found: Judgement, gathered: Gathered) -> Finding:
        evidence: dict[str, Any] = {**found.evidence, **gathered.evidence(self._left)}
        self.jury.figures = {"new": evidence["new"], "old": evidence["old"], "left": evidence["left"]}
        if votes := self.jury.told():
            evidence["judges"] = votes
        if against := self.jury.against():
            first = [found.why] if found.verdict is Verdict.FAIL else []
            return Finding(Verdict.FAIL, "; ".join([*first, *against]), evidence)
        if found.verdict is not Verdict.FAIL and (unknown := self.jury.undecided()):
            return Finding(Verdict.UNDECIDED, "; ".join([found.why, *unknown]), evidence)
        return Finding(found.verdict, found.why, evidence)

    def _undecided(self, finding: Finding, state: FleetState | None) -> Finding | None:
        """The time is over, and it cannot be told; None: it is watched on."""
        why, run = finding.why, state.run if state is not None else None
        if self._plan.on_undecided == "settle":
            return replace(finding, verdict=Verdict.PASS, why=f"undecided, and settled as on_undecided says: {why}")
        if self._plan.on_undecided == "roll_back":
            return finding
        if run is not None and run.id == self._run.id and BAKE in run.approvals:
            said = f"undecided, and {run.approvals[BAKE]} approved it: {why}"
            return replace(finding, verdict=Verdict.PASS, why=said)
        if not self._is_held:
            self._is_held = True
            log.error(
                "%s: %s cannot be judged (%s), and is watched on: `bgproxy approve bake` settles it, `bgproxy abort` "
                "rolls it back",
                *(self._run.id, self._run.label, why),
            )
        return None
