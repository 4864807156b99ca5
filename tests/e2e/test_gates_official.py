"""The gates' clients against servers that others wrote: the `mcp` and `a2a-sdk` packages, and OpenAI's chat API."""

from __future__ import annotations

import pytest
from a2a.server.routes import create_agent_card_routes
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from agents import tasks
from agents.memory import Memory
from starlette.applications import Starlette

from bgproxy.cli.demo.agent import build
from bgproxy.rollout.contracts import a2a_contract, mcp_contract
from bgproxy.rollout.gates.kinds import try_gate
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rules.contract import compare
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import A2aGate, ChatGate, Gate, McpGate
from bgproxy.rules.release import Release
from bgproxy.rules.route import Route, RouteTable
from tests.e2e.apps import served

COUNT = "count to 3 every 1 ms for ann"


def a2a_app() -> Starlette:
    """An agent of A2A with its card, in 1.0; and in 0.3, at a path of its own."""
    skills = [AgentSkill(id="remember", name="r", description="d", tags=["t"])]
    routes = []
    for version, path in (("1.0", "/.well-known/agent-card.json"), ("0.3", "/old/agent-card.json")):
        interface = AgentInterface(
            url="https://agents.example.com/a2a", protocol_binding="JSONRPC", protocol_version=version
        )
        card = AgentCard(
            name="agent",
            description="remembers",
            version="1",
            supported_interfaces=[interface],
            capabilities=AgentCapabilities(streaming=True),
            default_input_modes=["text"],
            default_output_modes=["text"],
            skills=skills,
        )
        routes += create_agent_card_routes(card, card_url=path)
    return Starlette(routes=[*routes, *tasks.routes(Memory("v2/0"))])


async def found(gate: Gate, url: str) -> Finding:
    return await try_gate(gate, Trial("green", Release("v2", (url,)), None, RouteTable((Route("default"),))))


CALL = {"call": "ask", "arguments": {"tag": "ann"}}

PASS_AT_DEMO = [
    McpGate(),
    McpGate(tools=("ask", "work"), **CALL, expect_json={"/structuredContent/release": "v2"}, max_latency=5.0),
    McpGate(call="work", arguments={"tag": "ann", "steps": 3, "every_ms": 1}, expect_json={"/isError": False}),
    McpGate(call="ask", arguments={}, expect_json={"/isError": True}),
    ChatGate(),
    ChatGate(prompt=COUNT, expect_text="ann:2", max_latency=5.0),
    ChatGate(prompt=COUNT, stream=True, expect_text="ann:0 ann:1 ann:2", max_first_token=5.0),
    ChatGate(messages=({"role": "user", "content": COUNT},)),
]
FAIL_AT_DEMO = [
    (McpGate(tools=("search",)), "the tool search is not listed"),
    (McpGate(call="search"), "the tool search is not listed"),
    (McpGate(call="ask", arguments={}), "the tool ask failed"),
    (McpGate(**CALL, expect_json={"/structuredContent/release": "v3"}), '/structuredContent/release is "v2"'),
    (McpGate(path="/nowhere"), "initialize: the status is 404"),
    (McpGate(path="/healthz"), "initialize: the status is 405"),
    (ChatGate(messages=({"role": "user"},)), "the status is 400; it says"),
    (ChatGate(prompt=COUNT, expect_text="bob"), 'expected is "bob" in it'),
    (ChatGate(path="/mcp", prompt=COUNT), "the status is 4"),
    (ChatGate(prompt="count to 2 every 300 ms for ann", stream=True, timeout=0.2), "no whole answer within 0.2 s"),
    (ChatGate(prompt="count to 1 every 200 ms for ann", max_latency=0.1), "the limit is 0.1 s"),
]


async def test_an_mcp_server_and_a_chat_api():
    async with served(build("v2")) as url:
        for gate in PASS_AT_DEMO:
            finding = await found(gate, url)
            assert finding.verdict is Verdict.PASS, (gate, finding.why)
            assert finding.evidence["answers"], gate
        for bad, why in FAIL_AT_DEMO:
            finding = await found(bad, url)
            assert (finding.verdict, why in finding.why) == (Verdict.FAIL, True), (bad, finding.why)
        contract = await mcp_contract(url, "/mcp", {}, 5.0)
        assert set(contract.parts) == {"tool ask", "tool work"}
        assert contract.parts["tool ask"].takes["required"] == ["tag"]
        assert compare(contract, await mcp_contract(url, "/mcp", {}, 5.0)) == []


PASS_AT_A2A = [
    A2aGate(text="0", skills=("remember",)),
    A2aGate(text="0", stream=True),
    A2aGate(text="0", path="/old/agent-card.json", expect_json={"/kind": "task"}),
    A2aGate(text="0", path="/old/agent-card.json", stream=True, expect_json={"/kind": "status-update"}),
    A2aGate(text="0", endpoint="/a2a", expect_json={"/task/status/state": "TASK_STATE_INPUT_REQUIRED"}),
    A2aGate(text=""),
]
FAIL_AT_A2A = [
    (A2aGate(text="0", skills=("fly",)), "the card has no skill fly"),
    (A2aGate(text="0", endpoint="/nowhere"), "SendMessage: the status is"),
    (A2aGate(path="/nowhere"), "the agent card: the status is"),
    (A2aGate(text="0", expect_json={"/task/status/state": "TASK_STATE_COMPLETED"}), "expected is"),
    (A2aGate(text="0 and end", timeout=0.3, stream=True), "no whole answer within 0.3 s"),
]


async def test_an_a2a_agent_of_both_versions():
    async with served(a2a_app()) as url:
        for gate in PASS_AT_A2A:
            finding = await found(gate, url)
            assert finding.verdict is Verdict.PASS, (gate, finding.why)
        for bad, why in FAIL_AT_A2A:
            finding = await found(bad, url)
            assert (finding.verdict, why in finding.why) == (Verdict.FAIL, True), (bad, finding.why)
        parts = (await a2a_contract(url, "/.well-known/agent-card.json", {}, 5.0)).parts
        assert {"skill remember", "capability streaming", "interface JSONRPC 1.0", "input mode text"} <= set(parts)


@pytest.mark.parametrize("gate", [McpGate(), A2aGate(), ChatGate()])
async def test_an_agent_that_is_not_there(gate):
    finding = await found(gate, "http://127.0.0.1:1")
    assert (finding.verdict, "connection refused" in finding.why) == (Verdict.FAIL, True)
