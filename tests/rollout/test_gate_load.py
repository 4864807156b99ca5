"""Virtual agents: how fast they ask, what counts as an error, what is compared; and the process that they live in."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.rollout.gates import load as module
from bgproxy.rollout.gates.agents import load
from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import LoadGate, Slo
from bgproxy.rules.release import Release
from bgproxy.rules.slo import Samples

REQUEST = {"method": "GET", "path": "/", "fields": {}, "body": ""}
PACE = {"agents": 4, "duration": 5.0, "rate": 0.0, "think": 0.0, "requests": 40, "timeout": 5.0}


@pytest.fixture
async def agent() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


def asked(*urls: str, **pace: Any) -> dict[str, Any]:
    return {"urls": urls, "request": REQUEST, "pace": PACE | pace, "expect_status": [200]}


async def test_a_closed_loop_asks_as_often_as_it_may_over_all_upstreams(agent):
    async with bench() as other:
        samples = await load(asked(agent.url, other.url))
        assert (samples.count, samples.errors) == (40, 0)
        assert (len(agent.asked), len(other.asked)) == (20, 20)
        assert 0 < samples.seconds < 5


async def test_what_is_not_as_expected_is_an_error_of_its_kind(agent):
    async def leaky(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500 if len(agent.asked) % 10 == 0 else 200)

    agent.answer = leaky
    samples = await load(asked(agent.url))
    assert (samples.count, samples.errors, samples.kinds) == (40, 4, {"status 500": 4})
    samples = await load(asked("http://127.0.0.1:1", requests=8))
    assert samples.kinds == {"connection refused": 8}


async def test_an_open_loop_begins_by_the_clock_and_says_where_nobody_keeps_up(agent):
    samples = await load(asked(agent.url, rate=200.0, duration=0.2, requests=0))
    assert samples.count == 40

    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response()

    agent.answer = slow
    samples = await load(asked(agent.url, rate=100.0, duration=0.2, agents=2, requests=0))
    assert (samples.count, samples.kinds) == (20, {"all agents were busy": 18})


async def test_thinking_slows_them_down(agent):
    samples = await load(asked(agent.url, think=0.05, duration=0.12, requests=0, agents=2))
    assert 4 <= samples.count <= 6


@pytest.mark.parametrize("pace", [{"duration": 1.0, "requests": 0}, {"duration": 7200.0, "requests": 2}])
async def test_nobody_thinks_beyond_the_end(agent, pace):
    async with asyncio.timeout(60):
        samples = await load(asked(agent.url, think=3600.0, agents=2, **pace))
    assert samples.count == 2


async def test_in_a_process_of_its_own_the_whole_gate(agent):
    gate = LoadGate(path="/x", duration=0.3, slo=Slo(max_error_rate=0.1, max_p95=2.0), requests=100)
    finding = await agent.found(gate)
    assert finding.verdict is Verdict.PASS, finding.why
    assert finding.evidence["new"]["samples"] == len(agent.asked) >= 20
    assert {path for _, path, _, _ in agent.asked} == {"/x"}


async def fed(monkeypatch, agent: Bench, gate: LoadGate, *told: Samples, active: Release | None = None) -> Any:
    """The gate's finding where the process says this, load by load; and what each was asked for."""
    answers, seen = iter(told), []

    async def drive(asked: Any, _duration: float) -> Samples:
        seen.append(asked["urls"])
        return next(answers)

    monkeypatch.setattr(module, "drive", drive)
    return await agent.found(gate, active=active), seen


async def test_ratios_compare_with_the_active_color_which_is_asked_first(monkeypatch, agent):
    slow, fast = Samples([0.2] * 50, [0.2] * 50, 0, 1.0), Samples([0.1] * 50, [0.1] * 50, 0, 1.0)
    active = Release("v1", ("http://127.0.0.1:9101",))
    gate = LoadGate(slo=Slo(max_p95_ratio=1.5))
    finding, seen = await fed(monkeypatch, agent, gate, fast, slow, active=active)
    assert (finding.verdict, seen) == (Verdict.FAIL, [["http://127.0.0.1:9101"], [agent.url]])
    assert "p95 is 2 times the active color's" in finding.why
    finding, _ = await fed(monkeypatch, agent, gate, slow, fast, active=active)
    assert finding.verdict is Verdict.PASS
    finding, seen = await fed(monkeypatch, agent, gate, fast)
    assert (finding.verdict, len(seen)) == (Verdict.UNDECIDED, 1)


async def test_without_a_ratio_the_active_color_is_left_alone(monkeypatch, agent):
    fine = Samples([0.1] * 100, [0.1] * 100, 0, 1.0)
    active = Release("v1", ("http://127.0.0.1:9101",))
    finding, seen = await fed(monkeypatch, agent, LoadGate(slo=Slo(max_p99=1.0)), fine, active=active)
    assert (finding.verdict, seen) == (Verdict.PASS, [[agent.url]])


async def test_too_few_samples_decide_nothing(monkeypatch, agent):
    finding, _ = await fed(monkeypatch, agent, LoadGate(slo=Slo(max_p99=1.0)), Samples([0.1] * 9, [0.1] * 9, 0, 1.0))
    assert (finding.verdict, "9 samples cannot tell, 100 are needed" in finding.why) == (Verdict.UNDECIDED, True)


async def test_a_process_that_fails_decides_nothing(monkeypatch, agent):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    finding = await agent.found(LoadGate(slo=Slo(max_p95=1.0)))
    assert (finding.verdict, "the process that makes the load failed" in finding.why) == (Verdict.UNDECIDED, True)


async def test_it_ends_when_nobody_waits_for_it(agent):
    gate = LoadGate(duration=60.0, slo=Slo(max_p95=1.0), agents=1, think=0.02)
    task = asyncio.get_running_loop().create_task(agent.found(gate))
    agent.came.clear()
    await agent.came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    counts = []
    for _ in itertools.repeat(None, 3):
        counts.append(len(agent.asked))
        await asyncio.sleep(0.06)
    assert counts[-1] == counts[1]
