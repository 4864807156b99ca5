"""Smoke on each upstream: what is sent, what comes back, and every way in which an agent can fail to answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.rollout.gates.ask import KEPT_BYTES, Events
from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import HttpGate
from bgproxy.rules.release import Release


@pytest.fixture
async def agent() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


async def test_what_is_sent(agent):
    gate = HttpGate(
        method="POST",
        path="/v1/a%2Fb?q=%20x",
        host="agents.example.com",
        headers={"Authorization": "Bearer ${GATE_TOKEN}"},
        json={"model": "agent"},
        repeat=2,
    )
    finding = await agent.found(gate, environ={"GATE_TOKEN": "hush"})
    assert finding.verdict is Verdict.PASS, finding.why
    assert len(agent.asked) == 2
    method, path, fields, body = agent.asked[0]
    assert (method, path, body) == ("POST", "/v1/a%2Fb?q=%20x", b'{"model": "agent"}')
    assert (fields["Host"], fields["Authorization"]) == ("agents.example.com", "Bearer hush")
    assert fields["Content-Type"] == "application/json"
    assert "hush" not in str(finding), "what is kept and shown knows no secret"


async def test_a_variable_that_is_not_set_decides_nothing(agent):
    finding = await agent.found(HttpGate(headers={"A": "${GATE_TOKEN}"}))
    assert (finding.verdict, "GATE_TOKEN is not set" in finding.why) == (Verdict.UNDECIDED, True)
    assert agent.asked == []


async def test_every_upstream_is_asked_and_one_that_fails_fails_it(agent, tmp_path):
    async with bench(unix=str(tmp_path / "agent.sock")) as other:
        release = Release("v2", (agent.url, other.url))
        finding = await agent.found(HttpGate(expect_json={"/ok": True}), release=release)
        assert (finding.verdict, len(finding.evidence["answers"])) == (Verdict.PASS, 2), finding.why
        other.says(500, text="oh no")
        finding = await agent.found(HttpGate(), release=release)
        assert finding.verdict is Verdict.FAIL
        assert finding.why.startswith(f"{other.url}: the status is 500")
        assert finding.evidence["answers"][0]["upstream"] == other.url, "the one that failed comes first"


async def test_one_bad_answer_of_many_is_enough(agent):
    async def flaky(_: web.Request) -> web.StreamResponse:
        return web.Response(status=200 if len(agent.asked) < 4 else 503)

    agent.answer = flaky
    finding = await agent.found(HttpGate(repeat=9))
    assert (finding.verdict, len(agent.asked)) == (Verdict.FAIL, 4)


async def test_an_agent_that_hangs(agent):
    agent.hangs()
    finding = await agent.found(HttpGate(timeout=0.05))
    assert (finding.verdict, "no answer within 0.05 s" in finding.why) == (Verdict.FAIL, True)


async def test_an_agent_that_breaks_off(agent):
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    agent.answer = half
    finding = await agent.found(HttpGate())
    assert (finding.verdict, "the answer broke off" in finding.why) == (Verdict.FAIL, True)


async def stream(request: web.Request, count: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(count):
        await response.write(f"data: {number}\n\n".encode())
    await asyncio.Event().wait()
    return response


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 65_536 + b"\n" * ends for ends in (1, 2)], ids=["one", "many"])
async def test_of_a_stream_that_is_too_much_no_more_is_read(agent, piece):
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        with suppress(ConnectionError):
            while True:
                await answer.write(piece)
        return answer

    agent.answer = endless
    finding = await agent.found(HttpGate(expect_events=9_999, timeout=60.0))
    assert finding.verdict is Verdict.FAIL
    assert "events came, expected are 9999" in finding.why


async def test_a_stream_that_never_ends_is_read_as_far_as_it_is_asked_about(agent):
    agent.answer = lambda request: stream(request, 3)
    finding = await agent.found(HttpGate(expect_events=3, expect_headers={"content-type": "text/event-stream"}))
    assert finding.verdict is Verdict.PASS, finding.why
    finding = await agent.found(HttpGate(expect_events=4, timeout=0.1))
    assert (finding.verdict, "no whole answer within 0.1 s" in finding.why) == (Verdict.FAIL, True)
    assert finding.evidence["answers"][0]["events"] == 3


async def test_of_a_large_body_the_first_part_is_kept(agent):
    agent.says(body=b"x" * (KEPT_BYTES + 5))
    finding = await agent.found(HttpGate())
    assert finding.verdict is Verdict.PASS
    assert finding.evidence["answers"][0]["bytes"] == KEPT_BYTES + 5
    assert (await agent.found(HttpGate(expect_json={"/a": 1}))).verdict is Verdict.FAIL


async def test_a_redirect_is_an_answer_and_not_followed(agent):
    agent.says(302, headers={"Location": "http://127.0.0.1:1/"})
    assert (await agent.found(HttpGate(expect_status=(302,)))).verdict is Verdict.PASS
    assert len(agent.asked) == 1


async def test_routes_lead_to_upstreams_as_in_the_proxy(agent):
    finding = await agent.found(HttpGate(route="chat"))
    assert (finding.verdict, "there is no route 'chat'" in finding.why) == (Verdict.UNDECIDED, True)
    release = Release("v2", ("http://127.0.0.1:1",), {"default": (agent.url,)})
    assert (await agent.found(HttpGate(), release=release)).verdict is Verdict.PASS
    assert (await agent.found(HttpGate(route="default"), release=release)).verdict is Verdict.PASS


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_events_in_pieces_of_any_size(size):
    sent = b": hello\n\nevent: a\r\ndata: one\r\n\r\ndata:two\ndata: more\nid: 3\n\ndata: cut off"
    events = Events()
    for start in range(0, len(sent), size):
        events.feed(sent[start : start + size])
    assert events.found == ["one", "two\nmore"]
