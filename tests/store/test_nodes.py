"""A node's sign of life survives a store that is away, and ends with the node."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import CannotJoin, StoreUnavailable
from bgproxy.store.base import NodeReport, Store
from bgproxy.store.fence import Fence, since_boot
from bgproxy.store.nodes import Heartbeat

Settle = Callable[..., Awaitable[None]]
Opened = Callable[..., Awaitable[Store]]

NODE = NodeReport("node", "host", 1, "0.1", 1)


class Bench:
    """A node that beats into a memory store, whose readings of the state are counted."""

    def __init__(self, store: Store, pauses: Any) -> None:
        self.store = store
        self.epoch = 0
        self.readings = 0
        self.away: Exception | None = None
        self.now = 0.0
        self.fence = Fence(5.0, lambda: self.now)
        self.heart = Heartbeat(store, self.report, self.read, fence=self.fence, interval=1.0, sleep=pauses)

    def report(self) -> NodeReport:
        self.epoch += 1
        return replace(NODE, epoch=self.epoch, serial=self.heart.serial)

    async def read(self) -> None:
        self.readings += 1
        begun = self.fence.lease.begin_reading()
        if self.away is not None:
            raise self.away
        self.fence.lease.has_read(begun)

    async def listed(self) -> list[tuple[int, int]]:
        return [(node.epoch, node.serial) for node in await self.store.nodes()]


@pytest.fixture
async def bench(opened: Opened, pauses: Any) -> Bench:
    return Bench(await opened("memory://"), pauses)


async def test_each_beat_says_what_is_true_then(bench: Bench, pauses: Any, settle: Settle) -> None:
    await bench.heart.join()
    assert await bench.listed() == [(1, 1)]
    await bench.read()
    bench.heart.start()
    bench.heart.start()
    await settle()
    assert await bench.listed() == [(2, 2)]
    pauses.end()
    await settle()
    assert await bench.listed() == [(3, 3)]
    assert all(0.5 < seconds <= 1.0 for seconds in pauses.lengths)
    assert bench.readings == 1
    await bench.heart.stop()
    assert await bench.listed() == []


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), RuntimeError("a bug")])
async def test_a_beat_that_fails_is_followed_by_the_next(
    bench: Bench, pauses: Any, settle: Settle, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def fail(*_: Any) -> None:
        raise failure

    with monkeypatch.context() as away:
        away.setattr(bench.store, "beat", fail)
        with pytest.raises(type(failure)):
            await bench.heart.join()
        bench.heart.start()
        await settle()
        pauses.end()
        await settle()
        assert await bench.listed() == []
    pauses.end()
    await settle()
    assert len(await bench.listed()) == 1
    assert bench.readings == 1, "what was read while it was not registered may be old"
    *before, after = pauses.lengths
    assert max(before) <= 0.25 < after, "until it is registered a flip may be made without it"
    await bench.heart.stop()


async def test_it_beats_at_once_where_the_store_may_have_forgotten_it(
    bench: Bench, pauses: Any, settle: Settle
) -> None:
    bench.heart.again()
    await settle()
    assert await bench.listed() == [], "it has not begun"
    await bench.heart.join()
    bench.heart.start()
    await settle()
    await bench.store.leave("node")
    bench.readings = 0
    bench.heart.again()
    bench.heart.again()
    await settle()
    assert (await bench.listed(), bench.readings) == ([(3, 3)], 1)
    assert len(pauses.lengths) == 1, "its next beat is not due"
    bench.heart.again()
    assert await bench.heart.stop()
    await settle()
    assert await bench.listed() == []


@pytest.mark.parametrize("failure", [None, StoreUnavailable("away"), RuntimeError("a bug")])
async def test_one_that_was_forgotten_joins_anew_and_reads_the_state(
    bench: Bench, pauses: Any, settle: Settle, failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.heart.join()
    await bench.read()
    bench.heart.start()
    await settle()
    await bench.store.leave("node")
    bench.away = failure
    pauses.end()
    await settle()
    assert (len(await bench.listed()), bench.readings) == (1, 2)
    assert "it has joined anew, and reads the state" in caplog.text
    assert bench.fence.is_closed() is bool(failure)
    bench.away = None
    pauses.end()
    await settle()
    assert (await bench.listed(), bench.readings) == ([(4, 4)], 3 if failure else 2)
    assert not bench.fence.is_closed()
    await bench.heart.stop()


async def test_a_stop_is_noticed_and_a_beat_with_a_reading_ends_it(bench: Bench, pauses: Any, settle: Settle) -> None:
    """As a process that gets SIGSTOP: its clock goes on, and nothing else."""
    await bench.heart.join()
    await bench.read()
    bench.heart.start()
    await settle()
    assert not bench.fence.is_closed()
    bench.now += 5.1
    assert bench.fence.is_closed(), "before anything of this process has run"
    pauses.end()
    await settle()
    assert (bench.fence.is_closed(), bench.readings) == (False, 2)
    bench.now += 4.9
    assert not bench.fence.is_closed()
    await bench.heart.stop()


async def test_a_beat_counts_from_when_it_was_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = bench.store.beat

    async def slow(node: NodeReport) -> bool:
        bench.now += 4.0
        return await beat(node)

    monkeypatch.setattr(bench.store, "beat", slow)
    await bench.heart.join()
    await bench.read()
    bench.now += 0.9
    assert not bench.fence.is_closed()
    bench.now += 0.2
    assert bench.fence.is_closed()


def test_the_fence_s_clock_goes_forward_whatever_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = since_boot()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= since_boot() - before < 60
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert abs(since_boot() - time.monotonic()) < 60
    assert not Fence().is_closed()
    assert Fence(5.0).is_closed()


async def test_what_keeps_it_out_is_told_once(
    bench: Bench, pauses: Any, settle: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await bench.store.beat(replace(NODE, id="other", protocol=99))
    with pytest.raises(CannotJoin):
        await bench.heart.join()
    bench.heart.start()
    for _ in range(3):
        await settle()
        pauses.end()
    assert [record.message[:30] for record in caplog.records] == ["this bgproxy (0.1, schema 1, p"]
    await bench.store.leave("other")
    await settle()
    pauses.end()
    await settle()
    assert len(await bench.listed()) == 1
    await bench.heart.stop()


async def test_a_beat_that_comes_in_after_it_has_left_does_not_count(
    bench: Bench, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat, told = bench.store.beat, list[NodeReport]()

    async def slow(node: NodeReport) -> bool:
        told.append(node)
        return await asyncio.Future()

    monkeypatch.setattr(bench.store, "beat", slow)
    bench.heart.start()
    await settle()
    await bench.heart.stop()
    with pytest.raises(CannotJoin):
        await beat(told[0])
    assert await bench.listed() == []


async def test_stopping_without_a_store_is_no_error(
    bench: Bench, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("away")

    bench.heart.start()
    await settle()
    monkeypatch.setattr(bench.store, "leave", away)
    await bench.heart.stop()


async def test_one_that_never_beat_has_nothing_to_leave(bench: Bench) -> None:
    await bench.store.beat(NODE)
    await bench.heart.stop()
    assert len(await bench.listed()) == 1
