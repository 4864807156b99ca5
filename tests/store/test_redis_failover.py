"""Servers that are lost, replaced or moved, under sentinels and in a cluster: the client comes back by itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.store.base import NodeReport, Store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import Once
from bgproxy.store.pinning import Turn
from bgproxy.store.restorer import Restorer
from bgproxy.store.trail import verify
from tests.redis_servers import Cluster, RedisServer, Sentinels

pytestmark = pytest.mark.redis

Until = Callable[..., Awaitable[float]]
Opened = Callable[..., Awaitable[Store]]

BACK = 10.0  # seconds after which all must be well again; it takes one to three
NODE = NodeReport("n", "h", 1, "0.1", 1)
_numbers = itertools.count()


@pytest.fixture
def own_sentinels() -> Iterator[Sentinels]:
    found = Sentinels(down_after=0.5)
    found.start()
    yield found
    found.close()


def has_state(server: RedisServer) -> bool:
    return b":state" in server.command("KEYS", "*")


async def follow(store: Store, until: Until) -> Mirror:
    mirror = Mirror(store, read_interval=0.1)
    await mirror.start()
    await until(lambda: mirror.subscribed)
    return mirror


@pytest.fixture
async def following(until: Until) -> AsyncIterator[Callable[[Store], Awaitable[Mirror]]]:
    found = []

    async def start(store: Store) -> Mirror:
        found.append(await follow(store, until))
        return found[-1]

    yield start
    for mirror in found:
        await mirror.stop()


async def made(commit: Callable[[], Awaitable[Any]]) -> Any:
    """What comes of it once the store is back; meanwhile each try must be refused in time, and as away."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BACK
    while True:
        began = loop.time()
        try:
            return await commit()
        except StoreUnavailable:
            assert loop.time() - began < 2
            assert loop.time() < deadline, f"the store is not back after {BACK} s"
        await asyncio.sleep(0.02)


