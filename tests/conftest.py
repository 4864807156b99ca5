"""A real redis-server for whoever needs one, see `redis_servers`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_servers import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One for the whole session; tests keep apart by their fleet's name."""
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One for this test alone, which may kill it."""
    server = RedisServer()
    server.start()
    yield server
    server.close()
