"""The data path runs on uvloop in production, so its tests do; a rig per test fails it for what went wrong unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop
from rig import Rig
from serving import Agent, Town


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Agents, a proxy and clients."""
    rig = Rig()
    yield rig
    await rig.close()


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    """Proxies as they are run, in processes of their own."""
    town = Town()
    yield town
    await town.close()


@pytest.fixture
async def agents(town: Town) -> tuple[Agent, Agent]:
    return await town.agent("v1"), await town.agent("v2")


@pytest.fixture
def shared(town: Town, redis_server: Any) -> tuple[str, ...]:
    """The flags by which proxies become one fleet."""
    return "--store", redis_server.url, "--fleet", town.fleet
