"""The demo's clients against an agent behind something that tampers: whatever it does to an answer must be counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import pytest

from bgproxy.cli.demo.agent import build
from bgproxy.cli.demo.clients import Load, everyone
from bgproxy.cli.demo.tally import Kind, PointerLog, Tally
from tests.e2e.apps import served

pytestmark = pytest.mark.slow

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Tamper = Callable[[int, Message], list[Message]]  # the number of the message in its answer → what is sent instead


class Tampering:
    """An ASGI app that passes everything on, except for the answers of one path."""

    def __init__(self, path: str, tamper: Tamper) -> None:
        self.agent = build("v1")
        self.path = path
        self.tamper = tamper

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        number = -1

        async def tampered(message: Message) -> None:
            nonlocal number
            number += 1
            for each in self.tamper(number, message):
                await send(each)

        await self.agent(scope, receive, tampered if scope.get("path") == self.path else send)


async def seen(path: str, tamper: Tamper, enough: Callable[[Tally], bool]) -> Tally:
    """What all clients have counted, once it was enough (15 s at most) and each has ended by itself."""
    tally = Tally(PointerLog("v1"))
    async with served(Tampering(path, tamper)) as url:
        load = Load(url, tally, long_stream=0.3, think=0.02, word_every=0.005)
        clients = asyncio.ensure_future(everyone(load, 2))
        with suppress(TimeoutError):
            async with asyncio.timeout(15):
                while not enough(tally):  # noqa: ASYNC110  # nobody is told of a count
                    await asyncio.sleep(0.01)
        load.stopping = True
        await asyncio.wait_for(clients, 15)
    return tally


def untouched(_number: int, message: Message) -> list[Message]:
    return [message]


def dropped(number: int, message: Message) -> list[Message]:
    return [] if number == 3 else [message]


def doubled(number: int, message: Message) -> list[Message]:
    return [message, message] if number == 3 and "bytes" not in message else [message]


def cut(number: int, message: Message) -> list[Message]:
    if number == 4:
        raise ConnectionError("cut by the test")
    return [message]


def other_release(_number: int, message: Message) -> list[Message]:
    if text := message.get("text"):
        message = {**message, "text": text.replace('"v1"', '"v2"')}
    if body := message.get("body"):
        message = {**message, "body": body.replace(b'"v1"', b'"v2"').replace(b'\\"v1\\"', b'\\"v2\\"')}
    return [message]


def refused(number: int, message: Message) -> list[Message]:
    """An answer of 503 where the agent gave another; its body is whatever the agent said."""
    return [{**message, "status": 503}] if message["type"] == "http.response.start" else [message]


@pytest.mark.parametrize(
    ("path", "tamper", "kinds", "reason"),
    [
        ("/v1/chat/completions", dropped, [Kind.CHAT_STREAM], "gap or out of order"),
        ("/v1/chat/completions", doubled, [Kind.CHAT_STREAM], "gap or out of order"),
        ("/v1/chat/completions", cut, [Kind.CHAT_STREAM], "APIConnectionError RemoteProtocolError"),
        ("/v1/chat/completions", other_release, [Kind.CHAT, Kind.CHAT_STREAM], "wrong release"),
        ("/v1/chat/completions", refused, [Kind.CHAT, Kind.CHAT_STREAM], "InternalServerError 503"),
        ("/mcp", refused, [Kind.MCP_SESSION], "MCPError"),
        ("/mcp", other_release, [Kind.MCP_CALL], "wrong release"),
        ("/mcp", dropped, [Kind.MCP_PROGRESS], "gap or out of order"),
        ("/ws", doubled, [Kind.WEBSOCKET], "somebody else's"),
        ("/ws", cut, [Kind.WEBSOCKET], "ConnectionClosedError EOFError"),
        ("/ws", other_release, [Kind.WEBSOCKET], "wrong release"),
    ],
)
async def test_what_is_done_to_an_answer_is_counted(path: str, tamper: Tamper, kinds: list[Kind], reason: str) -> None:
    def counted(tally: Tally) -> bool:
        return all(reason in tally.rows[kind].lost for kind in kinds)

    tally = await seen(path, tamper, counted)
    assert counted(tally), tally.document()


async def test_nothing_is_lost_of_an_agent_that_nobody_tampers_with() -> None:
    def often(tally: Tally) -> bool:
        return all(row.count > 1 for row in tally.rows.values())

    tally = await seen("/", untouched, often)
    assert tally.lost == 0, tally.document()
    assert often(tally), tally.document()
