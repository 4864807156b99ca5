"""kind = "mcp": a client of MCP over Streamable HTTP (2025-11-25): initialize, list the tools, call one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bgproxy import __version__
from bgproxy.rollout.gates.ask import CLOSE_TIMEOUT, Upstream, json_body
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.gates.tried import Broken, Tried, on_each
from bgproxy.rules.gate import Answer, Finding, check_json, too_slow
from bgproxy.rules.plan import McpGate

VERSION = "2025-11-25"
_MOST_PAGES = 50


class McpClient:
    """A session with one server. Every answer is kept with the `Tried`; what no server may say raises `Broken`."""

    def __init__(
        self, agent: Upstream, tried: Tried, path: str, fields: Mapping[str, str], timeout: float, host: str = ""
    ) -> None:
        self._agent = agent
        self._tried = tried
        self._path = path
        self._timeout = timeout
        self._id = 0
        self._fields = {**({"Host": host} if host else {}), **fields, "Content-Type": "application/json"}
        self._fields["Accept"] = "application/json, text/event-stream"
        self._has_session = False
        self.capabilities: Mapping[str, Any] = {}
        self.last = Answer()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Open one for as long as the block runs; it is ended also where what the server says ends the block."""
        try:
            await self._open()
            yield
        except Broken:
            await self._close()
            raise
        await self._close()

    async def _open(self) -> None:
        """Initialize, and say that it is done."""
        client = {"name": "bgproxy", "version": __version__}
        asked = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": client}
        result = await self.request("initialize", asked)
        version = result.get("protocolVersion")
        if not isinstance(version, str):
            raise Broken("initialize: the result has no protocolVersion")
        self._fields["MCP-Protocol-Version"] = version
        if session := self.last.values("Mcp-Session-Id"):
            self._fields["Mcp-Session-Id"] = session
            self._has_session = True
        found = result.get("capabilities")
        self.capabilities = found if isinstance(found, Mapping) else {}
        answer = await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"}, None)
        if answer.trouble or answer.status >= 300:
            raise Broken(f"notifications/initialized: {answer.trouble or f'the status is {answer.status}'}")

    async def request(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request's result. Raises `Broken` for an error object, too."""
        self._id += 1
        message = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        self.last = await self._send(message, self._id)
        self._tried.note(method, self.last)
        return result_of(method, self.last, self._id)

    async def every(self, method: str, member: str) -> list[Mapping[str, Any]]:
        """All items of a list that comes in pages."""
        found: list[Mapping[str, Any]] = []
        params: dict[str, Any] = {}
        for _ in range(_MOST_PAGES):
            result = await self.request(method, params)
            items = result.get(member)
            if not isinstance(items, list):
                raise Broken(f"{method}: the result has no list of {member}")
            found += [item for item in items if isinstance(item, Mapping)]
            if not (cursor := result.get("nextCursor")):
                return found
            params = {"cursor": cursor}
        raise Broken(f"{method}: more than {_MOST_PAGES} pages")

    async def _close(self) -> None:
        """End the session, so that the server need not keep it; it may not care."""
        if self._has_session:
            await self._agent.ask("DELETE", self._path, fields=self._fields, timeout=CLOSE_TIMEOUT)

    async def _send(self, message: Mapping[str, Any], number: int | None) -> Answer:
        return await self._agent.ask(
            "POST",
            self._path,
            fields=self._fields,
            body=json_body(message),
            timeout=self._timeout,
            enough=lambda events: bool(events) and response_in(events[-1], number) is not None,
        )


def response_in(text: str, number: int | str | None) -> Mapping[str, Any] | None:
    """The JSON-RPC response to that request, where a text is one."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_it = isinstance(message, Mapping) and message.get("id") == number and ("result" in message or "error" in message)
    return message if is_it else None


def result_of(method: str, answer: Answer, number: int | str) -> Mapping[str, Any]:
    """A JSON-RPC result of an answer that is JSON or an event stream, of several the last. Raises `Broken`."""
    texts = answer.events or (answer.body.decode(errors="replace"),)
    message = next((found for text in reversed(texts) if (found := response_in(text, number)) is not None), None)
    if message is None:
        if answer.trouble or answer.status != 200:
            raise Broken(f"{method}: {answer.trouble or f'the status is {answer.status}'}")
        raise Broken(f"{method}: what came back is no JSON-RPC response to it")
    if "error" in message:
        error = message["error"] if isinstance(message["error"], Mapping) else {}
        raise Broken(f"{method}: error {error.get('code')}: {str(error.get('message'))[:200]}")
    result = message["result"]
    if not isinstance(result, Mapping):
        raise Broken(f"{method}: the result is no object")
    return result


async def try_mcp(gate: McpGate, trial: Trial) -> Finding:
    """Each upstream as a client finds it."""
    fields = trial.fields(gate.headers)

    async def one(agent: Upstream, tried: Tried) -> None:
        client = McpClient(agent, tried, gate.path, fields, gate.timeout, gate.host)
        async with client.session():
            listed = [str(tool.get("name")) for tool in await client.every("tools/list", "tools")]
            wanted = (*gate.tools, *((gate.call,) if gate.call else ()))
            tried.fail(*(f"the tool {name} is not listed" for name in dict.fromkeys(wanted) if name not in listed))
            if gate.call in listed:
                await _call(gate, client, tried)

    return await on_each(trial.upstreams(gate.route, gate.host, gate.path), one)


async def _call(gate: McpGate, client: McpClient, tried: Tried) -> None:
    result = await client.request("tools/call", {"name": gate.call, "arguments": gate.arguments})
    if result.get("isError") and "/isError" not in gate.expect_json:
        content = result.get("content")
        tried.fail(f"the tool {gate.call} failed: {json.dumps(content)[:200]}")
    tried.fail(*check_json(gate.expect_json, result))
    tried.fail(*too_slow(f"the call of {gate.call}", client.last.latency, gate.max_latency))
