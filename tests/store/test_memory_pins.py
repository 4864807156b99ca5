"""What only the memory store's pins can show: the clock under the test's hand, their bounds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rules.pin import BUCKETS_PER_TTL
from bgproxy.store import memory_bell, memory_pins
from bgproxy.store.memory_pins import MemoryPins
from bgproxy.store.pinning import KEPT_ALIASES, Want
from tests.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def pins(clock: Clock, flips: Any) -> MemoryPins:
    state = flips.first().state
    return MemoryPins(lambda: state, list, clock)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def want(*numbers: int, ttl: float = 600.0) -> Want:
    return Want(tuple(map(key, numbers)), "chat", "mcp", ttl)


async def test_a_pin_is_counted_until_it_expires_and_not_longer(pins: MemoryPins, clock: Clock) -> None:
    await pins.resolve([want(1)])
    [(_, expires)], _ = await pins.page("", 10)
    clock.now = expires - 0.001
    assert (await pins.counts())["blue", "v1"].live == 1
    clock.now = expires
    assert await pins.counts() == {}
    assert await pins.find(key(1)) is None


async def test_the_newest_aliases_live_as_long_as_the_pin_and_older_ones_while_they_are_used(
    pins: MemoryPins, clock: Clock
) -> None:
    await pins.resolve([want(0, *range(1, KEPT_ALIASES + 4))])
    for _ in range(4):
        clock.now += 300
        assert await pins.refresh([key(0), key(2)]) == []
    alive = [number for number in range(KEPT_ALIASES + 4) if await pins.find(key(number)) is not None]
    assert alive == [0, 2, *range(5, KEPT_ALIASES + 4)]


async def test_what_is_counted_by_takes_no_more_room_with_more_pins(pins: MemoryPins, clock: Clock) -> None:
    for number in range(3_000):
        clock.now += 0.5
        await pins.resolve([want(number)])
    assert len(pins._counts) <= BUCKETS_PER_TTL + 1
    assert (await pins.counts())["blue", "v1"].live in range(1_200, 1_221)  # what came within one ttl, and a bucket
    clock.now += 1_000
    assert await pins.counts() == {}
    assert (pins._pins, pins._aliases, pins._buckets, pins._counts) == ({}, {}, {}, {})


async def test_beyond_the_bound_the_first_to_expire_give_way(
    pins: MemoryPins, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_pins, "_MAX_KEYS", 10)
    await pins.resolve([want(number, number + 100) for number in range(5)])
    clock.now += 100
    assert await pins.refresh([key(3)]) == []
    await pins.resolve([want(50)])
    assert set(pins._pins) == {key(3), key(50)}
    assert (await pins.counts())["blue", "v1"].live == 2


async def test_a_watcher_that_falls_behind_is_told_so(pins: MemoryPins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bell, "MAX_RINGS", 3)
    await pins.resolve([want(number) for number in range(9)])
    bells = cast("AsyncGenerator[tuple[bytes, ...], None]", pins.watch())
    assert await anext(bells) == ()
    await pins.end([key(0), key(1)])
    assert await anext(bells) == (key(0), key(1))
    await pins.end([key(number) for number in range(2, 9)])
    with pytest.raises(StoreUnavailable, match="asked for again"):
        await anext(bells)
    assert not pins._bells
