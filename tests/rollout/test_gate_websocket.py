"""A conversation with each upstream: what is sent, what comes back, and every way in which an agent can refuse one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import WebsocketGate

Talk = Callable[[web.WebSocketResponse], Awaitable[None]]


@pytest.fixture
async def agent() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


def talks(agent: Bench, talk: Talk, *subprotocols: str) -> None:
    """Let it take each handshake, and talk so."""

    async def answer(request: web.Request) -> web.StreamResponse:
        line = web.WebSocketResponse(protocols=subprotocols)
        await line.prepare(request)
        await talk(line)
        return line

    agent.answer = answer


async def echoes(line: web.WebSocketResponse) -> None:
    await line.send_str("welcome")
    async for message in line:
        await line.send_str(f'{{"said": {message.data}, "turn": 0}}')


async def says_in_bytes(line: web.WebSocketResponse) -> None:
    await line.ping()
    await line.send_bytes(b'{"ready": true}')
    await line.receive()


async def leaves(line: web.WebSocketResponse) -> None:
    await line.close(code=1011)


async def breaks_off(line: web.WebSocketResponse) -> None:
    assert line._req is not None
    assert line._req.transport is not None
    line._req.transport.abort()


async def stays_silent(line: web.WebSocketResponse) -> None:
    await asyncio.Event().wait()


PASS = [
    (WebsocketGate(), echoes),
    (WebsocketGate(json={"a": 1}), echoes),
    (WebsocketGate(text="7", expect_json={"/said": 7, "/turn": 0}, max_latency=5.0), echoes),
    (WebsocketGate(text="7", expect_text='"said": 7'), echoes),
    (WebsocketGate(expect_text="welcome"), echoes),
    (WebsocketGate(expect_json={"/ready": True}), says_in_bytes),
    (WebsocketGate(), says_in_bytes),
    (WebsocketGate(subprotocols=("v2.agent", "v1.agent")), echoes),
]
FAIL = [
    (WebsocketGate(subprotocols=("v3.agent",)), echoes, "the agent speaks none of v3.agent"),
    (WebsocketGate(text="7", expect_json={"/said": 8}, timeout=0.2), echoes, "what is expected did not come within"),
    (WebsocketGate(expect_text="hello"), leaves, "the agent ended it with 1011"),
    (WebsocketGate(), leaves, "the agent ended it with 1011"),
    (WebsocketGate(text="hello"), breaks_off, "the agent ended it with 1006"),
    (WebsocketGate(timeout=0.2), stays_silent, "what is expected did not come within 0.2 s"),
    (WebsocketGate(text="7", timeout=0.2), stays_silent, "what is expected did not come within 0.2 s"),
    (WebsocketGate(text="7", max_latency=0.0), echoes, "the limit is 0 s"),
]


async def test_conversations(agent):
    for gate, talk in PASS:
        talks(agent, talk, "v1.agent")
        finding = await agent.found(gate)
        assert finding.verdict is Verdict.PASS, (gate, finding.why)
        [answer] = finding.evidence["answers"]
        assert (answer["status"], answer["asked"]) == (101, "GET /ws")
    for bad, talk, why in FAIL:
        talks(agent, talk, "v1.agent")
        finding = await agent.found(bad)
        assert (finding.verdict, why in finding.why) == (Verdict.FAIL, True), (bad, finding.why)


async def test_how_the_message_that_came_is_not_what_was_expected(agent):
    async def says(line: web.WebSocketResponse) -> None:
        await line.send_str('{"state": "error"}')
        await line.close(code=1000)

    talks(agent, says)
    finding = await agent.found(WebsocketGate(expect_json={"/state": "ready"}))
    assert '/state is "error", expected is "ready"' in finding.why
    assert finding.evidence["answers"][0]["begins"] == '{"state": "error"}'


async def test_what_is_sent_on_the_way(agent):
    talks(agent, echoes)
    gate = WebsocketGate(path="/talk?a=%20", host="agents.example.com", headers={"Authorization": "Bearer ${GATE_T}"})
    finding = await agent.found(gate, environ={"GATE_T": "hush"})
    assert finding.verdict is Verdict.PASS, finding.why
    _, path, fields, _ = agent.asked[0]
    assert (path, fields["Host"], fields["Authorization"]) == ("/talk?a=%20", "agents.example.com", "Bearer hush")
    assert "hush" not in str(finding)


@pytest.mark.parametrize(
    ("status", "why"),
    [(403, "the handshake: the status is 403, expected is 101"), (200, "the handshake: the status is 200")],
)
async def test_a_handshake_that_is_refused(agent, status, why):
    agent.says(status, text="no")
    finding = await agent.found(WebsocketGate())
    assert (finding.verdict, why in finding.why) == (Verdict.FAIL, True), finding.why
    assert finding.evidence["answers"][0]["status"] == status


async def test_a_handshake_that_is_not_as_the_standard_has_it(agent):
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: nonsense\r\n\r\n"
        )
        await asyncio.Event().wait()
        raise AssertionError

    agent.answer = answer
    finding = await agent.found(WebsocketGate())
    assert (finding.verdict, "Invalid challenge response" in finding.why) == (Verdict.FAIL, True), finding.why


async def test_an_agent_that_never_answers_the_handshake(agent):
    agent.hangs()
    finding = await agent.found(WebsocketGate(timeout=0.05))
    assert (finding.verdict, "no handshake within 0.05 s" in finding.why) == (Verdict.FAIL, True)
