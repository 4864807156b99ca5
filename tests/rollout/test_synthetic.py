"""A canary's synthetic traffic: what is sent and counted, what follows from it, and that it ends with its step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gate_bench import ONE_ROUTE

from bgproxy.rollout import canary, synthetic
from bgproxy.rollout.canary import CanaryJudge
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.live import watch_live
from bgproxy.rollout.synthetic import MOST_OPEN, Traffic, sending
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Answer, Finding, Verdict
from bgproxy.rules.plan import Canary, Plan, Synthetic
from bgproxy.rules.release import Release
from bgproxy.rules.window import Times, Window
from bgproxy.store.base import StoreOptions, open_store
from tests.rollout.canaries import at_canary

MADE = Synthetic(rate=2.0, path="/ping", method="POST", json={"a": 1}, headers={"X-A": "${GATE_A}"}, timeout=5.0)
PLAN = Canary(duration=100.0, min_samples=50, max_error_rate=0.1, synthetic=MADE)
RELEASE = Release("v2", ("http://a:2", "http://b:2"))
FINE, BAD = Answer(status=200, latency=0.2), Answer(status=503, latency=0.1)


class Agent:
    """Stands in for an upstream. `answer`: None for one that never does."""

    def __init__(self, beat: Callable[[], None] = lambda: None) -> None:
        self.beat = beat
        self.answer: Answer | None = FINE
        self.asked: list[tuple[Any, ...]] = []
        self.broken_off = 0

    async def ask(self, method: str, path: str, *, fields: Any, body: bytes, timeout: float) -> Answer:
        self.asked.append((method, path, fields, body, timeout))
        self.beat()
        if self.answer is not None:
            return self.answer
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        raise AssertionError


class Sleeps:
    """A clock that nobody waits for: after so many sleeps the sender is cancelled."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.seconds: set[float] = set()

    async def __call__(self, seconds: float) -> None:
        self.seconds.add(seconds)
        self.left -= 1
        await asyncio.sleep(0)
        if not self.left:
            raise asyncio.CancelledError


async def sent(count: int, *agents: Agent) -> Traffic:
    """The traffic after so many beats."""
    traffic, sleeps = Traffic(MADE, {}, b""), Sleeps(count)
    with pytest.raises(asyncio.CancelledError):
        await traffic.run(agents, sleeps)  # type: ignore[arg-type]
    assert sleeps.seconds == {0.5}
    return traffic


async def test_each_upstream_is_asked_in_its_turn_at_the_rate():
    good, bad = Agent(), Agent()
    bad.answer = BAD
    traffic = await sent(40, good, bad)
    assert (len(good.asked), len(bad.asked)) == (20, 20)
    assert (traffic.window.answers, traffic.window.errors, traffic.window.latency.count) == (40, 20, 20)
    told = traffic.evidence()
    assert told.pop("p95") == pytest.approx(0.2, rel=0.1)
    assert told == {"sent": 40, "answers": 40, "errors": 20, "kinds": {"status 503": 20}}


async def test_no_more_are_open_than_may_be_and_all_are_broken_off():
    agent = Agent()
    agent.answer = None
    traffic = await sent(MOST_OPEN + 5, agent)
    assert traffic.evidence() == {"sent": MOST_OPEN, "answers": 0, "errors": 0, "left_out": 5}
    assert agent.broken_off == MOST_OPEN


def window(answers: int, errors: int = 0) -> Window:
    times = Times({40: answers}) if answers else Times()
    return Window(answers, errors, times, times)


def judged(live: Window, made: Window) -> tuple[Verdict, str]:
    found = CanaryJudge(PLAN).look(live, Window(), made, last=True)
    return found.verdict, found.why


def test_synthetic_answers_make_up_for_live_ones_that_are_missing():
    assert judged(window(10), window(20)) == (
        Verdict.UNDECIDED,
        "30 answers came, 50 are needed (of 30 answers 20 are synthetic)",
    )
    assert judged(window(10), window(40))[0] is Verdict.PASS
    assert judged(Window(), window(50))[0] is Verdict.PASS


def test_errors_of_one_kind_are_not_hidden_by_good_answers_of_the_other():
    verdict, why = judged(window(10_000), window(60, 30))
    assert (verdict, why) == (Verdict.FAIL, "synthetic traffic: error rate 0.5 (30 of 60), limit 0.1")
    verdict, why = judged(window(60, 30), window(10_000))
    assert (verdict, why) == (Verdict.FAIL, "error rate 0.5 (30 of 60), limit 0.1")
    verdict, why = judged(window(10, 2), window(10_000))
    assert (verdict, why) == (
        Verdict.UNDECIDED,
        "10 answers came, 50 are needed; error rate 0.2 (2 of 10), limit 0.1; that may be chance",
    )


