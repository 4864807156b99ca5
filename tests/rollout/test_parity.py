"""Both colors compared: what is declared and what agents expose; what is missing blocks or warns as the plan has it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.rollout import parity as parity_module
from bgproxy.rollout.contracts import mcp_contract
from bgproxy.rollout.gates.tried import Broken
from bgproxy.rollout.parity import try_parity
from bgproxy.rollout.ready import await_ready
from bgproxy.rules.contract import Contract, Difference, compare
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.plan import Parity
from bgproxy.rules.release import Release

SEARCH = {"name": "search", "inputSchema": {"type": "object", "properties": {"q": {"type": "string"}}}}
FETCH = {"name": "fetch", "inputSchema": {"type": "object", "properties": {"url": {"type": "string"}}}}
STRICT = {**SEARCH, "inputSchema": {**SEARCH["inputSchema"], "required": ["q"]}}
CARD = {"name": "agent", "skills": [{"id": "plan"}], "capabilities": {"streaming": True}, "supportedInterfaces": []}
OPENAPI = {
    "openapi": "3.1.0",
    "paths": {"/v1/ask": {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}}},
}
MODELS = {"data": [{"id": "small"}, {"id": "large"}]}


class Exposing:
    """An agent with a contract of each kind; what is None it does not have."""

    def __init__(self, agent: Bench) -> None:
        self.url = agent.url
        self.asked = agent.asked
        self.tools: list[Any] | None = [SEARCH, FETCH]
        self.documents: dict[str, Any] = {
            "/.well-known/agent-card.json": CARD,
            "/openapi.json": OPENAPI,
            "/v1/models": MODELS,
        }
        agent.answer = self._answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/mcp" and self.tools is not None:
            return self._mcp(json.loads(await request.read())) if request.method == "POST" else web.Response()
        document = self.documents.get(request.path)
        return web.json_response(document) if document is not None else web.Response(status=404)

    def _mcp(self, message: dict[str, Any]) -> web.StreamResponse:
        if message["method"] == "initialize":
            result: Any = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}}
        elif message["method"] == "tools/list" and not self.tools:
            result = {}
        elif message["method"] == "tools/list" and message["params"]:
            result = {"tools": self.tools[1:]}  # type: ignore[index]
        elif message["method"] == "tools/list":
            result = {"tools": self.tools[:1], "nextCursor": "more"}  # type: ignore[index]
        else:
            return web.Response(status=202)
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return web.json_response(answer, headers={"Mcp-Session-Id": "s1"})


@pytest.fixture
async def old() -> AsyncIterator[Exposing]:
    async with bench() as made:
        yield Exposing(made)


@pytest.fixture
async def new() -> AsyncIterator[Exposing]:
    async with bench() as made:
        yield Exposing(made)


async def compared(old: Exposing, new: Exposing, parity: Parity | None = None, **more: Any) -> Finding:
    active = Release("v1", (old.url,), metadata=more.pop("before", {}))
    release = Release("v2", (new.url,), metadata=more.pop("after", {}))
    return await try_parity(parity or Parity(), Bench().trial(active=active, release=release))


async def test_the_same_is_the_same(old, new):
    finding = await compared(old, new)
    assert finding.verdict is Verdict.PASS, finding.why
    assert finding.why == "compared: mcp 2 parts, a2a 2 parts, openapi 1 parts, models 2 parts"


async def test_more_is_no_difference(old, new):
    new.tools = [SEARCH, FETCH, {**FETCH, "name": "ask"}]
    new.documents["/v1/models"] = {"data": [*MODELS["data"], {"id": "huge"}]}
    assert (await compared(old, new)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("path", "document", "why"),
    [
        ("/mcp", [SEARCH], "mcp: tool fetch is gone"),
        ("/mcp", [STRICT, FETCH], "mcp: tool search requires q"),
        ("/mcp", None, "mcp: {url} does not have it any more: initialize: the status is 404"),
        ("/v1/models", {"data": [{"id": "small"}]}, "models: model large is gone"),
        ("/v1/models", None, "models: {url} does not have it any more: /v1/models: the status is 404"),
        ("/openapi.json", {"openapi": "3.1.0", "paths": {}}, "openapi: POST /v1/ask is gone"),
        ("/.well-known/agent-card.json", {**CARD, "skills": []}, "a2a: skill plan is gone"),
        ("/.well-known/agent-card.json", {**CARD, "skills": 5}, "a2a: skill plan is gone"),
        ("/.well-known/agent-card.json", {**CARD, "capabilities": {}}, "a2a: capability streaming is gone"),
    ],
)
async def test_what_clients_would_miss_blocks_or_warns(old, new, path, document, why):
    if path == "/mcp":
        new.tools = document
    else:
        new.documents[path] = document
    finding = await compared(old, new)
    told = why.format(url=new.url)
    assert (finding.verdict, finding.why) == (Verdict.FAIL, told)
    finding = await compared(old, new, Parity(removed="warn", narrowed="warn"))
    assert (finding.verdict, finding.why.endswith(f"; warnings: {told}")) == (Verdict.PASS, True)
    finding = await compared(old, new, Parity(removed="ignore", narrowed="ignore"))
    assert (finding.verdict, finding.why) == (Verdict.PASS, "compared: no contract")


@pytest.mark.parametrize("tools", [[SEARCH, FETCH], []], ids=["listed", "broken"])
async def test_an_mcp_session_is_ended_also_where_the_server_breaks_it(old, tools):
    old.tools = tools
    with pytest.raises(Broken) if not tools else nullcontext():
        await mcp_contract(old.url, "/mcp", {}, 5.0)
    assert [fields["Mcp-Session-Id"] for method, _, fields, _ in old.asked if method == "DELETE"] == ["s1"]


async def test_large_contracts_are_not_compared_where_the_traffic_is(old, new, monkeypatch):
    where: list[threading.Thread] = []

    def noted(*contracts: Contract) -> list[Difference]:
        where.append(threading.current_thread())
        return compare(*contracts)

    monkeypatch.setattr(parity_module, "compare", noted)
    assert (await compared(old, new)).verdict is Verdict.PASS
    assert len(where) == 4
    assert threading.main_thread() not in where


async def test_a_required_parameter_of_an_operation_is_narrower(old, new):
    operation = OPENAPI["paths"]["/v1/ask"]["post"]
    stricter = {**operation, "parameters": [{"in": "query", "name": "tenant", "required": True}]}
    new.documents["/openapi.json"] = {"openapi": "3.1.0", "paths": {"/v1/ask": {"post": stricter}}}
    assert (await compared(old, new)).why == "openapi: POST /v1/ask requires query tenant"


async def test_what_the_active_color_does_not_have_is_not_looked_for(old, new):
    old.tools, old.documents = None, {}
    finding = await compared(old, new)
    assert (finding.verdict, finding.why) == (Verdict.PASS, "compared: no contract")


async def test_only_what_the_plan_names_is_asked_for(old, new):
    new.tools, new.documents = None, {}
    new.documents["/v1/models"] = MODELS
    assert (await compared(old, new, Parity(contracts=("models",)))).verdict is Verdict.PASS


async def test_facts_that_are_not_declared_any_more(old, new):
    before, after = {"image": "a:1", "prompt": "7"}, {"image": "a:2"}
    finding = await compared(old, new, before=before, after=after)
    assert (finding.verdict, "not declared: prompt" in finding.why) == (Verdict.PASS, True)
    assert finding.evidence["compared"]["metadata"] == {"image": ["a:1", "a:2"]}
    finding = await compared(old, new, Parity(metadata="block"), before=before, after=after)
    assert (finding.verdict, "not declared: prompt" in finding.why) == (Verdict.FAIL, True)


async def test_fewer_upstreams(old, new):
    active = Release("v1", (old.url, "http://127.0.0.1:1"))
    trial = Bench().trial(active=active, release=Release("v2", (new.url,)))
    finding = await try_parity(Parity(upstreams="block"), trial)
    assert finding.why == "route default has 1 upstreams, the active color has 2"
    assert (await try_parity(Parity(upstreams="ignore"), trial)).verdict is Verdict.PASS


async def test_nothing_is_active_yet(new):
    finding = await try_parity(Parity(), Bench().trial(release=Release("v2", (new.url,))))
    assert (finding.verdict, "nothing is active" in finding.why) == (Verdict.PASS, True)


async def test_ready_is_who_answers_on_every_upstream():
    async with bench() as agent:
        finding = await await_ready([agent.url], HealthOptions(path="/healthz"), 1.0)
        assert (finding.verdict, agent.asked[0][1]) == (Verdict.PASS, "/healthz")
        finding = await await_ready([agent.url, "http://127.0.0.1:1"], HealthOptions(), 0.1)
        assert (finding.verdict, finding.why) == (
            Verdict.FAIL,
            "after 0.1 s, http://127.0.0.1:1: connection refused",
        )
        agent.says(503)
        finding = await await_ready([agent.url], HealthOptions(path="/healthz"), 0.1)
        assert f"{agent.url}: /healthz answered 503" in finding.why
    assert (await await_ready([], HealthOptions(), 0.1)).verdict is Verdict.FAIL


async def test_an_agent_that_starts_late_is_waited_for():
    async with bench() as agent:
        agent.says(503)

        async def come_up() -> None:
            await agent.came.wait()
            agent.says(200)

        async with asyncio.TaskGroup() as group:
            group.create_task(come_up())
            finding = await await_ready([agent.url], HealthOptions(path="/"), 10.0)
        assert (finding.verdict, len(agent.asked)) == (Verdict.PASS, 2)
