"""Live requests asked of the idle color too, before a flip: the live ones do not feel it, and what differs stops it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from aiohttp import ClientSession, web
from serving import Agent, Serve, Town

from tests.e2e.releases import brought_out


class Lister(Agent):
    """An agent with tools, which keeps the requests that it was sent beside the live ones."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.mirrored: list[tuple[str, dict[str, str]]] = []
        self.tool: dict[str, Any] = {"name": "search", "inputSchema": {"type": "object"}}
        self.hangs = False

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/mcp", self._mcp)

    async def _mcp(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        if "X-Bgproxy-Mirror" in request.headers:
            self.mirrored.append((asked["method"], {key.lower(): value for key, value in request.headers.items()}))
        if self.hangs:
            await self.go.wait()
        fields = {"Mcp-Session-Id": f"{self.label}-{id(request)}"} if asked["method"] == "initialize" else {}
        result = {"tools": [self.tool]} if asked["method"] == "tools/list" else {}
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result}, headers=fields)


class Client:
    """Lists tools in a session of its own, over and over, and measures how long each answer takes."""

    def __init__(self, serve: Serve) -> None:
        self.url = f"{serve.url}/mcp"
        self.took: list[float] = []

    async def run(self) -> None:
        async with ClientSession(headers={"Authorization": "Bearer caller", "Cookie": "theme=dark"}) as session:
            async with session.post(self.url, json=call("initialize")) as answer:
                own = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"], "X-Bgproxy-Mirror": "forged"}
            while True:
                for name in ("tools/list", "tools/call"):
                    began = time.monotonic()
                    async with session.post(self.url, json=call(name), headers=own) as answer:
                        assert answer.status == 200
                        await answer.read()
                    self.took.append(time.monotonic() - began)
                await asyncio.sleep(0.01)


def call(method: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method}


MIRROR = {
    "rpc": ["tools/list"],
    "sessions": True,
    "duration": 1.0,
    "min_samples": 5,
    "max_rate": 20,
    "timeout": 1.5,  # a live answer takes a hundredth of that, on a machine that is busy too
    "compare": ["status", "shape"],
}


async def released(serve: Serve, agent: Agent, **more: Any) -> dict[str, Any]:
    plan = {"parity": {"contracts": []}, "mirror": {**MIRROR, **more}}
    return await brought_out(serve, agent, plan, patience=20.0)


async def evidence(serve: Serve) -> dict[str, Any]:
    _, body = await serve.api("GET", "/v1/audit?limit=100")
    return next(entry["facts"]["evidence"] for entry in body["entries"] if entry["facts"].get("step") == "mirror")


@pytest.mark.redis
async def test_a_release_is_mirrored_by_every_node_and_judged_by_what_they_saw(town: Town, redis_server: Any):
    v1, v2 = await town.agent("v1", Lister), await town.agent("v2", Lister)
    serve = await town.serve(v1, None, "--store", redis_server.url, "--fleet", town.fleet, workers=2)
    clients = [Client(serve) for _ in range(8)]
    running = [asyncio.create_task(client.run()) for client in clients]
    try:
        # 1. It hangs: nobody who is served feels that, and it is stopped.
        v2.hangs = True
        run = await released(serve, v2)
        assert run["outcome"] == "stopped"
        assert "got no whole answer, 0 is the limit" in run["why"], run
        assert "POST /mcp: no answer within 1.5 s" in run["why"]
        assert max(max(client.took) for client in clients) < 1.5, "no live answer waited for a mirrored one"
        found = await evidence(serve)
        assert (found["compared"], found["failed"] >= 5, found["dropped"] > 0) == (0, True, True), found
        assert v2.mirrored

        # 2. It answers alike, from every node: it goes through.
        v2.hangs = False
        v2.finish()
        v2.mirrored.clear()
        run = await released(serve, v2, duration=2.2, timeout=10.0)
        assert run["outcome"] == "settled", run
        found = await evidence(serve)
        assert (found["differed"], found["failed"], len(found["nodes"])) == (0, 0, 2), found
        assert not any(task.done() for task in running), "no live request failed"
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    names = {name for name, _ in v2.mirrored}
    assert names == {"tools/list"}, "a call of a tool is not safe to repeat"
    fields = v2.mirrored[0][1]
    assert (fields["x-bgproxy-mirror"], fields["authorization"]) == ("1", "Bearer caller")
    assert "mcp-session-id" not in fields, "it means nothing to the idle color"
    assert "cookie" not in fields, "the plan does not name it"
