"""A whole admin plane, with clients that come over loopback."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from admin_plane import LedgerRetirer, LedgerRuns, LedgerSwitch, Plane, Workers, release, worker
from aiohttp.test_utils import TestClient, TestServer

from bgproxy.admin.app import AdminDeps, build
from bgproxy.admin.options import AdminOptions
from bgproxy.store.base import StoreOptions
from bgproxy.store.ledger import Ledger
from bgproxy.store.memory import MemoryStore
from bgproxy.store.mirror import Mirror

MakeClient = Callable[..., Any]


@pytest.fixture
async def empty_plane() -> Plane:
    """No state yet."""
    store = MemoryStore(StoreOptions())
    mirror = Mirror(store)
    ledger = Ledger(store, mirror, time.time)
    acting = LedgerSwitch(ledger), LedgerRuns(ledger), LedgerRetirer(ledger)
    return Plane(store, mirror, ledger, *acting, Workers([worker("here-1")]))


@pytest.fixture
async def plane(empty_plane: Plane) -> Plane:
    """Blue active with v1, green ready with v2, violet empty."""
    releases = {"blue": release("v1", 9101), "green": release("v2", 9102)}
    await empty_plane.ledger.bootstrap(("blue", "green", "violet"), "blue", releases, actor="test")
    return empty_plane


@pytest.fixture
async def connect(plane: Plane) -> AsyncIterator[MakeClient]:
    """Makes clients of the plane's application; `connect(tokens=…)` sets options."""
    clients = []

    async def make(deps: AdminDeps | None = None, **options: Any) -> TestClient[Any, Any]:
        app = build(deps or plane.deps(AdminOptions(**options)))
        client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def client(connect: MakeClient) -> TestClient[Any, Any]:
    """On loopback, without tokens."""
    return await connect()
