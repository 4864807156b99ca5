"""Health checks over real sockets: by a path or by a mere connection, on ports and on Unix sockets."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from bgproxy.rollout.health import HealthChecker
from bgproxy.rules.health import Health, HealthOptions


@dataclass
class Target:
    url: str
    health: Health = field(default_factory=lambda: Health(HealthOptions()))


@pytest.fixture(params=["port", "unix"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """An agent that answers /N with status N, and /slow never."""

    async def answer(asked: web.Request) -> web.Response:
        if asked.path == "/slow":
            await asyncio.Event().wait()
        return web.Response(status=int(asked.path[1:]), headers={"Location": "/503"})

    app = web.Application()
    app.router.add_get("/{what}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    with tempfile.TemporaryDirectory(prefix="bgp-") as directory:
        path = str(Path(directory, "agent.sock"))
        site = web.UnixSite(runner, path) if request.param == "unix" else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"unix:{path}" if request.param == "unix" else f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


def checker(path: str = "", timeout: float = 5.0) -> HealthChecker:
    return HealthChecker(HealthOptions(path=path, timeout=timeout), list)


@pytest.mark.parametrize(("path", "reason"), [
    ("/200", ""),
    ("/204", ""),
    ("/302", ""),  # not followed: where it leads, a 503, is not what was asked for
    ("/404", "/404 answered 404"),
    ("/503", "/503 answered 503"),
    ("", ""),
])  # fmt: skip
async def test_by_path_any_2xx_or_3xx_is_well_without_one_a_connection_is(url, path, reason):
    target = Target(url)
    assert await checker(path).check(target) == reason
    assert target.health.up is (not reason)


async def test_an_agent_that_does_not_answer_in_time(url):
    target = Target(url)
    assert await checker("/slow", timeout=0.1).check(target) == "no answer within 0.1 s"
    assert not target.health.up


@pytest.mark.parametrize("path", ["", "/200"])
async def test_an_agent_that_is_not_there(path, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        gone = f"http://127.0.0.1:{sock.getsockname()[1]}"
    for url, reason in ((gone, "connection refused"), (f"unix:{tmp_path}/none", "no such file or directory")):
        target = Target(url)
        assert await checker(path).check(target) == reason
        assert not target.health.up


async def test_what_is_no_http_is_not_well(tmp_path):
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        target = Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await checker("/200").check(target)
    assert not target.health.up
