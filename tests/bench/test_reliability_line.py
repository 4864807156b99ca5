"""The line that fails on command does what it is told, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import pytest

from bench.reliability.line import FaultyLine, _End
from bgproxy.errors import StoreUnavailable
from bgproxy.rules import configured, fleet
from bgproxy.rules.release import Release
from bgproxy.store.base import Store, StoreOptions, open_store

pytestmark = pytest.mark.redis
CHANGE = fleet.bootstrap(("blue",), "blue", {"blue": Release("v1", ("http://a",))}, "test", 1.0)


@pytest.fixture
async def line(redis_server: Any) -> AsyncIterator[FaultyLine]:
    line = await FaultyLine("127.0.0.1", redis_server.port).start()
    yield line
    await line.stop()


@pytest.fixture
async def store(line: FaultyLine, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    fleet_name = f"line-{abs(hash(request.node.nodeid))}"
    store = open_store(StoreOptions(url=line.url, fleet=fleet_name, command_timeout=0.5, connect_timeout=5.0))
    await store.open()
    await store.commit(CHANGE, create=True)
    yield store
    await store.close()


async def test_a_line_that_is_well_is_not_noticed(store: Store, line: FaultyLine) -> None:
    assert (await store.read()) is not None
    assert line.swallowed == 0


async def test_a_slow_one_takes_its_time_each_way(store: Store, line: FaultyLine) -> None:
    line.delay = 0.1
    began = time.monotonic()
    assert (await store.read()) is not None
    assert time.monotonic() - began >= 0.2
    line.mend()
    assert (await store.read()) is not None


async def test_a_cut_one_says_nothing_and_goes_on_once_it_is_mended(store: Store, line: FaultyLine) -> None:
    line.cut()
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 s"):
        await store.read()
    line.mend()
    assert (await store.read()) is not None


async def test_what_passes_can_be_looked_at_and_lost(store: Store, line: FaultyLine) -> None:
    passed = list[bool]()

    def sees(port: int, data: bytes, asks: bool) -> bool:
        passed.append(asks)
        return not asks or b"HGETALL" not in data

    line.sees = sees
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 s"):
        await store.read()
    assert await store.now() > 0
    assert set(passed) == {True, False}


async def test_one_that_is_reset_is_noticed_at_once(store: Store, line: FaultyLine) -> None:
    bells = store.watch()
    async with aclosing(bells):  # type: ignore[type-var]
        assert await anext(bells) == 0
        line.reset()
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(anext(bells), 5)
    with suppress(StoreUnavailable):  # a connection of the pool may be found broken by its use
        await store.read()
    assert (await store.read()) is not None


async def test_a_deaf_one_swallows_messages_and_nothing_else(store: Store, line: FaultyLine) -> None:
    async with aclosing(store.watch()) as bells:  # type: ignore[type-var]
        assert await anext(bells) == 0
        heard = asyncio.ensure_future(anext(bells))
        line.is_deaf = True
        await add_a_color(store)
        await asyncio.sleep(0.2)
        assert line.swallowed == 1
        assert not heard.done()
        line.mend()
        await add_a_color(store)
        assert await asyncio.wait_for(heard, 5) == 3


async def add_a_color(store: Store) -> None:
    """Any change at all."""
    state = await store.read()
    assert state is not None
    change = configured.reconfigure(state, (f"color{state.revision}",), {}, actor="test", reason="", at=1.0)
    assert change is not None
    await store.commit(change)


async def test_what_comes_for_who_was_reset_goes_nowhere() -> None:
    """Both sides are reset at once, and one of them may be heard once more before it knows."""

    class Closed(asyncio.Transport):
        def is_closing(self) -> bool:
            return True

        def write(self, data: object) -> None:
            raise RuntimeError("the handler is closed")

    line = FaultyLine("127.0.0.1", 1)
    near, far = _End(line), _End(line)
    near.other, far.other, near.transport = far, near, Closed()
    far.data_received(b"+OK\r\n")
    assert not far._waiting