def test_times_are_those_of_live_answers():
    judge = CanaryJudge(Canary(min_samples=50, max_error_rate=0.1, max_p95=1.0, synthetic=MADE))
    found = judge.look(Window(), Window(), window(100), last=True)
    assert (found.verdict, "max_p95: 0 samples cannot tell" in found.why) == (Verdict.UNDECIDED, True)


@pytest.fixture
def state() -> FleetState:
    return at_canary(RELEASE, PLAN)


class World:
    """The step as a leader takes it, on agents that are pretended; `now`: the store's time."""

    def __init__(self, state: FleetState, store: Any) -> None:
        self.state = state
        self.store = store
        self.now = 10.0
        self.agents: dict[str, Agent] = {}
        self.answer: Answer | None = FINE
        self.closed: list[str] = []
        self.asked = 0
        self.some, self.enough = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def upstream(self, url: str) -> AsyncIterator[Agent]:
        agent = self.agents[url] = Agent(self.beat)
        agent.answer = self.answer
        try:
            yield agent
        finally:
            self.closed.append(url)

    def beat(self) -> None:
        """A request came."""
        self.asked += 1
        if self.asked == 60:
            self.enough.set()
        elif self.asked == 6:
            self.some.set()

    async def clock(self) -> float:
        return self.now

    def trial(self, **environ: str) -> Trial:
        return Trial("green", RELEASE, None, ONE_ROUTE, environ=environ)

    async def finding(self, **environ: str) -> Finding:
        assert self.state.run is not None
        plan = Plan(canary=PLAN)
        return await watch_live("canary", self.state.run, plan, self.state, self.store, self.trial(**environ))

    def has_ended(self) -> bool:
        names = {task.get_name() for task in asyncio.all_tasks()}
        return "send synthetic traffic" not in names and set(self.closed) == set(self.agents) == set(RELEASE.upstreams)


@pytest.fixture
async def world(state, monkeypatch):
    store = open_store(StoreOptions())
    made = World(state, store)
    monkeypatch.setattr(store, "now", made.clock)
    monkeypatch.setattr(synthetic, "upstream", made.upstream)
    monkeypatch.setattr(canary, "INTERVAL", 0.0)
    monkeypatch.setattr(Traffic.run, "__defaults__", (lambda _: asyncio.sleep(0),))
    yield made
    await store.close()


async def test_errors_fail_the_canary_and_no_node_counted_them(world):
    world.answer = BAD
    found = await world.finding(GATE_A="secret")
    assert found.verdict is Verdict.FAIL
    assert found.why.startswith("synthetic traffic: error rate 1 ")
    told = found.evidence["synthetic"]
    assert told["kinds"] == {"status 503": told["errors"]}
    assert found.evidence["new"]["answers"] == 0
    method, path, fields, body, timeout = world.agents["http://a:2"].asked[0]
    assert (method, path, body, timeout) == ("POST", "/ping", b'{"a": 1}', 5.0)
    assert fields == {"Content-Type": "application/json", "X-A": "secret"}
    assert world.has_ended()


async def test_it_passes_by_synthetic_answers_once_its_time_is_over(world):
    task = asyncio.create_task(world.finding(GATE_A="a"))
    await world.enough.wait()
    assert not task.done()
    world.now = 107.0
    found = await task
    assert found.verdict is Verdict.PASS, found.why
    assert found.evidence["synthetic"]["answers"] >= 50
    assert world.has_ended()


async def test_it_ends_where_the_step_is_cancelled(world):
    world.answer = None
    task = asyncio.create_task(world.finding(GATE_A="a"))
    await world.some.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(agent.broken_off == len(agent.asked) for agent in world.agents.values())
    assert world.has_ended()


async def test_what_cannot_be_sent_decides_nothing(world):
    found = await world.finding()
    assert (found.verdict, "the variable GATE_A is not set" in found.why) == (Verdict.UNDECIDED, True)
    assert not world.agents


async def test_a_sender_that_dies_is_not_taken_for_silence(world, monkeypatch):
    async def broken(*_: Any, **__: Any) -> Answer:
        raise ZeroDivisionError

    monkeypatch.setattr(Agent, "ask", broken)
    with pytest.raises(ExceptionGroup):
        await world.finding(GATE_A="a")
    assert world.has_ended()


async def test_a_plan_without_it_sends_nothing(world):
    async with sending(None, world.trial()) as traffic:
        assert traffic is None
    assert not world.agents
