"""`min_replicas`: a change is answered when so many replicas have it, or with how many have."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import StoreAuth
from bgproxy.rules.barrier import Move, prepare
from bgproxy.store.base import Conflict, Held, NodeReport, Store, StoreOptions, Waiting
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from tests.redis_servers import RedisServer, Sentinels
from tests.store import rights

pytestmark = pytest.mark.redis

Opened = Callable[..., Awaitable[Store]]


async def test_what_the_replicas_have_is_told(
    opened: Opened, sentinels: Sentinels, flips: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(sentinels.url, min_replicas=1)
    state, entry = await store.commit(flips.first(), create=True)
    assert entry.replicas is None  # nobody waits for the first state
    sentinels.master.command("SCRIPT", "FLUSH")
    state, entry = await store.commit(flips.flip(state))
    assert entry.replicas == (1, 1)
    state, entry = await store.commit(flips.stage(state, "blue", "v3"))
    assert entry.replicas == (1, 1)
    assert caplog.messages == []
    assert [one.replicas for one in await store.audit(limit=3)] == [None] * 3  # it is on no record


async def test_where_they_are_fewer_it_is_done_and_told(
    opened: Opened, sentinels: Sentinels, flips: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(sentinels.url, min_replicas=2, replica_timeout=0.05)
    state, _ = await store.commit(flips.first(), create=True)
    loop = asyncio.get_running_loop()
    began = loop.time()
    state, entry = await store.commit(flips.flip(state))
    assert loop.time() - began > 0.04
    assert entry.replicas == (1, 2)
    assert caplog.messages == ["store: after 0.05 s 1 of 2 replicas have the flip: a failover now may lose it"]
    assert await store.read() == state


async def test_clients_are_not_held_for_their_sake(opened: Opened, redis_server: RedisServer, flips: Any) -> None:
    store = await opened(redis_server.url, min_replicas=1, replica_timeout=0.2)
    state, _ = await store.commit(flips.first(), create=True)
    terms = {"exclude": (), "hold_timeout": 1.0, "key": "", "request": ""}
    prepared = prepare(state, Move("flip", "green", "ada", ""), at=1.0, **terms)  # type: ignore[arg-type]
    assert prepared is not None
    _, entry = await store.commit(prepared)
    assert entry.replicas is None


async def test_what_was_not_done_waits_for_nobody(opened: Opened, redis_server: RedisServer, flips: Any) -> None:
    """As the question whether all nodes hold, with all clients held meanwhile."""
    store = await opened(redis_server.url, min_replicas=1, replica_timeout=0.05)
    state, _ = await store.commit(flips.first(), create=True)
    await store.beat(NodeReport("far", "host", 1, "0.1", 1))
    before = waits(redis_server)
    with pytest.raises(Waiting):
        await store.commit(flips.flip(state), held=Held(state.revision))
    stale = flips.flip(state)
    await store.commit(flips.stage(state, "green", "v9"))
    assert waits(redis_server) == before + 1
    with pytest.raises(Conflict):
        await store.commit(stale)
    assert waits(redis_server) == before + 1


def waits(server: RedisServer) -> int:
    """How often this server was asked to wait for its replicas."""
    found = re.search(rb"cmdstat_wait:calls=(\d+)", server.command("INFO", "commandstats"))
    return int(found[1]) if found else 0


async def test_another_connection_hears_of_it_while_they_are_waited_for(
    opened: Opened, redis_server: RedisServer, flips: Any, until: Callable[..., Awaitable[float]]
) -> None:
    store = await opened(redis_server.url, min_replicas=1, replica_timeout=0.4)
    await store.commit(flips.first(), create=True)
    mirror = Mirror(store, read_interval=60)
    await mirror.start()
    await until(lambda: mirror.subscribed)
    ledger = Ledger(store, mirror, clock=lambda: 0.0)
    flipping = asyncio.ensure_future(ledger.flip("green", actor="ada", reason=""))
    await until(lambda: mirror.state is not None and mirror.state.pointer.epoch == 2)
    assert not flipping.done()
    outcome = await flipping
    assert outcome.entry is not None
    assert outcome.entry.replicas == (0, 1)
    await mirror.stop()


async def test_who_may_not_wait_is_told_before_the_first_flip(
    opened: Opened, redis_server: RedisServer, fleet_name: str
) -> None:
    user = f"without-wait-{fleet_name}"
    rights.give(redis_server, fleet_name, [one for one in rights.documented() if one != "+wait"], user)
    with pytest.raises(StoreAuth, match="wait"):
        await opened(rights.with_user(redis_server.url, user), min_replicas=1)


def test_who_asked_for_a_change_is_told_no_earlier_than_the_replicas_are_waited_for() -> None:
    plain, replicated = StoreOptions(replica_timeout=5.0), StoreOptions(min_replicas=1, replica_timeout=5.0)
    assert replicated.patience == plain.patience + 5.0
