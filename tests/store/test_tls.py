"""`rediss://`: a store behind TLS, with a real handshake before a real Redis.

The Redis that a package carries may be built without TLS, so the encryption is ended by a forwarder in front of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from redis.asyncio import SSLConnection

from bgproxy.errors import StoreUnavailable
from bgproxy.store.address import store_address
from bgproxy.store.redis_guides import ClusterNodes
from tests.redis_servers import SERVICE, RedisServer, Sentinel

pytestmark = pytest.mark.redis


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def door(tmp_path) -> AsyncIterator[Callable[[int, str], Awaitable[int]]]:
    """Opens TLS doors before ports, each for a name; their authority's certificate lies in a file, and a stranger's."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    servers: list[asyncio.Server] = []

    async def before(port: int, name: str) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))

        servers.append(await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))
        return servers[-1].sockets[0].getsockname()[1]

    yield before
    for server in servers:
        server.close()


@pytest.fixture
async def tls(redis_server, door, tmp_path) -> tuple[int, Path, Path]:
    """A TLS door before Redis, for localhost: its port, its authority's certificate, and a stranger's."""
    return await door(redis_server.port, "localhost"), tmp_path / "ca.pem", tmp_path / "stranger.pem"


async def test_a_fleet_lives_behind_tls(opened, flips, tls):
    port, authority, _ = tls
    store = await opened(f"rediss://localhost:{port}/0?ssl_ca_certs={authority}")
    state, _ = await store.commit(flips.first(), create=True)
    await store.commit(flips.flip(state, "green"))
    held = await store.read()
    assert held is not None
    assert (held.pointer.active, held.pointer.epoch) == ("green", 2)


async def test_a_bell_rings_through_tls(opened, flips, tls):
    port, authority, _ = tls
    store = await opened(f"rediss://localhost:{port}/0?ssl_ca_certs={authority}")
    bells = store.watch()
    assert await anext(bells) == 0
    await store.commit(flips.first(), create=True)
    assert await anext(bells) == 1
    await bells.aclose()


@pytest.mark.parametrize(
    ("host", "which", "why"), [("localhost", 2, "ssl_ca_certs"), ("127.0.0.1", 1, "another name.*ssl_check_hostname")]
)
async def test_who_cannot_prove_to_be_the_store_is_not_believed(opened, tls, host, which, why):
    with pytest.raises(StoreUnavailable, match=f"certificate.*{why}"):
        await opened(f"rediss://{host}:{tls[0]}/0?ssl_ca_certs={tls[which]}")


@pytest.fixture
def sentinel() -> Iterator[Sentinel]:
    """It names whatever it is told to watch over, and never finds that down: it does not speak TLS."""
    found = Sentinel(f"sentinel down-after-milliseconds {SERVICE} 600000", number=1)
    yield found
    found.close()


@pytest.mark.parametrize("sentinel_ssl", ["yes", "no"])
async def test_sentinels_lead_to_a_store_behind_tls(
    opened, flips, redis_server, door, sentinel, sentinel_ssl, tmp_path
):
    port = await door(redis_server.port, "127.0.0.1")
    sentinel.knows([RedisServer(port=port)], [sentinel])
    sentinel.start()
    asked = await door(sentinel.port, "127.0.0.1") if sentinel_ssl == "yes" else sentinel.port
    url = f"rediss+sentinel://127.0.0.1:{asked}/{SERVICE}/0?sentinel_ssl={sentinel_ssl}&ssl_ca_certs="
    store = await opened(f"{url}{tmp_path}/ca.pem")
    state, _ = await store.commit(flips.first(), create=True)
    assert await store.read() == state
    whose = "its" if sentinel_ssl == "no" else "no sentinel answers.* of one, its"
    with pytest.raises(StoreUnavailable, match=f"{whose} certificate is not trusted"):
        await opened(f"{url}{tmp_path}/stranger.pem")


@pytest.mark.parametrize(
    ("scheme", "of", "remedy"),
    [
        ("rediss", "", "redis://"),
        ("rediss+sentinel", f"/{SERVICE}", "sentinel_ssl=no"),
        ("rediss+cluster", "", r"redis\+cluster://"),
    ],
)
@pytest.mark.parametrize("answer", [None, b"", b"-ERR Protocol error\r\n"])
async def test_who_speaks_no_tls_is_named_with_the_remedy(opened, scheme, of, remedy, answer):
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_024)
        if answer is not None:
            writer.write(answer)
            writer.close()
        await reader.read()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreUnavailable, match=f"no TLS.*{remedy}"):
            await opened(f"{scheme}://127.0.0.1:{port}{of}", connect_timeout=0.2, command_timeout=0.2)


def test_nodes_of_a_cluster_are_asked_by_tls():
    guide = ClusterNodes(store_address("rediss+cluster://a,b?ssl_ca_certs=/ca.pem"), 1.0, "key")
    for client in guide._clients.values():
        assert client.connection_pool.connection_class is SSLConnection
        assert client.connection_pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
