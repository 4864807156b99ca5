"""A node's part in mirroring, and the leader's: what is asked once more, how much of it, and who hears what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.errors import StoreUnavailable
from bgproxy.http1.parser import Parser
from bgproxy.rollout import mirroring as module
from bgproxy.rollout.mirroring import Job, Mirroring, watch_mirror
from bgproxy.rules import fleet
from bgproxy.rules.comparing import Mirror
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import Plan
from bgproxy.rules.release import Release
from bgproxy.rules.run import Run
from bgproxy.store.base import NodeReport
from bgproxy.telemetry.taken import Taken
from tests.rollout.exchanges import TAKEN

RUN = Run("r2", "release", "green", "v2", {}, ("ready", "mirror", "flip"), "me", "", 1, "n1", 100.0, 100.0)
AT_MIRROR = replace(RUN, todo=("mirror", "flip"), at=130.0)  # taken over since it began


@pytest.fixture
async def agent() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


def state_of(agent: Bench) -> FleetState:
    releases = {"blue": Release("v1", ("http://127.0.0.1:1",)), "green": Release("v2", (agent.url,))}
    return fleet.bootstrap(("blue", "green"), "blue", releases, "test", 0.0).state


async def mirrored(agent: Bench, *taken: Taken, environ: dict[str, str] | None = None, **options: Any) -> Job:
    """What a job has seen once all that it sent was answered."""
    state = state_of(agent)
    job = Job(AT_MIRROR, Mirror(**{"max_rate": 100.0, **options}), lambda: state, environ or {})
    for one in taken:
        job.take(one)
        await asyncio.sleep(0.02)  # a token for the next
    while job._tasks:
        await asyncio.wait(set(job._tasks))
    await job.stop()
    return job


async def test_an_answer_is_compared_and_the_request_is_the_live_one(agent: Bench) -> None:
    job = await mirrored(agent, TAKEN, headers={"X-Key": "${GATE_KEY}"}, environ={"GATE_KEY": "k"})
    assert (job.tally.compared, job.tally.differed, job.tally.failed) == (1, 0, 0)
    method, target, fields, _ = agent.asked[0]
    assert (method, target, fields["Host"]) == ("GET", "/v1/models?key=hush", "agents.test")
    assert (fields["X-Key"], fields["X-Bgproxy-Mirror"]) == ("k", "1")


async def test_what_differs_is_told_without_its_query(agent: Bench) -> None:
    agent.says(200, text='{"ok": 1}', content_type="application/json")
    job = await mirrored(agent, TAKEN)
    assert (job.tally.differed, job.tally.examples) == (1, ["GET /v1/models: /ok is number, was boolean"])
    agent.says(404)
    job = await mirrored(agent, TAKEN)
    assert job.tally.examples == ["GET /v1/models: the status is 404, was 200"]


@pytest.mark.parametrize(
    "taken",
    [
        replace(TAKEN, color="green"),  # it was the idle color's already
        replace(TAKEN, status=503),  # nothing to compare with
        replace(TAKEN, complete=False),
        replace(TAKEN, method="POST", body=b'{"jsonrpc": "2.0", "method": "tools/call"}'),
        replace(TAKEN, session_ids=(b"s-1",)),
        replace(TAKEN, answer_head=b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"),  # may never end
        replace(TAKEN, request_head=TAKEN.request_head + b"Range: bytes=0-1\r\n"),
        replace(TAKEN, color="red"),
    ],
)
async def test_what_is_not_asked_once_more(agent: Bench, taken: Taken) -> None:
    job = await mirrored(agent, taken, rpc=("tools/list",))
    assert not agent.asked
    assert job.tally.document() == Job(AT_MIRROR, Mirror(), lambda: None, {}).tally.document()


async def test_no_more_than_so_many_per_second_and_at_once(agent: Bench) -> None:
    state = state_of(agent)
    job = Job(AT_MIRROR, Mirror(max_rate=0.01), lambda: state, {})
    for _ in range(5):
        job.take(TAKEN)
    assert (len(job._tasks), job.tally.dropped) == (1, 4), "of the rate"
    await job.stop()

    hold = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await hold.wait()
        return web.json_response({"ok": True})

    agent.answer = hang
    job = await mirrored_hanging(agent, 6, max_in_flight=2)
    assert (len(job._tasks), job.tally.dropped) == (2, 4), "of those under way"
    await job.stop()
    assert not job._tasks, "what is under way is given up"


async def mirrored_hanging(agent: Bench, count: int, **options: Any) -> Job:
    state = state_of(agent)
    job = Job(AT_MIRROR, Mirror(max_rate=500.0, **options), lambda: state, {})
    for _ in range(count):
        job.take(TAKEN)
        await asyncio.sleep(0.005)
    return job


async def test_an_agent_that_is_down_or_hangs_is_a_failure_of_the_release(agent: Bench) -> None:
    agent.hangs()
    job = await mirrored(agent, TAKEN, timeout=0.05)
    assert (job.tally.failed, job.tally.examples) == (1, ["GET /v1/models: no answer within 0.05 s"])


async def test_a_variable_that_is_not_set_is_told_and_nothing_is_sent(agent: Bench) -> None:
    job = await mirrored(agent, TAKEN, headers={"X-Key": "${GATE_KEY}"})
    assert not agent.asked
    assert "the variable GATE_KEY is not set" in job.tally.examples[0]


# When a node looks


class Tap:
    def __init__(self) -> None:
        self.on: dict[str, Any] = {}

    def add(self, name: str, wants: Any, take: Any) -> None:
        self.on[name] = (wants, take)

    def remove(self, name: str) -> None:
        self.on.pop(name, None)


class Known:
    """The state as a node knows it."""

    state: FleetState | None = None

    def listen(self, heard: Any) -> None:
        self.heard = heard

    def tell(self, state: FleetState, run: Run | None) -> None:
        self.state = replace(state, run=run)
        self.heard(self.state)


async def test_a_node_looks_while_the_run_stands_at_its_mirror_and_keeps_its_counts_to_the_end(agent: Bench) -> None:
    tap, known, state = Tap(), Known(), state_of(agent)
    node = Mirroring(tap, known, lambda _: Plan(mirror=Mirror(max_rate=100.0)), {})  # type: ignore[arg-type]
    known.tell(state, RUN)
    assert (tap.on, node.report()) == ({}, {})
    known.tell(state, AT_MIRROR)
    wants, take = tap.on["mirror"]
    parser = Parser(64, 8_192)
    assert wants(parser.request(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", False))
    assert not wants(parser.request(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", False))
    take(TAKEN)
    job = node._job
    assert job is not None
    await asyncio.wait(set(job._tasks))
    known.tell(state, replace(AT_MIRROR, todo=("flip",)))
    assert (tap.on, node.report()["run"], node.report()["compared"]) == ({}, "r2", 1)
    known.tell(state, None)
    assert node.report() == {}
    await node.stop()


# Who leads


class Store:
    """The nodes that a test says, and a clock."""

    def __init__(self, *looks: tuple[float, dict[str, dict[str, Any]] | None]) -> None:
        self.looks = list(looks)
        self.at = 0.0

    async def nodes(self) -> list[NodeReport]:
        self.at, told = self.looks.pop(0)
        if told is None:
            raise StoreUnavailable("away")
        return [NodeReport(name, "h", 1, "1", 1, mirrored=mirrored) for name, mirrored in told.items()]

    async def now(self) -> float:
        return self.at


def counts(compared: int, run: str = "r2", **more: Any) -> dict[str, Any]:
    return {"run": run, "compared": compared, "differed": 0, "slow": 0, "failed": 0, "dropped": 0, **more}


@pytest.mark.parametrize(
    ("looks", "verdict", "compared"),
    [
        ([(100.0, {"a": counts(60)}), (160.0, {"a": counts(70)})], Verdict.PASS, 70),
        # Of a node that died what it had told counts; another run's counts do not, nor does a store that is away.
        (
            [(130.0, {"a": counts(30), "b": counts(99, "r1")}), (150.0, None), (161.0, {"c": counts(25)})],
            Verdict.PASS,
            55,
        ),
        # Where they are too few at the end, the last words are waited for.
        ([(160.0, {"a": counts(20)}), (162.0, {"a": counts(55)})], Verdict.PASS, 55),
        ([(160.0, {"a": counts(20)}), (164.0, {"a": counts(21)})], Verdict.UNDECIDED, 21),
        ([(160.0, {"a": counts(60), "b": counts(60, differed=2)})], Verdict.FAIL, 120),
    ],
)
async def test_the_leader_judges_what_all_nodes_saw(
    looks: list[Any], verdict: Verdict, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    store = Store(*looks)
    finding = await watch_mirror(AT_MIRROR, Mirror(), store)  # type: ignore[arg-type]
    assert (finding.verdict, finding.evidence["compared"], store.looks) == (verdict, compared, [])
