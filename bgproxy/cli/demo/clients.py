"""The official clients of the demo, each in a loop: ask, check what comes, tell the tally, think, ask again.

Nothing is asked for twice: the OpenAI client runs with `max_retries=0`, and an error of any library is a lost answer. A
client always finishes what it has begun; it only begins nothing new once the load is being stopped. It knows one URL
and is not told where that leads.

MCP calls may land on either release from one call to the next, in the middle of an MCP session too: the agent is
stateless on purpose, and so no session needs to stay with its release. Agents whose sessions live in one process need
pins, which this demo does not show.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from websockets.asyncio.client import ClientConnection, connect

from bgproxy.cli.demo.tally import Answer, Kind, Piece, Tally

_ANSWER_TIMEOUT = 20.0  # seconds for an answer, or for the next part of a stream: a hung one is lost, not waited for
_AFTER_LOSS = 0.2  # seconds a client rests after a lost answer: a dead proxy must not become a busy loop
_CALLS_PER_SESSION = 8
_TURNS_PER_TALK = range(20, 50)
_STREAM_WORDS = range(35, 65)  # about 2.5 s, longer than the time between two flips
_PROGRESS_STEPS = range(10, 40)
_LONG_EVERY = 0.1  # the same for what stays open from the first flip to the last
_STAGGER = 0.03  # seconds from the start of one client to the next: they would measure their own crowd at the door


@dataclass(slots=True)
class Load:
    """What all clients share: where they ask, who counts, how fast they think, and when they are to end."""

    url: str
    tally: Tally
    long_stream: float  # seconds that the one long stream lasts
    think: float = 0.08  # seconds between two questions of a client
    word_every: float = 0.05  # seconds between two words of a stream, and between two steps of a tool
    stopping: bool = False

    @contextlib.contextmanager
    def asking(self, kind: Kind, tag: str, expected: int) -> Iterator[Answer]:
        """One question: counted when it ends, however it ends. Errors are counted too, and go no further."""
        answer = self.tally.begin(kind, tag, expected, time.perf_counter())
        try:
            yield answer
        except Exception as error:
            answer.failure, answer.detail = named(error), str(error)
        except asyncio.CancelledError:
            # Ended from outside: by the demo's own end, or by the SDK, whose task group has died under the call.
            answer.failure = "cancelled"
            raise
        finally:
            self.tally.end(answer)

    async def rest(self, answer: Answer) -> None:
        # No two pauses are the same, so that no client falls into step with the flips.
        await asyncio.sleep(_AFTER_LOSS if answer.failure else self.think * random.uniform(0.5, 1.5))


def named(error: BaseException) -> str:
    """The kind of an error, as the table shows it: task groups are looked into, HTTP statuses and causes are told."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    names = dict.fromkeys(type(each).__name__ for each in (error, error.__cause__) if each)  # often the same twice
    return " ".join([*names, str(status)] if status else names)


async def everyone(load: Load, each: int) -> None:
    """Run `each` clients of every kind until all have ended; the first of the streams and the first of the WebSockets
    stay open as long as the load lasts."""
    clients: list[Coroutine[Any, Any, None]] = []
    for number in range(each):
        mode = "auto" if number % 2 == 0 else "legacy"  # the protocol of 2026, and the handshake before it
        clients += [
            stream_client(load, f"stream{number}", long=number == 0),
            websocket_client(load, f"ws{number}", long=number == 0),
            chat_client(load, f"chat{number}"),
            mcp_client(load, f"mcp{number}", mode),
        ]
    await asyncio.gather(*(_later(place * _STAGGER, client) for place, client in enumerate(clients)))


async def _later(delay: float, client: Coroutine[Any, Any, None]) -> None:
    try:
        await asyncio.sleep(delay)
    except asyncio.CancelledError:
        client.close()  # it never began; without this Python warns that nobody awaited it
        raise
    await client


async def mcp_client(load: Load, name: str, mode: str) -> None:
    """Session after session; in each, plain calls and one call that tells its progress."""
    async with httpx2.AsyncClient(timeout=_ANSWER_TIMEOUT, **_plain()) as http:
        for session in count():
            if load.stopping:
                return
            try:
                await _session(load, http, mode, f"{name}-{session}")
            except Exception:
                # When a connection breaks, the SDK ends the whole session; the call under way is counted as lost.
                await asyncio.sleep(_AFTER_LOSS)


async def _session(load: Load, http: httpx2.AsyncClient, mode: str, tag: str) -> None:
    # No cache: each answer is to come through the proxy.
    transport = streamable_http_client(f"{load.url}/mcp", http_client=http)
    client = Client(transport, mode=mode, cache=None, read_timeout_seconds=_ANSWER_TIMEOUT)
    async with contextlib.AsyncExitStack() as stack:
        with load.asking(Kind.MCP_SESSION, tag, 1) as opening:
            await stack.enter_async_context(client)
            version = client.server_info.version if client.server_info else ""
            opening.take(Piece(version, 0, tag), time.perf_counter())
            opening.complete = True
        if opening.complete:
            await _calls(load, client, tag)
        else:
            await load.rest(opening)


