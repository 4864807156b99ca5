"""The order of the tests, and a real redis-server for whoever needs one, see `redis_servers`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.redis_servers import RedisServer

# Nearly two hundred Pythons are started by the tests: where nothing compiled may be kept, each compiles all of it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who may take longest begins first: in the end no process works on one long test while the others are idle."""
    items.sort(key=_patience, reverse=True)


def _patience(item: pytest.Item) -> float:
    """Seconds of a test's own time limit; 0 without one."""
    own = item.get_closest_marker("timeout")
    return float(own.args[0]) if own is not None else 0.0


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
