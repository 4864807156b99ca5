"""Recorded sessions had once more: what is sent, what differs, and what cannot be used."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.rollout.options import RecordingOptions
from bgproxy.rollout.recording import records_of
from bgproxy.rollout.records import Records
from bgproxy.rules.comparing import ReplayGate
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.likeness import Likeness

KEY = b64encode(b"k" * 32).decode()
ONE, TWO = "01" * 16, "02" * 16


@pytest.fixture
async def agent() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


@pytest.fixture
def records(tmp_path: Path) -> Records:
    found = records_of(RecordingOptions(str(tmp_path / "records"), key=KEY))
    found.prepare()
    return found


def turn(at: float, asked: Any, answer: Any, session: str = "", minted: str = "", **more: Any) -> dict[str, Any]:
    fields = [["Content-Type", "application/json"], ["Authorization", "[redacted]"], ["Accept", "*/*"]]
    fields += [["Mcp-Session-Id", session]] if session else []
    told = [["Content-Type", "application/json"]] + ([["Mcp-Session-Id", minted]] if minted else [])
    plain = {"target": "/mcp?api_key=[redacted]&v=1", "host": "agents.test", "route": "default", "status": 200}
    made = {"at": at, "method": "POST", "fields": fields, "answer_fields": told, "latency": 5.0, **plain, **more}
    made["body"] = b64encode(json.dumps(asked).encode()).decode()
    made["answer"] = b64encode(json.dumps(answer).encode()).decode()
    return made


def session(minted: str = "s-old") -> list[dict[str, Any]]:
    return [
        turn(1.0, {"method": "initialize"}, {"result": {"name": "v1"}}, minted=minted),
        turn(2.0, {"method": "tools/call"}, {"result": {"taskId": "task-old", "isError": False}}, minted),
        turn(3.0, {"method": "tasks/get", "params": {"taskId": "task-old"}}, {"result": {"done": True}}, minted),
    ]


class Mcp:
    """An agent that knows its own ids only."""

    def __init__(self, agent: Bench) -> None:
        self.result: dict[str, Any] = {"taskId": "task-new", "isError": False}
        agent.answer = self.answer
        self.bodies: list[Any] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        self.bodies.append(asked)
        if asked["method"] == "initialize":
            return web.json_response({"result": {"name": "v2", "more": 1}}, headers={"Mcp-Session-Id": "s-new"})
        if request.headers.get("Mcp-Session-Id") != "s-new":
            return web.json_response({"error": "no such session"}, status=404)
        if asked["method"] == "tasks/get":
            known = asked["params"]["taskId"] == "task-new"
            return web.json_response({"result": {"done": False}} if known else {"error": {}})
        return web.json_response({"result": self.result})


async def found(agent: Bench, records: Records | None, **gate: Any) -> Finding:
    return await agent.found(ReplayGate(name="replay", **gate), records=records)


async def test_a_session_goes_on_by_the_ids_that_the_new_agent_makes(agent: Bench, records: Records) -> None:
    mcp = Mcp(agent)
    records.append(ONE, session())
    finding = await found(agent, records, headers={"Authorization": "Bearer ours"})
    assert finding.verdict is Verdict.PASS, finding
    assert (finding.evidence["sessions"], finding.evidence["turns"]) == (1, 3)
    assert [one["method"] for one in mcp.bodies] == ["initialize", "tools/call", "tasks/get"]
    method, target, fields, _ = agent.asked[0]
    assert (method, target, fields["Host"], fields["X-Bgproxy-Mirror"]) == ("POST", "/mcp?v=1", "agents.test", "1")
    assert fields["Authorization"] == "Bearer ours"
    bare = await found(agent, records)
    assert bare.verdict is Verdict.PASS
    assert "Authorization" not in agent.asked[-1][2], "what was redacted is not sent"


async def test_the_session_and_the_turn_that_differ_are_named(agent: Bench, records: Records) -> None:
    mcp = Mcp(agent)
    records.append(ONE, session())
    mcp.result = {"taskId": 7}
    finding = await found(agent, records)
    assert finding.verdict is Verdict.FAIL
    assert "1 of 1 sessions went otherwise; session 010101010101, turn 2: " in finding.why
    (example,) = finding.evidence["examples"]
    assert (example["turn"], example["asked"]) == (2, "POST /mcp")
    assert "/result/taskId is number, was string; /result/isError is gone" in example["why"]
    assert len(mcp.bodies) == 2, "a session ends where it differs"
    ignoring = await found(agent, records, ignore=("/result/taskId", "/result/isError"), max_turns=2)
    assert ignoring.verdict is Verdict.PASS
    mcp.result = {"taskId": "task-new", "isError": True}
    assert "the tool's call failed" in (await found(agent, records)).why
    assert (await found(agent, records, max_differing=1.0)).verdict is Verdict.PASS


async def test_large_answers_are_not_compared_where_the_traffic_is(
    agent: Bench, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, where = Likeness.differences, []

    def noted(likeness: Likeness, *answers: Any) -> list[str]:
        where.append(threading.current_thread())
        return compare(likeness, *answers)

    monkeypatch.setattr(Likeness, "differences", noted)
    Mcp(agent)
    records.append(ONE, session())
    assert (await found(agent, records)).verdict is Verdict.PASS
    assert len(where) == 3
    assert threading.main_thread() not in where


async def test_an_agent_that_hangs_or_is_slow(agent: Bench, records: Records) -> None:
    Mcp(agent)
    records.append(ONE, [{**one, "latency": 0.0} for one in session()])
    slow = await found(agent, records, max_latency_ratio=1.0, latency_tolerance=0.0)
    assert (slow.verdict, slow.evidence["slow"]) == (Verdict.FAIL, 3)
    assert "3 of 3 turns took too long" in slow.why
    assert (await found(agent, records, max_latency_ratio=1.0, latency_tolerance=60.0)).verdict is Verdict.PASS

    agent.hangs()
    assert "turn 1: no answer within 0.05 s" in (await found(agent, records, timeout=0.05)).why
    late = await found(agent, records, duration=0.1)
    assert (late.verdict, "were not over within 0.1 s" in late.why) == (Verdict.UNDECIDED, True)


async def test_a_record_that_was_edited_is_named_and_left_out(agent: Bench, records: Records, tmp_path: Path) -> None:
    Mcp(agent)
    records.append(ONE, session())
    records.append(TWO, session())
    file = tmp_path / "records" / f"{TWO}.session"
    file.write_bytes(file.read_bytes()[:-30] + b"\n")
    finding = await found(agent, records)
    assert (finding.verdict, finding.evidence["sessions"]) == (Verdict.PASS, 1)
    (skipped,) = finding.evidence["skipped"]
    assert (skipped["session"], "was edited" in skipped["why"]) == (TWO[:12], True)
    few = await found(agent, records, min_sessions=2)
    assert few.verdict is Verdict.UNDECIDED
    assert "1 sessions were played, 2 are needed, 1 could not be used (what stands at byte" in few.why
    records.remove(TWO)
    records.append(TWO, [{"at": 1.0, "of": "another version"}])
    assert (await found(agent, records)).evidence["skipped"][0]["why"] == "it was written by another version"


async def test_where_nothing_can_be_played(agent: Bench, records: Records) -> None:
    nothing = await found(agent, None)
    assert (nothing.verdict, "write [recording]" in nothing.why) == (Verdict.UNDECIDED, True)
    assert (await found(agent, records)).verdict is Verdict.UNDECIDED
    records.append(ONE, [{**one, "route": "gone"} for one in session()])
    gone = await found(agent, records)
    assert (gone.verdict, "there is no route 'gone'" in gone.why) == (Verdict.UNDECIDED, True)


async def test_so_many_sessions_and_no_more_the_newest(agent: Bench, records: Records) -> None:
    mcp = Mcp(agent)
    for number in range(5):
        records.append(f"{number:032x}", session(f"s-{number}-old"))
    finding = await found(agent, records, sessions=3, at_once=2)
    assert (finding.verdict, finding.evidence["sessions"], len(mcp.bodies)) == (Verdict.PASS, 3, 9)
