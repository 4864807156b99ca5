"""Counts of what was lost or cut wait until the store has taken them, each under its epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.store.losses import Losses

Settle = Callable[..., Awaitable[None]]


class Taker:
    """Takes counts, or is away."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, int, int]] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def tally(self, epoch: int, *, lost: int = 0, turns_cut: int = 0) -> None:
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.taken.append((epoch, lost, turns_cut))


@pytest.fixture
def store() -> Taker:
    return Taker()


@pytest.fixture
def losses(store: Taker, flips: Any, pauses: Any) -> Losses:
    state = flips.states(3)[-1]
    return Losses(store, lambda: state, pauses)


async def test_they_are_told_under_the_epoch_that_stands_or_the_one_that_is_named(
    losses: Losses, store: Taker, settle: Settle
) -> None:
    losses.cut(2)
    losses.cut(1, 2)
    losses.lost()
    losses.lost(2)
    await settle()
    assert store.taken == [(2, 0, 1), (3, 3, 2)]
    losses.cut(5)
    await settle()
    assert store.taken[2:] == [(3, 0, 5)]


async def test_nothing_is_told_where_there_is_nothing(losses: Losses, store: Taker, settle: Settle) -> None:
    losses.cut(0)
    losses.lost(0)
    await settle()
    await losses.stop()
    assert store.taken == []


async def test_they_wait_while_the_store_is_away(losses: Losses, store: Taker, pauses: Any, settle: Settle) -> None:
    store.failure = StoreUnavailable("away")
    losses.cut(2)
    await settle()
    losses.cut(1)
    losses.lost()
    for _ in range(3):
        pauses.end()
        await settle()
    assert (store.taken, len(pauses.lengths)) == ([], 4)
    store.failure = None
    pauses.end()
    await settle()
    assert store.taken == [(3, 1, 3)]
    assert repr(losses) == "<Losses 0 sessions and 0 turns to be told>"


async def test_stopping_tells_what_was_on_its_way(losses: Losses, store: Taker, settle: Settle) -> None:
    store.gate = asyncio.Event()
    losses.cut(2)
    await settle()
    stopping = asyncio.ensure_future(losses.stop())
    await settle()
    store.gate.set()
    await stopping
    assert store.taken == [(3, 0, 2)]


async def test_before_a_pointer_is_known_they_belong_to_none(store: Taker, pauses: Any, settle: Settle) -> None:
    losses = Losses(store, lambda: None, pauses)
    losses.cut(1)
    await settle()
    assert store.taken == [(0, 0, 1)]
