"""What clients that others wrote make of an ending: each learns that its session is over, and begins anew."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import openai
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from rig import Proxy, Rig, Serving, ok, until
from test_data_path_streams import EVENTS, chunk
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError
from wire import Message, Wire

JSON = b"Content-Type: application/json"
NOTHING = ok(status=b"202 Accepted")


def url(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


# MCP


def mcp_agent(label: str) -> Callable[[Message], bytes]:
    """A server with stateful sessions, by answers of its specification's examples."""
    begun = 0

    def answer(request: Message) -> bytes:
        nonlocal begun
        if request.method != b"POST":
            return ok(status=b"405 Method Not Allowed" if request.method == b"GET" else b"204 No Content")
        message = json.loads(request.body)
        if "id" not in message:
            return NOTHING
        fields = [JSON]
        if message["method"] == "initialize":
            begun += 1
            fields.append(f"Mcp-Session-Id: {label}-{begun}".encode())
            result: dict[str, Any] = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": label, "version": "1"},
            }
        elif message["method"] == "tools/list":
            result = {"tools": [{"name": "say", "inputSchema": {"type": "object"}}]}
        else:
            assert (request.get(b"mcp-session-id") or b"").startswith(label.encode()), "a stranger's session"
            result = {"content": [{"type": "text", "text": label}]}
        return ok(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode(), *fields)

    return answer


@asynccontextmanager
async def mcp_session(proxy: Proxy) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(timeout=5) as http,
        Client(streamable_http_client(f"{url(proxy)}/mcp", http_client=http), mode="legacy") as client,
    ):
        yield client


async def said(client: Client) -> str:
    return str((await client.call_tool("say", {})).content[0].text)


async def test_an_mcp_client_is_told_that_its_session_is_terminated_and_initializes_again(rig: Rig) -> None:
    blue, green = Serving(mcp_agent("blue")), Serving(mcp_agent("green"))
    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(green),), sessions=["mcp"])
    async with mcp_session(proxy) as client:
        assert await said(client) == "blue"
        proxy.flip("green")
        assert await said(client) == "blue"
        proxy.end_sessions("blue")
        with pytest.raises(MCPError, match="Session terminated"):
            await said(client)
        async with mcp_session(proxy) as anew:
            assert await said(anew) == "green"


# OpenAI


def created(number: int) -> bytes:
    response = {"id": f"resp_{number}", "object": "response", "output": []}
    event = {"type": "response.created", "sequence_number": number, "response": response}
    return b"event: response.created\ndata: %b\n\n" % json.dumps(event).encode()


async def test_an_openai_stream_ends_and_the_next_turn_is_told_without_a_retry(rig: Rig) -> None:
    went: list[Wire] = []

    async def blue(wire: Wire) -> None:
        await wire.request()
        await wire.send(EVENTS, chunk(created(1)))
        went.append(wire)
        await wire.gone()

    response = {"id": "resp_9", "object": "response", "output": []}
    green = Serving(ok(json.dumps(response).encode(), JSON))
    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(green),), sessions=["openai"])
    async with openai.AsyncOpenAI(base_url=f"{url(proxy)}/v1", api_key="k", max_retries=2) as client:
        events = []
        async for event in await client.responses.create(model="m", input="hello", stream=True):
            events.append(event.type)
            proxy.flip("green")
            proxy.end_sessions("blue")
        assert events == ["response.created"]  # and its end, which is no error and no event without data
        with pytest.raises(openai.APIStatusError) as told:
            await client.responses.create(model="m", input="and?", previous_response_id="resp_1")
        assert (told.value.status_code, told.value.response.json()["code"]) == (410, "session_ended")
        assert green.seen == []  # a retry would have begun a new session with it
        assert (await client.responses.create(model="m", input="anew")).id == "resp_9"
    assert proxy.metrics.refused == {"session_ended": 1}


# WebSockets


async def test_a_websocket_client_sees_a_restart_and_connects_again(rig: Rig) -> None:
    closes: list[int | None] = []

    def speaker(label: str) -> Callable[[ServerConnection], Any]:
        async def speak(line: ServerConnection) -> None:
            with suppress(ConnectionClosedError):  # any close but 1000 and 1001
                async for _ in line:
                    await line.send(label)
            closes.append(line.close_code)

        return speak

    async with serve(speaker("blue"), "127.0.0.1", 0) as blue, serve(speaker("green"), "127.0.0.1", 0) as green:
        urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in (blue, green)]
        proxy = await rig.proxy(urls[0], green=(urls[1],), sessions=["websocket", "header:X-Session-Id"])
        fields = {"X-Session-Id": "s"}
        heard = []
        async for line in connect(f"ws://127.0.0.1:{proxy.port}/", additional_headers=fields):
            await line.send("who?")
            heard.append(await line.recv())
            if heard == ["blue", "green"]:
                break
            proxy.flip("green")
            proxy.end_sessions("blue")
            with pytest.raises(ConnectionClosedError) as told:
                await line.recv()
            assert told.value.rcvd is not None
            assert (told.value.rcvd.code, told.value.rcvd.reason) == (1012, "the release was ended; connect again")
        await line.close()
        await until(lambda: len(closes) == 2)
    assert closes == [1012, 1000]
    assert proxy.slot().broken_proxy == 0


# A2A


async def test_an_a2a_client_gets_the_error_of_a_task_that_is_not_known(rig: Rig) -> None:
    pytest.importorskip("a2a")
    import httpx
    from a2a.client.errors import A2AClientError
    from a2a.client.transports.jsonrpc import JsonRpcTransport
    from a2a.types.a2a_pb2 import AgentCard, GetTaskRequest, Message, Part, Role, SendMessageRequest
    from a2a.utils.errors import TaskNotFoundError

    def answering(request: Any) -> bytes:
        message = json.loads(request.body)
        task = {"id": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_WORKING"}}
        result = task if message["method"] == "GetTask" else {"task": task}
        return ok(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode(), JSON)

    held = asyncio.Event()

    async def blue(wire: Wire) -> None:
        while True:
            request = await wire.asked()
            if b"hold" in request.body:
                held.set()
                await wire.gone()
            await wire.send(answering(request))

    def sending(word: str) -> SendMessageRequest:
        said = Message(message_id="m", context_id="c-1", role=Role.ROLE_USER, parts=[Part(text=word)])
        return SendMessageRequest(message=said)

    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(Serving(answering)),), sessions=["a2a"])
    async with httpx.AsyncClient(timeout=5) as http:
        client = JsonRpcTransport(http, AgentCard(), url(proxy))
        assert (await client.send_message(sending("hello"))).task.id == "t-1"
        assert (await client.get_task(GetTaskRequest(id="t-1"))).id == "t-1"
        proxy.flip("green")
        waiting = asyncio.create_task(client.send_message(sending("hold")))
        async with asyncio.timeout(5):
            await held.wait()
        proxy.end_sessions("blue")
        with pytest.raises(A2AClientError, match="-32000"):
            await waiting
        # The session was told, and so it is for the task of it.
        assert (await client.get_task(GetTaskRequest(id="t-1"))).id == "t-1"

        proxy.flip("blue")
        assert (await client.get_task(GetTaskRequest(id="t-1"))).id == "t-1"
        proxy.end_sessions("green")
        with pytest.raises(TaskNotFoundError):
            await client.get_task(GetTaskRequest(id="t-1"))
        stream = [event async for event in client.send_message_streaming(sending("anew"))]
        assert stream[0].task.id == "t-1"
