"""A node's sign of life survives a store that is away, and ends with the node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.store.base import NodeReport, Store
from bgproxy.store.nodes import Heartbeat

Settle = Callable[..., Awaitable[None]]
Opened = Callable[..., Awaitable[Store]]


def report(epoch: int = 1) -> NodeReport:
    return NodeReport("node", "host", 1, "0.1", epoch)


async def test_each_beat_says_what_is_true_then(opened: Opened, pauses: Any, settle: Settle) -> None:
    store = await opened("memory://")
    epochs = iter(range(1, 99))
    heart = Heartbeat(store, lambda: report(next(epochs)), interval=1.0, sleep=pauses)
    heart.start()
    heart.start()
    await settle()
    assert [node.epoch for node in await store.nodes()] == [1]
    pauses.end()
    await settle()
    assert [node.epoch for node in await store.nodes()] == [2]
    assert all(0.5 < seconds <= 1.0 for seconds in pauses.lengths)
    await heart.stop()
    assert await store.nodes() == []


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), RuntimeError("a bug")])
async def test_a_beat_that_fails_is_followed_by_the_next(
    opened: Opened, pauses: Any, settle: Settle, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    store = await opened("memory://")

    async def fail(*_: Any) -> None:
        raise failure

    heart = Heartbeat(store, report, sleep=pauses)
    with monkeypatch.context() as away:
        away.setattr(store, "beat", fail)
        heart.start()
        await settle()
        pauses.end()
        await settle()
        assert await store.nodes() == []
    pauses.end()
    await settle()
    assert len(await store.nodes()) == 1
    await heart.stop()


async def test_stopping_without_a_store_is_no_error(
    opened: Opened, pauses: Any, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened("memory://")

    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    heart = Heartbeat(store, report, sleep=pauses)
    heart.start()
    await settle()
    monkeypatch.setattr(store, "leave", away)
    await heart.stop()
