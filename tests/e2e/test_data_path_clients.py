"""Clients and servers that others wrote, talking through the proxy: curl, httpx2, openai, websockets."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator

import httpx2
import openai
import pytest
import websockets
from rig import Proxy, Rig, Serving, get, ok
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from wire import Message, Wire

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


async def curl(proxy: Proxy, *arguments: str, data: bytes = b"") -> bytes:
    """What curl prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        *arguments,
        f"http://127.0.0.1:{proxy.port}/",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(data)
    assert process.returncode == 0, err.decode()
    return out


def echo(request: Message) -> bytes:
    """The body, and how it was framed."""
    framing = "chunked" if request.get(b"transfer-encoding") else "length"
    return ok(request.body, f"X-Framing: {framing}".encode(), b"X-Method: " + request.method)


@needs_curl
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl_gets_and_heads(rig: Rig, version: str) -> None:
    proxy = await rig.proxy(rig.agent(Serving(lambda request: ok(b"" if request.method == b"HEAD" else b"hello"))))
    assert await curl(proxy, version) == b"hello"
    assert b"200 OK" in await curl(proxy, version, "--head")


@needs_curl
async def test_curl_uploads_with_expect_and_in_chunks(rig: Rig) -> None:
    body = b"0123456789abcdef" * 200_000

    async def agent(wire: Wire) -> None:
        while True:
            head = await wire.head()
            if head.get(b"expect"):
                await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await wire.send(echo(await wire._body(head)))

    proxy = await rig.proxy(rig.agent(agent))
    assert await curl(proxy, "--data-binary", "@-", "-H", "Expect: 100-continue", data=body) == body
    out = await curl(proxy, "--include", "-T", "-", "-H", "Transfer-Encoding: chunked", data=body)
    assert out.endswith(body)
    assert b"X-Framing: chunked" in out
    assert b"X-Method: PUT" in out


@needs_curl
async def test_curl_reads_a_stream_until_close(rig: Rig) -> None:
    async def agent(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(5):
            await wire.send(b"data: %d\n\n" % number)

    proxy = await rig.proxy(rig.agent(agent))
    assert await curl(proxy, "--no-buffer") == b"".join(b"data: %d\n\n" % number for number in range(5))


@needs_curl
async def test_curl_can_tell_an_answer_that_broke_off(rig: Rig) -> None:
    for version in ("--http1.1", "--http1.0"):

        async def agent(wire: Wire) -> None:
            await wire.head()
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await asyncio.sleep(0.05)

        proxy = await rig.proxy(rig.agent(agent))
        with pytest.raises(AssertionError, match="curl"):
            await curl(proxy, version)


async def test_httpx_streams_both_ways(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(echo)))

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"part" * 1_000

    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}") as client:
        for _ in range(3):
            answer = await client.post("/", content=parts())
            assert (answer.content, answer.headers["x-framing"]) == (b"part" * 50_000, "chunked")
            async with client.stream("POST", "/", content=b"x" * 1_000_000) as answer:
                assert sum([len(piece) async for piece in answer.aiter_bytes()]) == 1_000_000
        assert (await client.head("/")).status_code == 200
    assert proxy.metrics.connections_total == 1


async def test_openai_streams_a_completion_token_by_token(rig: Rig) -> None:
    """Each token is taken by the client before the agent says the next."""
    taken = asyncio.Semaphore(0)
    words = ["Blue", " or", " green", "?"]

    async def agent(wire: Wire) -> None:
        while True:
            request = await wire.asked()
            assert json.loads(request.body)["stream"] is True
            assert request.get(b"authorization") == b"Bearer key"
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for word in words:
                event = {
                    "id": "1",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": "m",
                    "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
                }
                data = f"data: {json.dumps(event)}\n\n".encode()
                await wire.send(b"%x\r\n%b\r\n" % (len(data), data))
                await taken.acquire()
            await wire.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    proxy = await rig.proxy(rig.agent(agent))
    url = f"http://127.0.0.1:{proxy.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="key", max_retries=0) as client:
        for _ in range(2):
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            said = []
            async for part in stream:
                said.append(part.choices[0].delta.content)
                taken.release()
            assert said == words
    assert proxy.metrics.connections_total == 1


async def test_openai_hears_of_our_own_refusals(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()))
    proxy.flip("green")
    url = f"http://127.0.0.1:{proxy.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="key", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as refused:
            await client.models.list()
    assert refused.value.status_code == 503
    assert refused.value.response.json()["code"] == "no_upstream"


async def reversing(line: ServerConnection) -> None:
    """Sends every message back, turned round."""
    async for message in line:
        await line.send(message[::-1])


async def websocket_proxy(rig: Rig, port: int) -> Proxy:
    return await rig.proxy(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_websockets_of_every_size(rig: Rig, compression: str | None) -> None:
    async with serve(reversing, "127.0.0.1", 0, max_size=None, compression=compression) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        proxy = await websocket_proxy(rig, port)
        url = f"ws://127.0.0.1:{proxy.port}/chat"
        async with connect(url, max_size=None, compression=compression, proxy=None) as line:
            for size in (0, 1, 125, 126, 65_535, 65_536, 2_000_000):
                message = bytes(range(256)) * (size // 256) + b"." * (size % 256)
                await line.send(message)
                assert await line.recv() == message[::-1]
            await line.send("text ü")
            assert await line.recv() == "ü txet"
            await (await line.ping())
    assert line.close_code == 1000


async def test_websockets_close_codes_and_subprotocols_pass(rig: Rig) -> None:
    async def leave(line: ServerConnection) -> None:
        await line.recv()
        await line.close(4_001, "enough")

    async with serve(leave, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("mcp")]) as server:
        proxy = await websocket_proxy(rig, next(iter(server.sockets)).getsockname()[1])
        url = f"ws://127.0.0.1:{proxy.port}/"
        async with connect(url, subprotocols=[websockets.Subprotocol("mcp")], proxy=None) as line:
            assert line.subprotocol == "mcp"
            await line.send("hello")
            with pytest.raises(websockets.ConnectionClosed):
                await line.recv()
            assert (line.close_code, line.close_reason) == (4_001, "enough")


async def test_websockets_many_at_once_and_over_a_flip(rig: Rig) -> None:
    def naming(name: str):
        async def answer(line: ServerConnection) -> None:
            async for message in line:
                await line.send(f"{name} {message}")

        return answer

    async with serve(naming("blue"), "127.0.0.1", 0) as blue, serve(naming("green"), "127.0.0.1", 0) as green:
        ports = [next(iter(server.sockets)).getsockname()[1] for server in (blue, green)]
        pool = {"warm_connections": 0}  # the servers' end would wait for them
        proxy = await rig.proxy(f"http://127.0.0.1:{ports[0]}", green=(f"http://127.0.0.1:{ports[1]}",), pool=pool)
        url = f"ws://127.0.0.1:{proxy.port}/"
        old = [await connect(url, proxy=None) for _ in range(20)]
        proxy.flip("green")
        new = await connect(url, proxy=None)
        for number, line in enumerate(old):
            await line.send(str(number))
            assert await line.recv() == f"blue {number}"
        await new.send("x")
        assert await new.recv() == "green x"
        for line in (*old, new):
            await line.close()


async def test_websockets_refused_by_the_agent_are_refused_to_the_client(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(ok(b"no", status=b"403 Forbidden"))))
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{proxy.port}/", proxy=None)
    assert refused.value.response.status_code == 403
    assert (await proxy.ask(get())).status == 403
