"""Judges elsewhere that have a vote on a release while it bakes: a Prometheus query, or a webhook.

Each is asked every `interval` seconds, whatever the others do, and once more as the bake ends. So many votes against
the release in a row roll it back. One that does not answer is UNDECIDED: it rolls nothing back, and where it is so at
the end the bake is (`on_undecided`). Before the flip each must have answered once, or there is none.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bgproxy.rollout.gates.trial import Trial, Unanswerable, about
from bgproxy.rollout.webhook import VERDICTS, WHY_CHARACTERS, post, query
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.jury import BakeJudge, PrometheusJudge, WebhookJudge
from bgproxy.rules.plan import Bake, Plan
from bgproxy.tasks import spawn, stop


async def unanswered(judges: Sequence[BakeJudge], trial: Trial) -> str:
    """Why a release would have no judge: the first that does not answer, in words; or nothing."""
    votes = await asyncio.gather(*(ask(judge, trial, {"event": "before:flip"}) for judge in judges))
    for judge, vote in zip(judges, votes, strict=True):
        if not vote.evidence.get("answered"):
            return f"judge {judge.name} does not answer, so nothing is flipped: {vote.why}"
    return ""


async def unjudged(plan: Plan, trial: Trial, state: FleetState) -> str:
    """As `unanswered`, before a release is begun; of one that is under way it is known."""
    if plan.bake is None or (state.run is not None and state.run.is_open):
        return ""
    told = about(trial.color, trial.release, trial.active)
    return await unanswered(plan.bake.judges, replace(trial, about=told))


async def ask(judge: BakeJudge, trial: Trial, event: Mapping[str, Any]) -> Finding:
    """One vote; its evidence says whether it was an answer."""
    try:
        if isinstance(judge, PrometheusJudge):
            return await _query(judge, trial)
        return await _post(judge, trial, event)
    except Unanswerable as error:
        return error.finding()


async def _query(judge: PrometheusJudge, trial: Trial) -> Finding:
    """An instant query (https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries)."""
    told = await query(judge, "/api/v1/query", {"query": judge.query}, trial)
    document = told.document()
    if told.trouble or told.status != 200 or document.get("status") != "success":
        why = told.trouble or str(document.get("error") or f"the status is {told.status}")[:WHY_CHARACTERS]
        return Finding(Verdict.UNDECIDED, f"{judge.url}: {why}")
    values = _values(document.get("data"))
    if values is None:
        return Finding(Verdict.UNDECIDED, f"{judge.url}: the answer is no scalar or instant vector; change the query")
    evidence = {"answered": True, "values": values[:8]}
    if not values or any(map(math.isnan, values)):
        return Finding(Verdict.UNDECIDED, "the query finds no number", {"answered": True})
    most, least = max(values), min(values)
    if judge.max is not None and most > judge.max:
        return Finding(Verdict.FAIL, f"it is {most:.4g}, at most {judge.max:g} may be", evidence)
    if judge.min is not None and least < judge.min:
        return Finding(Verdict.FAIL, f"it is {least:.4g}, at least {judge.min:g} must be", evidence)
    return Finding(Verdict.PASS, f"it is {most:.4g}", evidence)


def _values(data: Any) -> list[float] | None:
    """The numbers of an answer; None where it is of another kind."""
    try:
        if data["resultType"] == "scalar":
            return [float(data["result"][1])]
        if data["resultType"] == "vector":
            return [float(one["value"][1]) for one in data["result"]]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        pass
    return None


async def _post(judge: WebhookJudge, trial: Trial, event: Mapping[str, Any]) -> Finding:
    event = {"judge": judge.name, **trial.about, **event}
    told = await post(judge, event, event_id=uuid.uuid4().hex, trial=trial, attempts=1)  # it is asked again anyway
    if told.fault:
        return Finding(Verdict.UNDECIDED, f"{judge.url}: {told.fault}")
    verdict, why = told.said()
    if verdict is None:
        return Finding(Verdict.UNDECIDED, f"{judge.url}: its JSON has no verdict, which is one of {VERDICTS}")
    return Finding(verdict, why or f"it says {verdict}", {"answered": True})


class Jury:
    """All judges of one bake, asked in the background from `start` to `stop`."""

    def __init__(self, bake: Bake, trial: Trial) -> None:
        self._judges = bake.judges
        self._trial = trial
        self._against: dict[str, int] = {}  # votes in a row
        self._tasks: list[asyncio.Task[None]] = []
        self.votes: dict[str, Finding] = {}
        self.figures: Mapping[str, Any] = {}  # what is told of the release

    def start(self) -> None:
        self._tasks = [spawn(self._ask_for_ever(judge), f"ask judge {judge.name}") for judge in self._judges]

    async def stop(self) -> None:
        await stop(*self._tasks)

    async def ask_all(self) -> None:
        """Have everybody's vote as of now."""
        await asyncio.gather(*(self._ask(judge) for judge in self._judges))

    def against(self) -> list[str]:
        """Who has voted against the release often enough, and why."""
        enough = [judge.name for judge in self._judges if self._against.get(judge.name, 0) >= judge.in_a_row]
        return [f"judge {name}: {self.votes[name].why}" for name in enough]

    def undecided(self) -> list[str]:
        """Who has not voted for the release, and why."""
        found = []
        for judge in self._judges:
            vote = self.votes.get(judge.name)
            if vote is None or vote.verdict is not Verdict.PASS:
                found.append(f"judge {judge.name}: {vote.why if vote is not None else 'no vote yet'}")
        return found

    def told(self) -> list[dict[str, Any]]:
        """Every last vote."""
        return [{"judge": name, "verdict": str(vote.verdict), "why": vote.why} for name, vote in self.votes.items()]

    async def _ask_for_ever(self, judge: BakeJudge) -> None:
        while True:
            await self._ask(judge)
            await asyncio.sleep(judge.interval)

    async def _ask(self, judge: BakeJudge) -> None:
        vote = await ask(judge, self._trial, {"event": "bake", **self.figures})
        self.votes[judge.name] = vote
        if vote.verdict is not Verdict.UNDECIDED:  # silence neither accuses nor acquits
            self._against[judge.name] = self._against.get(judge.name, 0) + 1 if vote.verdict is Verdict.FAIL else 0
