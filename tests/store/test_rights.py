"""The rights that an ACL user needs: those that are documented are enough, and none of them is too much."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bgproxy.errors import StoreAuth
from bgproxy.store.base import Store, StoreOptions, open_store
from tests.redis_servers import RedisServer
from tests.store import rights
from tests.store.everything import AUDIT_KEEP, everything, trim_soon
from tests.store.rights import SECRET

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    found = RedisServer()
    found.start()
    trim_soon(found)
    yield found
    found.close()


@pytest.fixture
async def store(server: RedisServer, fleet_name: str) -> AsyncIterator[Store]:
    """Not opened yet; it uses another database than the first, a name of its own, and asks for replicas."""
    url = rights.with_user(server.url).replace("/0", "/1?client_name=us")
    options = {
        "audit_keep": AUDIT_KEEP,
        "min_replicas": 1,
        "replica_timeout": 0.001,
    }  # there is none: it is not waited long
    found = open_store(StoreOptions(url=url, fleet=fleet_name, **options))
    yield found
    await found.close()


async def test_those_that_are_documented_are_enough(store: Store, server: RedisServer, fleet_name: str, flips: Any):
    rights.give(server, fleet_name)
    await everything(store, flips)


@pytest.mark.parametrize("right", rights.documented())
async def test_none_of_them_is_too_much(store: Store, server: RedisServer, fleet_name: str, flips: Any, right: str):
    rights.give(server, fleet_name, [one for one in rights.documented() if one != right])
    if right == "+script|load":
        server.command("SCRIPT", "FLUSH")  # it knows them from the tests before
    with pytest.raises(StoreAuth, match="may not do this"):
        await everything(store, flips)


@pytest.mark.parametrize("right", ["+publish", "+hdel", "+xadd", "+xlen"])
async def test_a_change_that_may_not_be_made_whole_is_not_made_in_part(
    store: Store, server: RedisServer, fleet_name: str, flips: Any, right: str
):
    rights.give(server, fleet_name)
    await store.open()
    state, _ = await store.commit(flips.first(), create=True)
    before = await store.audit(limit=10)
    rights.give(server, fleet_name, [one for one in rights.documented() if one != right])
    with pytest.raises(StoreAuth, match="may not do this"):
        await store.commit(flips.flip(state, "green"))
    rights.give(server, fleet_name)
    assert (await store.read(), await store.audit(limit=10)) == (state, before)
    await store.commit(flips.flip(state, "green"))


async def test_another_fleet_is_out_of_reach(store: Store, server: RedisServer):
    rights.give(server, "others")
    with pytest.raises(StoreAuth, match=r"may not do this.*store/base\.py") as refused:
        await store.open()
    assert SECRET not in str(refused.value)
