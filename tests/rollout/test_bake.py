"""The watch after a flip: what it comes to, what it tells meanwhile, and through a store that is away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from gate_bench import ONE_ROUTE

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout import bake as module
from bgproxy.rollout.bake import bake
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.judges import Jury
from bgproxy.rules import fleet
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.jury import PrometheusJudge
from bgproxy.rules.plan import Bake
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.run import Run
from bgproxy.rules.watch import JUDGEMENT
from bgproxy.rules.window import Times, Window
from bgproxy.store.base import NodeReport
from bgproxy.telemetry.windows import Report

TOPIC = "r7:bake:2"
BLUE, GREEN = ("blue", "v1"), ("green", "v2")


class Story:
    """A fleet that has just flipped, and its store, whose clock goes on a second at each look."""

    def __init__(self) -> None:
        releases = {color: Release(label, ("http://a:1",), phase=Phase.READY) for color, label in (BLUE, GREEN)}
        state = fleet.bootstrap(("blue", "green"), "blue", releases, "t", 1.0).state
        change = fleet.flip(state, "green", actor="t", reason="", at=100.0, bake=True)
        assert change is not None
        run = Run("r7", "release", *GREEN, {}, ("flip", "bake"), "", "", epoch=1, leader="n1", began=1.0, at=100.0)
        self.state: FleetState = replace(change.state, run=run)
        self.at = 100.0
        self.answers = self.errors = 0
        self.per_second = (50, 0)
        self.before = window(500)
        self.also: dict[str, Report] = {}
        self.registered = ["n1"]
        self.told_last: list[dict[str, Any]] = []
        self.away: set[float] = set()

    async def now(self) -> float:
        self.at += 1.0
        if self.at in self.away:
            raise StoreUnavailable("away")
        self.answers, self.errors = self.answers + self.per_second[0], self.errors + self.per_second[1]
        return self.at

    async def told(self, topic: str) -> dict[str, str]:
        assert topic == TOPIC
        mine = Report(int(self.at), {GREEN: window(self.answers, self.errors)}, {BLUE: self.before})
        reports = {"n1": mine, **self.also}
        return {node: orjson.dumps(one.document()).decode() for node, one in reports.items()}

    async def nodes(self) -> list[NodeReport]:
        return [NodeReport(node, "h", 1, "1", 2) for node in self.registered]

    async def tell(self, topic: str, who: str, text: str) -> None:
        assert (topic, who) == (TOPIC, JUDGEMENT)
        self.told_last.append(orjson.loads(text))

    async def watch(self, plan: Bake) -> Finding:
        assert self.state.run is not None
        trial = Trial("green", self.state.releases["green"], None, ONE_ROUTE)
        return await bake(plan, self.state.run, trial, self, lambda: self.state)  # type: ignore[arg-type]


def window(answers: int, errors: int = 0, part: int = 50) -> Window:
    times = Times({part: answers} if answers else {})
    return Window(answers, errors, times, times)


@pytest.fixture
def story(monkeypatch) -> Story:
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    return Story()


PLAN = Bake(duration=20.0, max_error_rate=0.02, max_p95_ratio=1.5)


async def test_a_good_one_passes_when_its_time_is_over_and_not_before(story):
    found = await story.watch(PLAN)
    assert (found.verdict, story.at) == (Verdict.PASS, 120.0)
    assert found.why == "1000 answers, 0 errors: every limit is kept"
    assert found.evidence["old"]["answers"] == 500
    assert [told["left"] for told in story.told_last][::5] == [19.0, 14.0, 9.0, 4.0]
    assert story.told_last[0]["why"] == "50 answers came, 200 are needed"
    assert {told["nodes"] for told in story.told_last} == {1}


async def test_a_bad_one_fails_as_soon_as_that_is_sure(story):
    story.per_second = (50, 10)
    found = await story.watch(PLAN)
    assert (found.verdict, story.at) == (Verdict.FAIL, 101.0)
    assert "error rate 0.2 (10 of 50), limit 0.02" in found.why
    assert [point[:3] for point in found.evidence["series"]["new"]] == [(1.0, 50, 10)]
    assert "series" not in story.told_last[-1], "who follows it hears the sum each second, not all points"


async def test_what_a_dead_node_has_told_counts(story):
    story.also = {"dead": Report(3, {GREEN: window(30, 30)}, {BLUE: window(100)})}
    found = await story.watch(PLAN)
    assert (found.verdict, found.evidence["old"]["answers"]) == (Verdict.FAIL, 600)
    assert "(30 of 80)" in found.why


async def test_other_releases_answers_do_not(story):
    story.also = {"n2": Report(1, {BLUE: window(90, 90), ("green", "v0"): window(9, 9)}, {GREEN: window(5, 5)})}
    assert (await story.watch(PLAN)).verdict is Verdict.PASS


async def test_a_node_that_is_silent_is_named(story, monkeypatch):
    monkeypatch.setattr("bgproxy.rollout.watching.SILENT", -1.0)
    story.registered = ["n1", "n2"]
    story.also = {"n1": Report(1)}
    found = await story.watch(Bake(duration=2.0, max_error_rate=0.1, min_samples=10))
    assert found.evidence["silent"] == ["n1", "n2"]


@pytest.mark.parametrize(
    ("policy", "verdict", "why"),
    [
        ("settle", Verdict.PASS, "undecided, and settled as on_undecided says: 20 answers came, 200 are needed"),
        ("roll_back", Verdict.UNDECIDED, "20 answers came, 200 are needed"),
    ],
)
async def test_what_cannot_be_told_in_the_end(story, policy, verdict, why):
    story.per_second = (1, 0)
    found = await story.watch(replace(PLAN, max_p95_ratio=None, on_undecided=policy))
    assert (found.verdict, found.why.split(";")[0]) == (verdict, why)


async def test_held_it_is_watched_until_there_are_samples_enough(story, caplog):
    story.per_second = (5, 0)
    found = await story.watch(replace(PLAN, on_undecided="hold"))
    assert (found.verdict, story.answers, story.at) == (Verdict.PASS, 200, 140.0)
    assert [told["held"] for told in story.told_last[-3:]] == [True, True, True]
    assert caplog.text.count("bgproxy approve bake") == 1


async def test_held_it_is_settled_by_whoever_approves_it(story):
    story.per_second = (1, 0)

    async def approve() -> float:
        now = await Story.now(story)
        if now >= 125.0:
            story.state = replace(story.state, run=replace(story.state.run, approvals={"bake": "ada"}))
        return now

    story.now = approve
    found = await story.watch(replace(PLAN, on_undecided="hold"))
    assert (found.verdict, story.at) == (Verdict.PASS, 126.0)
    assert "ada approved it" in found.why


async def test_held_it_is_still_found_to_be_bad(story):
    story.per_second = (1, 1)
    found = await story.watch(replace(PLAN, on_undecided="hold", max_error_rate=0.2))
    assert (found.verdict, story.errors) == (Verdict.FAIL, 41), "more than 20 % of 200"


async def test_while_the_store_is_away_it_waits(story, caplog):
    story.away = {105.0, 106.0, 120.0}
    found = await story.watch(PLAN)
    assert (found.verdict, story.at) == (Verdict.PASS, 121.0)
    assert caplog.text.count("windows cannot be had now") == 3


# With judges


def judged(**more: Any) -> Bake:
    return replace(
        PLAN, judges=(PrometheusJudge(name="prom", url="http://p", query="x", max=1.0, interval=0.0, **more),)
    )


@pytest.fixture
def votes(monkeypatch) -> list[Finding]:
    """What the judge says next; the last one stays."""
    said = [Finding(Verdict.PASS, "it is 0", {"answered": True})]

    async def ask(_judge: Any, _trial: Any, event: Any) -> Finding:
        asked.append(event)
        return said.pop(0) if len(said) > 1 else said[0]

    asked: list[Any] = []
    monkeypatch.setattr("bgproxy.rollout.judges.ask", ask)
    return said


AGAINST = Finding(Verdict.FAIL, "it is 3, at most 1 may be", {"answered": True})
SILENT = Finding(Verdict.UNDECIDED, "no answer within 5 s")


async def test_a_judge_that_agrees_lets_it_pass(story, votes):
    found = await story.watch(judged())
    assert (found.verdict, found.evidence["judges"][0]["verdict"]) == (Verdict.PASS, "pass")


async def test_a_judges_vote_against_it_is_enough(story, votes):
    votes[:] = [AGAINST]
    found = await story.watch(judged())
    assert (found.verdict, found.why) == (Verdict.FAIL, "judge prom: it is 3, at most 1 may be")
    assert story.at < 110.0


async def test_a_judge_may_need_several_in_a_row_which_silence_does_not_break(story, votes):
    votes[:] = [AGAINST, AGAINST, votes[0], AGAINST, AGAINST, SILENT, AGAINST]
    found = await story.watch(judged(in_a_row=3))
    assert found.verdict is Verdict.FAIL
    assert votes == [AGAINST]


@pytest.mark.parametrize(("policy", "verdict"), [("settle", Verdict.PASS), ("roll_back", Verdict.UNDECIDED)])
async def test_a_judge_that_does_not_answer_leaves_it_undecided(story, votes, policy, verdict):
    votes[:] = [SILENT]
    found = await story.watch(replace(judged(), on_undecided=policy))
    assert (found.verdict, "judge prom: no answer within 5 s" in found.why, story.at) == (verdict, True, 120.0)


async def test_held_its_judges_are_asked_at_their_own_pace(story, monkeypatch):
    asked: list[Any] = []

    async def ask(_judge: Any, _trial: Any, event: Any) -> Finding:
        asked.append(event)
        return SILENT if story.at < 130.0 else Finding(Verdict.PASS, "it is 0", {"answered": True})

    async def approve() -> float:
        now = await Story.now(story)
        if now >= 140.0:
            story.state = replace(story.state, run=replace(story.state.run, approvals={"bake": "ada"}))
        return now

    monkeypatch.setattr("bgproxy.rollout.judges.ask", ask)
    story.now = approve
    seldom = PrometheusJudge(name="prom", url="http://p", query="x", max=1.0, interval=3600.0)
    found = await story.watch(replace(PLAN, judges=(seldom,), on_undecided="hold"))
    assert (found.verdict, story.at) == (Verdict.PASS, 141.0)
    assert len(asked) == 2, "as it began, and as its time was over"


async def test_held_it_is_not_judged_at_every_look_as_if_that_were_the_last(story, votes):
    votes[:] = [SILENT]

    async def unlucky() -> float:
        story.per_second = (50, 2 if story.at > 120.0 and story.at % 3 == 0 else 1)  # 2.7 %, which may be chance
        now = await Story.now(story)
        if now >= 200.0:
            story.state = replace(story.state, run=replace(story.state.run, approvals={"bake": "ada"}))
        return now

    story.now = unlucky
    found = await story.watch(replace(judged(), max_p95_ratio=None, on_undecided="hold"))
    assert (found.verdict, story.at, found.evidence["new"]["errors"]) == (Verdict.PASS, 201.0, 127)


async def test_silence_neither_accuses_nor_acquits(votes):
    jury = Jury(judged(in_a_row=2), Trial("green", Release("v2", ("http://a:1",)), None, ONE_ROUTE))
    good = votes[0]
    votes[:] = [AGAINST, SILENT, AGAINST, good]
    for against in (0, 0, 1, 0):
        await jury.ask_all()
        assert len(jury.against()) == against
