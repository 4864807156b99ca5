"""Conversations by the `mcp` package's client, one way for each that its protocol has had of keeping a session."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal

import httpx2
from mcp import Client
from mcp.client.extension import ClientExtension, ResultClaim
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ElicitResult, InputRequiredResult, Request, RequestParams, Result
from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from clients.talk import Said, Turn

MODERN = "2026-07-28"


def _http(fields: Mapping[str, str]) -> httpx2.AsyncClient:
    # A connection that is refused, while the proxy is started again, would end the client with its session.
    return httpx2.AsyncClient(headers=fields, timeout=10, transport=httpx2.AsyncHTTPTransport(retries=6))


async def _say(client: Client, tool: str, number: int) -> Said:
    result = await client.call_tool(tool, {"word": str(number)})
    text = result.content[0].text
    assert not result.is_error, text
    return json.loads(text)


@asynccontextmanager
async def session(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """A stateful session of the handshake era. Every other turn is a stream that has to be resumed."""
    async with (
        _http(fields) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode="legacy") as client,
    ):
        assert client.protocol_version == "2025-11-25"

        async def turn(number: int) -> Said:
            return await _say(client, ("say", "work")[number % 2], number)

        yield turn


@asynccontextmanager
async def sse(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """HTTP+SSE of 2024-11-05: the stream is the session."""
    transport = sse_client(f"{url}/sse", headers=dict(fields))
    # A message that a stranger got is never answered.
    async with Client(transport, mode="legacy", read_timeout_seconds=5) as client:

        async def turn(number: int) -> Said:
            return await _say(client, "say", number)

        yield turn


@asynccontextmanager
async def state(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """No session at all: each round sends back the `requestState` of the one before."""
    async with (
        _http(fields) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode="auto") as client,
    ):
        assert client.protocol_version == MODERN
        known: dict[str, Any] = {}

        async def turn(number: int) -> Said:
            if number:
                known["input_responses"] = {"word": ElicitResult(action="accept", content={"word": str(number)})}
            asked = await client.session.call_tool("ask", {}, allow_input_required=True, **known)
            assert isinstance(asked, InputRequiredResult), asked
            known["request_state"] = asked.request_state
            return json.loads(asked.input_requests["word"].params.message)

        yield turn


class _Wire(Result):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class Begun(_Wire):
    """What a call gives that became a task."""

    result_type: Literal["task"] = "task"
    task_id: str
    said: dict[str, Any]


class Told(_Wire):
    """What either method on a task gives."""

    said: dict[str, Any]


class Named(RequestParams):
    task_id: str
    word: str = ""


class Get(Request[Named, Literal["tasks/get"]]):
    """Its id stands in `Mcp-Name` too, where whoever stands in between may read it."""

    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: Named


class Update(Request[Named, Literal["tasks/update"]]):
    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/update"] = "tasks/update"
    params: Named


class Tasks(ClientExtension):
    """Lets a call become a task."""

    identifier = "io.modelcontextprotocol/tasks"

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Begun, resolve=self._unasked)]

    async def _unasked(self, *_: Any) -> CallToolResult:
        raise AssertionError("every call here takes the task itself")


@asynccontextmanager
async def task(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """A task: begun by a call, then asked for and added to in turns."""
    async with (
        _http(fields) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=MODERN, extensions=[Tasks()]) as client,
    ):
        await client.list_tools()
        begun: list[str] = []

        async def turn(number: int) -> Said:
            if not number:
                made = await client.session.call_tool("delegate", {"word": "0"}, allow_claimed=True)
                assert isinstance(made, Begun), made
                begun.append(made.task_id)
                return made.said
            named = Named(task_id=begun[-1], word=str(number))
            told = await client.session.send_request(Update(params=named), Told)
            again = await client.session.send_request(Get(params=Named(task_id=begun[-1])), Told)
            assert again.said == told.said
            return told.said

        yield turn
