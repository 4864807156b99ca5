"""What the tests of the rollout share: a fleet whose state is real and whose agents are pretended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from worlds import World

from bgproxy.store.base import NodeReport

Report = Callable[..., NodeReport]


@pytest.fixture
def report() -> Report:
    """A node's report, with what it has in flight by color."""

    def make(name: str, epoch: int, revision: int = 0, **in_flight: int) -> NodeReport:
        node = NodeReport(id=name, host="h", pid=1, version="1", epoch=epoch, in_flight=in_flight)
        return replace(node, revision=revision)

    return make


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.start()
    yield world
    await world.store.close()


@pytest.fixture
def turns() -> Callable[..., Awaitable[None]]:
    """Let every task that can go on go on."""

    async def settle(count: int = 50) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    return settle