async def _calls(load: Load, client: Client, tag: str) -> None:
    for number in range(_CALLS_PER_SESSION):
        if load.stopping:
            return
        call = f"{tag}-{number}"
        if number == _CALLS_PER_SESSION // 2:
            answer = await _progress(load, client, call)
        else:
            with load.asking(Kind.MCP_CALL, call, 1) as answer:
                result = await client.call_tool("ask", {"tag": call})
                _take_result(answer, 0, result.structured_content)
        await load.rest(answer)


async def _progress(load: Load, client: Client, tag: str) -> Answer:
    steps = random.choice(_PROGRESS_STEPS)
    with load.asking(Kind.MCP_PROGRESS, tag, steps + 1) as answer:  # the result is the last piece
        # The SDK passes `total` by name or place; it is known here.
        async def told(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
            whose, release = (message or "? ?").split(" ")
            answer.take(Piece(release, int(progress), whose), time.perf_counter())

        order = {"tag": tag, "steps": steps, "every_ms": round(load.word_every * 1000)}
        result = await client.call_tool("work", order, progress_callback=told)
        _take_result(answer, steps, result.structured_content)
    return answer


def _take_result(answer: Answer, number: int, result: dict[str, Any] | None) -> None:
    said = result or {}
    answer.take(Piece(said.get("release", ""), number, said.get("tag", "")), time.perf_counter())
    answer.complete = True


def _plain() -> dict[str, Any]:
    """Settings of an HTTP client that speaks to loopback: no proxies of the environment, and no TLS certificates, of
    which each client would otherwise load a bundle, for tens of milliseconds in which all others wait."""
    return {"trust_env": False, "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


def _openai(load: Load) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"{load.url}/v1",
        api_key="demo",  # the SDK wants one; the agent does not look at it
        max_retries=0,
        timeout=_ANSWER_TIMEOUT,
        http_client=DefaultAsyncHttpxClient(**_plain()),
    )


async def chat_client(load: Load, name: str) -> None:
    """Plain completions, one JSON document each."""
    async with _openai(load) as client:
        for number in count():
            if load.stopping:
                return
            tag = f"{name}-{number}"
            with load.asking(Kind.CHAT, tag, 10) as answer:
                completion = await client.chat.completions.create(
                    model="counter", messages=[{"role": "user", "content": f"count to 10 every 5 ms for {tag}"}]
                )
                for word in (completion.choices[0].message.content or "").split():
                    _take_word(answer, completion.system_fingerprint, word)
                answer.complete = completion.choices[0].finish_reason == "stop"
            await load.rest(answer)


async def stream_client(load: Load, name: str, *, long: bool) -> None:
    """Streamed completions, word by word; with `long`, the first one lasts as long as the whole load."""
    async with _openai(load) as client:
        for number in count():
            if load.stopping:
                return
            words, every = random.choice(_STREAM_WORDS), load.word_every
            if long and number == 0:
                words, every = max(1, round(load.long_stream / _LONG_EVERY)), _LONG_EVERY
            await load.rest(await _stream(load, client, f"{name}-{number}", words, every))


async def _stream(load: Load, client: AsyncOpenAI, tag: str, words: int, every: float) -> Answer:
    with load.asking(Kind.CHAT_STREAM, tag, words) as answer:
        prompt = f"count to {words} every {round(every * 1000)} ms for {tag}"
        async with await client.chat.completions.create(
            model="counter", messages=[{"role": "user", "content": prompt}], stream=True
        ) as stream:
            async for chunk in stream:
                if word := chunk.choices[0].delta.content:
                    _take_word(answer, chunk.system_fingerprint, word.strip())
                answer.complete = chunk.choices[0].finish_reason == "stop"
    return answer


def _take_word(answer: Answer, release: str | None, word: str) -> None:
    tag, _, number = word.rpartition(":")
    answer.take(Piece(release or "", int(number), tag), time.perf_counter())


async def websocket_client(load: Load, name: str, *, long: bool) -> None:
    """Conversation after conversation; with `long`, the first one goes on until the load ends."""
    url = load.url.replace("http://", "ws://", 1) + "/ws"
    for number in count():
        if load.stopping:
            return
        turns = None if long and number == 0 else random.choice(_TURNS_PER_TALK)
        with load.asking(Kind.WEBSOCKET, f"{name}-{number}", 0) as answer:
            # `asked` is set by each turn: a wait is the time of one turn, not of the opening.
            async with connect(url, proxy=None, open_timeout=_ANSWER_TIMEOUT, close_timeout=_ANSWER_TIMEOUT) as socket:
                await _talk(load, socket, answer, turns)
            answer.complete = socket.close_code == 1000
        await load.rest(answer)


async def _talk(load: Load, socket: ClientConnection, answer: Answer, turns: int | None) -> None:
    for turn in count() if turns is None else range(turns):
        # Every so often a long text, which takes several frames' worth of reads on its way.
        text = f"{answer.tag} {turn}" + (" and so on" * 2000 if turn % 16 == 8 else "")
        answer.ask(time.perf_counter())
        await socket.send(text)
        reply = json.loads(await asyncio.wait_for(socket.recv(), _ANSWER_TIMEOUT))
        whose = answer.tag if reply["text"] == text else "?"
        answer.take(Piece(reply["release"], reply["turn"], whose), time.perf_counter())
        if load.stopping and turns is None:
            return
        await load.rest(answer)
