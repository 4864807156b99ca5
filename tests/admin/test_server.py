"""The application on its sockets: TCP and Unix, other options while running, a shutdown that ends streams."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from admin_plane import OPERATOR, TOKENS, VIEWER, bearer

from bgproxy.admin.options import AdminOptions
from bgproxy.admin.server import AdminServer
from bgproxy.errors import ConfigError

Listen = Callable[[str], tuple[socket.socket, str]]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Opens a socket on an address of this machine or a path; the server closes it."""

    def opened(where: str) -> tuple[socket.socket, str]:
        sock = socket.socket(socket.AF_UNIX if where.startswith("/") else socket.AF_INET)
        sock.bind(where if where.startswith("/") else (where, 0))
        sock.listen()
        sockets.append(sock)
        return sock, "" if where.startswith("/") else f"127.0.0.1:{sock.getsockname()[1]}"

    sockets: list[socket.socket] = []
    yield opened
    for sock in sockets:
        sock.close()


async def test_it_serves_and_ends_its_streams(plane, listen):
    sock, address = listen("127.0.0.1")
    server = AdminServer([sock])
    await server.start(plane.deps())
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/v1/status") as answer:
            assert answer.status == 200
        async with session.get(f"http://{address}/v1/events") as events:
            await events.content.readline()
            await asyncio.wait_for(server.stop(), 5)
            await asyncio.wait_for(events.content.read(), 5)
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://{address}/livez")


async def test_other_tokens_hold_from_the_moment_they_replace_the_old(plane, listen):
    sock, address = listen("127.0.0.1")
    server = AdminServer([sock])
    await server.start(plane.deps(AdminOptions(tokens=TOKENS[:1])))
    await server.replace(plane.deps(AdminOptions(tokens=TOKENS[1:])))
    async with aiohttp.ClientSession() as session:
        for secret, status in ((VIEWER, 401), (OPERATOR, 200)):
            async with session.get(f"http://{address}/v1/status", headers=bearer(secret)) as answer:
                assert answer.status == status
    await server.stop()


async def test_options_that_must_not_be_served_leave_the_old_ones(plane, listen):
    sock, address = listen("127.0.0.1")
    server = AdminServer([sock])
    await server.start(plane.deps())
    with pytest.raises(ConfigError, match="token"):
        await server.replace(plane.deps(AdminOptions(listen="0.0.0.0:9900")))
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/livez") as answer:
        assert answer.status == 200
    await server.stop()


async def test_callers_on_a_unix_socket_are_on_record_as_such_and_need_no_host(plane, listen, tmp_path: Path):
    path = str(tmp_path / "admin.sock")
    server = AdminServer([listen(path)[0]])
    await server.start(plane.deps(AdminOptions(listen=f"unix:{path}")))
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.post("http://whatever.test/v1/flip", json={"to": "green"}) as answer,
    ):
        assert answer.status == 200
    await server.stop()
    assert plane.switch.asked[0]["actor"] == "unix"


async def test_tokens_count_on_a_unix_socket_too(plane, listen, tmp_path: Path):
    path = str(tmp_path / "admin.sock")
    server = AdminServer([listen(path)[0]])
    await server.start(plane.deps(AdminOptions(listen=f"unix:{path}", tokens=TOKENS)))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        for headers, status in (({}, 401), (bearer(VIEWER), 200)):
            async with session.get("http://x/v1/status", headers=headers) as answer:
                assert answer.status == status
    await server.stop()


async def test_on_all_addresses_the_one_that_was_dialled_is_a_known_host(plane, listen):
    sock, address = listen("0.0.0.0")
    port = address.rpartition(":")[2]
    server = AdminServer([sock])
    await server.start(plane.deps(AdminOptions(listen=f"0.0.0.0:{port}", tokens=TOKENS)))
    async with aiohttp.ClientSession() as session:
        for host, status in ((f"127.0.0.5:{port}", 200), ("127.0.0.6", 403), ("evil.test", 403)):
            headers = bearer(VIEWER) | {"Host": host}
            async with session.get(f"http://127.0.0.5:{port}/v1/status", headers=headers) as answer:
                assert answer.status == status, host
    await server.stop()


async def test_garbage_is_refused_and_its_content_not_logged(plane, listen, caplog):
    sock, address = listen("127.0.0.1")
    server = AdminServer([sock])
    await server.start(plane.deps())
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(b"GET /v1/status HTTP/1.1\r\nAuthorization : Bearer my-secret-my-secret\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    problem = json.loads(await reader.read())  # to its end: the connection is closed behind it
    writer.close()
    await server.stop()
    assert head[0].endswith(" 400 Bad Request")
    assert {"Content-Type: application/problem+json", "Server: bgproxy", "Cache-Control: no-store"} <= {*head}
    assert (problem["code"], problem["status"]) == ("bad_request", 400)
    assert "my-secret" not in str(problem)
    assert "Error handling request" in caplog.text
    assert "my-secret" not in caplog.text
