"""The watch over a canary: what all nodes tell of both releases in the same time, and what it comes to."""

from __future__ import annotations

from typing import Any

import pytest

from bgproxy.rollout import canary as module
from bgproxy.rollout.canary import CanaryJudge, watch_canary
from bgproxy.rollout.watching import Reporter
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Canary
from bgproxy.rules.release import Release
from bgproxy.rules.watch import watched
from bgproxy.rules.window import Times, Window
from bgproxy.store.base import StoreOptions, open_store
from bgproxy.telemetry.metrics import Metrics
from bgproxy.telemetry.windows import Windows
from tests.rollout.canaries import at_canary

PLAN = Canary(share=0.5, duration=100.0, min_samples=50, max_error_rate=0.1)
FAST, SLOW = 40, 140  # parts of a histogram


def window(count: int, part: int = FAST, errors: int = 0) -> Window:
    times = Times({part: count}) if count else Times()
    return Window(count, errors, times, times)


@pytest.fixture
def state() -> FleetState:
    return at_canary(Release("v2", ("http://a:2",)), PLAN)


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "INTERVAL", 0.001)
    made = open_store(StoreOptions())
    yield made
    await made.close()


class Nodes:
    """Two nodes that count both releases' answers."""

    def __init__(self, store: Any, state: FleetState) -> None:
        self.metrics = [Metrics(), Metrics()]
        self.reporters = [Reporter(f"n{number}", store, Windows(one)) for number, one in enumerate(self.metrics)]
        for reporter in self.reporters:
            reporter.apply(state)

    async def answer(self, color: str, label: str, count: int, status: int = 200) -> None:
        for metrics, reporter in zip(self.metrics, self.reporters, strict=True):
            slot = metrics.slot("default", color, label)
            slot.classes[status // 100] += count
            reporter._windows.tick()
            await reporter._tell()


async def finding(state: FleetState, store: Any, now: float, monkeypatch: pytest.MonkeyPatch) -> Finding:
    async def clock() -> float:
        return now

    monkeypatch.setattr(store, "now", clock)
    assert state.run is not None
    return await watch_canary(PLAN, state.run, state, store)


async def test_it_is_watched_from_the_moment_at_which_it_is_routed_by(state, store, monkeypatch):
    assert watched(state).name == "r2:canary:1"
    nodes = Nodes(store, state)
    await nodes.answer("green", "v2", 30)
    await nodes.answer("blue", "v1", 300)
    found = await finding(state, store, 107.0, monkeypatch)
    assert found.verdict is Verdict.PASS, found.why
    assert (found.evidence["new"]["answers"], found.evidence["old"]["answers"]) == (60, 600)
    assert found.evidence["nodes"] == 2


async def test_errors_stop_it_before_its_time_is_over(state, store, monkeypatch):
    nodes = Nodes(store, state)
    await nodes.answer("green", "v2", 30, status=500)
    found = await finding(state, store, 10.0, monkeypatch)
    assert (found.verdict, found.evidence["left"]) == (Verdict.FAIL, 96.0)
    assert "error rate 1 (60 of 60), limit 0.1" in found.why


async def test_too_few_answers_are_no_ground_to_flip(state, store, monkeypatch):
    nodes = Nodes(store, state)
    await nodes.answer("green", "v2", 5)
    found = await finding(state, store, 107.0, monkeypatch)
    assert (found.verdict, found.why) == (Verdict.UNDECIDED, "10 answers came, 50 are needed")


def looks(plan: Canary, new: int, old: int, part: int, count: int = 30) -> Verdict:
    """What it comes to after so many looks, each with some more answers of both; the new one's by their time."""
    judge, verdict = CanaryJudge(plan), Verdict.UNDECIDED
    for number in range(1, count + 1):
        found = judge.look(window(number * new, part), window(number * old), last=number == count)
        verdict = found.verdict
        if verdict is Verdict.FAIL:
            break
    return verdict


RATIO = Canary(share=0.5, duration=30.0, min_samples=100, max_p95_ratio=1.5)


def test_a_ratio_is_one_to_what_the_active_release_does_meanwhile():
    assert looks(RATIO, 20, 400, FAST) is Verdict.PASS
    assert looks(RATIO, 20, 400, SLOW) is Verdict.FAIL
    assert looks(RATIO, 20, 0, SLOW) is Verdict.UNDECIDED


def test_a_baseline_that_grows_hides_nothing_and_accuses_nobody():
    judge = CanaryJudge(RATIO)
    for number in range(1, 20):  # both are slow for a while: the machine is, not the release
        assert judge.look(window(number * 20, SLOW), window(number * 400, SLOW)).verdict is not Verdict.FAIL
    assert judge.look(window(400, SLOW), window(8_000, SLOW), last=True).verdict is Verdict.PASS
