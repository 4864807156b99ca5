"""Conversations by the packages `openai`, `langgraph-sdk` and `websockets`."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from websockets.asyncio.client import connect

from clients.talk import Said, Turn

_EVENTS = ["metadata", "updates", "updates", "values", "end"]  # of each run on a thread


@asynccontextmanager
async def responses(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """A chain by `previous_response_id`: as JSON, as a stream, and as a stream that is left and taken up again."""
    async with _openai(url, fields) as client:
        last: dict[str, Any] = {}

        async def turn(number: int) -> Said:
            asked = {"model": "m", "input": str(number), **last}
            if number % 3 == 0:
                response = await client.responses.create(**asked)
            else:
                response = await _streamed(client, asked, leaves=number % 3 == 2)
            last["previous_response_id"] = response.id
            return json.loads(response.output_text)

        yield turn


async def _streamed(client: openai.AsyncOpenAI, asked: dict[str, Any], *, leaves: bool) -> Any:
    async with await client.responses.create(**asked, stream=True) as stream:
        async for event in stream:
            if event.type == "response.completed":
                return event.response
            if leaves and event.type == "response.created":
                begun, seen = event.response.id, event.sequence_number
                break
    async with await client.responses.retrieve(begun, stream=True, starting_after=seen) as stream:
        async for event in stream:
            if event.type == "response.completed":
                return event.response
    raise AssertionError("a stream ended before its response was complete")


@asynccontextmanager
async def conversations(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """A conversation object, as a text and as an object in the request; its items are read in between."""
    async with _openai(url, fields) as client:
        conversation = await client.conversations.create()

        async def turn(number: int) -> Said:
            named: Any = conversation.id if number % 2 else {"id": conversation.id}
            asked = {"model": "m", "input": str(number), "conversation": named}
            if number % 3 == 1:
                response = await _streamed(client, asked, leaves=False)
            else:
                response = await client.responses.create(**asked)
            said = json.loads(response.output_text)
            items = [item.content[0].text async for item in client.conversations.items.list(conversation.id)]
            assert items == said["words"]
            return said

        yield turn


def _openai(url: str, fields: Mapping[str, str]) -> openai.AsyncOpenAI:
    # Its own retries would hide that a turn was lost.
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, default_headers=fields, timeout=10)


@asynccontextmanager
async def threads(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """A thread: runs that are waited for, and streams that break off or are left, and are taken up again."""
    async with get_client(url=url, api_key=None, headers=fields, timeout=10) as client:
        thread = (await client.threads.create())["thread_id"]

        async def turn(number: int) -> Said:
            given = {"word": str(number)}
            if number == 2:  # once, as the client waits a second or two before it takes a stream up again
                return await _broken_off(client, thread, given | {"breaks": True})
            if number % 4 == 1:
                return await _left(client, thread, given)
            return await client.runs.wait(thread, "agent", input=given)

        yield turn


async def _broken_off(client: LangGraphClient, thread: str, given: dict[str, Any]) -> Said:
    """A stream that the agent breaks off, and that the client takes up by itself, where `Location` says."""
    stream = client.runs.stream(thread, "agent", input=given, stream_resumable=True)
    parts = [part async for part in stream]
    assert [part.event for part in parts] == _EVENTS, parts  # none is missing, and none comes twice
    return parts[3].data


async def _left(client: LangGraphClient, thread: str, given: dict[str, Any]) -> Said:
    """A stream that is left after its first event, and joined from there; and then the state of the thread."""
    stream = client.runs.stream(thread, "agent", input=given, stream_resumable=True)
    first = await anext(stream)
    await stream.aclose()
    joined = client.runs.join_stream(thread, first.data["run_id"], last_event_id=first.id)
    parts = [first] + [part async for part in joined]
    assert [part.event for part in parts] == _EVENTS, parts
    assert (await client.threads.get_state(thread))["values"] == parts[3].data
    return parts[3].data


@asynccontextmanager
async def connection(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """A WebSocket that is the session."""
    async with connect(f"ws{url.removeprefix('http')}/socket", proxy=None) as line:

        async def turn(number: int) -> Said:
            await line.send(str(number))
            return json.loads(await line.recv())

        yield turn


@asynccontextmanager
async def token(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
    """A session by a token in the query: each turn on a WebSocket of its own."""
    at = f"ws{url.removeprefix('http')}/rejoin?token={uuid.uuid4().hex}"

    async def turn(number: int) -> Said:
        async with connect(at if number else f"{at}&new=1", proxy=None) as line:
            await line.send(str(number))
            return json.loads(await line.recv())

    yield turn
