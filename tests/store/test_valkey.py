"""Valkey in place of Redis: all that is ever asked of a store, under the documented rights.

`REDIS_SERVER=/path/to/valkey-server make test` runs everything on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bgproxy.errors import StoreAuth
from bgproxy.store.base import StoreOptions, open_store
from tests.redis_servers import RedisServer, find_valkey_server
from tests.store import rights
from tests.store.everything import AUDIT_KEEP, everything, trim_soon

pytestmark = pytest.mark.redis


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    server = RedisServer(binary=find_valkey_server())
    server.start()
    trim_soon(server)
    yield server
    server.close()


async def test_all_that_is_asked_of_a_store(valkey: RedisServer, flips: Any, fleet_name: str):
    assert b"server_name:valkey" in valkey.command("INFO", "server")
    rights.give(valkey, fleet_name)
    store = open_store(StoreOptions(url=rights.with_user(valkey.url), fleet=fleet_name, audit_keep=AUDIT_KEEP))
    await everything(store, flips)
    rights.give(valkey, fleet_name, [one for one in rights.documented() if one != "+hset"])
    with pytest.raises(StoreAuth, match="may not do this"):  # its words differ from those of Redis
        await store.commit(flips.flip(await store.read()))
    await store.close()
