"""`rediss://`: a store behind TLS, with a real handshake before a real Redis.

The Redis that a package carries may be built without TLS, so the encryption is ended by a forwarder in front of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from bgproxy.errors import StoreUnavailable

pytestmark = pytest.mark.redis


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def tls(redis_server, tmp_path) -> AsyncIterator[tuple[int, Path, Path]]:
    """A TLS door before Redis, for the name localhost: its port, its authority's certificate, and a stranger's."""
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], tmp_path / "ca.pem", tmp_path / "stranger.pem"
    server.close()


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


@pytest.mark.parametrize(("host", "which", "told"), [("localhost", 2, "certificate"), ("127.0.0.1", 1, "certificate")])
async def test_who_cannot_prove_to_be_the_store_is_not_believed(opened, tls, host, which, told):
    with pytest.raises(StoreUnavailable, match=told):
        await opened(f"rediss://{host}:{tls[0]}/0?ssl_ca_certs={tls[which]}")
