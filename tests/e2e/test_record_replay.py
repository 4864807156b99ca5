"""Live sessions are recorded, and had once more with a release before it is let in."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web
from serving import Agent, Serve, Town, until

from tests.e2e.releases import brought_out

KEY = base64.b64encode(b"e2e-key-of-thirty-two-bytes-long").decode()
SECRET = "sk-live-0123456789abcdefghij"


class Assistant(Agent):
    """An MCP agent that knows the sessions that it has made, and nothing else."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.known: set[str] = set()
        self.numbers = itertools.count()
        self.called: list[str] = []
        self.said: list[Any] = []
        self.forgets = False

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/mcp", self._mcp)

    async def _mcp(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        self.said.append((dict(request.headers), asked))
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
        if asked["method"] == "initialize":
            session = f"{self.label}-session-{next(self.numbers)}"
            self.known.add(session)
            return web.json_response({**answer, "result": {}}, headers={"Mcp-Session-Id": session})
        if request.headers.get("Mcp-Session-Id") not in self.known:
            return web.json_response({**answer, "error": {"code": -1}}, status=404)
        name = asked["params"]["name"]
        self.called.append(name)
        result: dict[str, Any] = {"content": [{"type": "text", "text": f"{name} {SECRET}"}], "isError": False}
        if self.forgets and name == "book":
            result = {"content": [], "isError": True}
        return web.json_response({**answer, "result": result})


async def converse(serve: Serve) -> None:
    """A session of three turns, over connections of its own."""
    fields = {"Authorization": f"Bearer {SECRET}"}
    calls = [("initialize", {}), ("tools/call", {"name": "search"}), ("tools/call", {"name": "book"})]
    for method, params in calls:
        async with ClientSession() as client:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "api_key": SECRET}}
            async with client.post(f"{serve.url}/mcp", json=body, headers=fields) as answer:
                assert answer.status == 200
                fields.setdefault("Mcp-Session-Id", answer.headers.get("Mcp-Session-Id", ""))


async def replayed(serve: Serve, agent: Agent) -> dict[str, Any]:
    gate = {"kind": "replay", "name": "again", "min_sessions": 3, "headers": {"X-Dry-Run": "1"}}
    return await brought_out(serve, agent, {"parity": {"contracts": []}, "gate": [gate]})


async def test_what_was_recorded_is_had_again_and_stops_a_release_that_does_otherwise(town: Town, tmp_path: Path):
    v1, v2 = await town.agent("v1", Assistant), await town.agent("v2", Assistant)
    directory = tmp_path / "records"
    told = {"BGPROXY_RECORDING__DIRECTORY": str(directory), "BGPROXY_RECORDING__KEY_ENV": "REC_KEY", "REC_KEY": KEY}
    serve = await town.serve(v1, **told)
    for _ in range(3):
        await converse(serve)

    def sizes() -> list[int]:
        return [file.read_bytes().count(b"\n") for file in directory.glob("*.session")] if directory.exists() else []

    await until(lambda: sizes() == [3, 3, 3], "three sessions of three turns")
    assert not any(SECRET.encode() in file.read_bytes() for file in directory.iterdir())

    v2.forgets = True
    run = await replayed(serve, v2)
    assert run["outcome"] == "stopped"
    assert "gate:again failed: 3 of 3 sessions went otherwise; session " in run["why"], run
    assert ", turn 3: the tool's call failed" in run["why"]

    v2.forgets = False
    v2.called.clear()
    v2.said.clear()
    run = await replayed(serve, v2)
    assert run["outcome"] == "settled", run
    assert sorted(v2.called) == ["book"] * 3 + ["search"] * 3
    assert SECRET not in json.dumps(v2.said), "what was redacted is not sent"
    assert all(fields["X-Dry-Run"] == fields["X-Bgproxy-Mirror"] == "1" for fields, _ in v2.said)