def killing(store: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next commit is made, and the server dies before it answers."""
    script = store._commit_script

    async def commit_and_die(**arguments: Any) -> Any:
        monkeypatch.setattr(store, "_commit_script", script)
        await script(**arguments)
        server.kill()
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(store, "_commit_script", commit_and_die)


async def test_a_master_that_dies_between_a_flip_and_its_answer(
    opened: Opened,
    own_sentinels: Sentinels,
    flips: Any,
    until: Until,
    following: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, other = await opened(own_sentinels.url), await opened(own_sentinels.url)
    await store.commit(flips.first(), create=True)
    await until(lambda: has_state(own_sentinels.servers[1]))
    mirror, elsewhere = await following(store), await following(other)
    seen: list[list[int]] = [[], []]
    for one, epochs in zip((mirror, elsewhere), seen, strict=True):
        one.listen(lambda state, epochs=epochs: epochs.append(state.pointer.epoch))
    ledger = Ledger(store, mirror, clock=lambda: 0.0)
    once = Once("job 1", "flip green")
    killing(store, own_sentinels.servers[0], monkeypatch)
    with pytest.raises(StoreUnavailable, match="whether the change was made is not known"):
        await ledger.flip("green", actor="ada", reason="why", once=once)
    outcome = await made(lambda: ledger.flip("green", actor="ada", reason="why", once=once))
    assert (outcome.state.pointer.active, outcome.state.pointer.epoch) == ("green", 2)  # done once, known or not
    for one in (mirror, elsewhere):
        await until(lambda: one.subscribed and one.connected, BACK)  # noqa: B023 - awaited in this turn
        await until(lambda: one.state is not None and one.state.pointer.epoch == 2, BACK)  # noqa: B023
    again = await ledger.flip("blue", actor="ada", reason="back")
    await until(lambda: elsewhere.state == again.state, BACK)
    assert seen == [[2, 3], [2, 3]]
    assert (await verify(other)).fault is None


async def test_a_flip_that_no_replica_had_is_written_back(
    opened: Opened, own_sentinels: Sentinels, flips: Any, until: Until, following: Any
) -> None:
    store = await opened(own_sentinels.url)
    await store.commit(flips.first(), create=True)
    master, replica = own_sentinels.servers
    await until(lambda: has_state(replica))
    mirror = await following(store)
    ledger = Ledger(store, mirror, clock=lambda: 0.0)
    restorer = Restorer(ledger, mirror)
    os.kill(replica.pid, signal.SIGSTOP)
    master.command("CLIENT", "KILL", "TYPE", "replica")  # nothing is on its way to it any more
    state = (await ledger.flip("green", actor="ada", reason="why")).state
    master.kill()
    os.kill(replica.pid, signal.SIGCONT)
    await until(lambda: mirror.state.revision > state.revision, BACK)  # type: ignore[union-attr]
    standing = await store.read()
    assert standing is not None
    assert (standing.pointer, standing.revision) == (state.pointer, state.revision + 1)
    [entry] = await store.audit(limit=1)
    assert (entry.verb, entry.facts["found"]) == ("restore", {"revision": 1, "epoch": 1, "active": "blue"})
    assert (await verify(store)).fault is None
    await restorer.stop()


async def test_an_operators_failover_takes_commands_and_listeners_along(
    opened: Opened, own_sentinels: Sentinels, flips: Any, until: Until, following: Any
) -> None:
    store = await opened(own_sentinels.url)
    state, _ = await store.commit(flips.first(), create=True)
    await until(lambda: has_state(own_sentinels.servers[1]))
    mirror = await following(store)
    await asyncio.gather(*(store.read() for _ in range(8)))  # a pool full of lines to the old master
    await asyncio.to_thread(own_sentinels.failover)
    new = ("127.0.0.1", own_sentinels.servers[1].port)
    await until(lambda: store._primary._last == new, 1.0)  # type: ignore[attr-defined] # by a sentinel's word
    for _ in range(3):
        state, _ = await made(lambda state=state: store.commit(flips.flip(state)))
        await until(lambda: mirror.state == state, BACK)  # noqa: B023 - awaited in this turn
    assert (await store._primary.address()) == new  # type: ignore[attr-defined]
    assert all((await asyncio.gather(*(store.nodes() for _ in range(8))), mirror.alarms == 0))


async def test_a_master_that_hangs_is_left_once_it_is_replaced(
    opened: Opened, own_sentinels: Sentinels, flips: Any, until: Until, following: Any
) -> None:
    store = await opened(own_sentinels.url, command_timeout=0.3, connect_timeout=0.3)
    state, _ = await store.commit(flips.first(), create=True)
    await until(lambda: has_state(own_sentinels.servers[1]))
    mirror = await following(store)
    hung = own_sentinels.servers[0]
    os.kill(hung.pid, signal.SIGSTOP)
    state, _ = await made(lambda: store.commit(flips.flip(state)))
    await until(lambda: mirror.subscribed and mirror.state == state, BACK)  # its line was open all the time
    assert mirror.alarms == 0


@pytest.fixture
def first_fleet(cluster: Cluster) -> str:
    """A fleet that lives on the master that has a replica."""
    names = (f"moving-{number}" for number in _numbers)
    slots = range(-(-16_384 // 3))
    return next(name for name in names if cluster.slot_of(f"{{{name}}}") in slots)


async def test_a_cluster_whose_master_changes_place_with_its_replica(
    opened: Opened, cluster: Cluster, first_fleet: str, flips: Any, until: Until, following: Any
) -> None:
    store = await opened(cluster.url, fleet=first_fleet)
    state, _ = await store.commit(flips.first(), create=True)
    mirror = await following(store)
    key = f"bgproxy:{{{first_fleet}}}:state"
    before = cluster.owner_of(key)
    [replica] = [one for one in (cluster.servers[0], cluster.servers[3]) if one is not before]
    assert replica.command("CLUSTER", "FAILOVER").startswith(b"+OK")
    await until(lambda: b"role:master" in replica.command("INFO", "replication"), BACK)
    for _ in range(3):
        state, _ = await made(lambda state=state: store.commit(flips.flip(state)))
        await until(lambda: mirror.state == state, BACK)  # noqa: B023 - awaited in this turn
    assert cluster.owner_of(key) is replica
    assert (await store._primary.address())[1] == replica.port  # type: ignore[attr-defined]
    assert len(await store.nodes()) == 0  # by a pipeline
    assert mirror.alarms == 0


async def test_a_cluster_that_loses_the_master(
    opened: Opened, cluster: Cluster, first_fleet: str, flips: Any, until: Until, following: Any
) -> None:
    store = await opened(cluster.url, fleet=first_fleet)
    state, _ = await store.commit(flips.first(), create=True)
    mirror = await following(store)
    cluster.settled()
    key = f"bgproxy:{{{first_fleet}}}:state"
    master = cluster.owner_of(key)
    [replica] = [one for one in (cluster.servers[0], cluster.servers[3]) if one is not master]
    await until(lambda: b"MOVED" in replica.command("TYPE", key))
    master.kill()
    try:
        state, _ = await made(lambda: store.commit(flips.flip(state)))
        await until(lambda: mirror.subscribed and mirror.state == state, BACK)
        assert mirror.alarms == 0
        assert (await verify(store)).fault is None
    finally:
        master.start()  # it comes back as a replica
        await asyncio.to_thread(cluster.settled)


async def test_a_slot_on_its_way_from_one_node_to_another(
    opened: Opened, cluster: Cluster, flips: Any, fleet_name: str
) -> None:
    key = f"bgproxy:{{{fleet_name}}}:state"
    nodes = f"bgproxy:{{{fleet_name}}}:nodes"
    store = await opened(cluster.url)
    state, _ = await store.commit(flips.first(), create=True)
    await store.beat(NODE)
    source, slot = cluster.owner_of(key), str(cluster.slot_of(key))
    target = next(one for one in cluster.servers[1:3] if one is not source)
    there, here = cluster.id_of(target), cluster.id_of(source)
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
    source.command("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", key, nodes)
    assert await store.read() == state  # asked for where it is by now
    await store.pins.idle("a node", [Turn(b"p" * 16, 1)])  # a script of one key, which the other node is sent first
    with pytest.raises(StoreUnavailable, match="moving to another node of the cluster: try again"):
        await store.commit(flips.flip(state))
    audit = f"bgproxy:{{{fleet_name}}}:audit"
    source.command("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", audit)
    for node in (target, source, *cluster.servers):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", there)
    state, _ = await store.commit(flips.flip(state))
    assert await store.read() == state
    assert cluster.owner_of(key) is target
    async with aclosing(store.watch()) as bells:  # type: ignore[type-var]
        assert await anext(bells) == 0
        await store.commit(flips.flip(state))
        assert await anext(bells) == 3
