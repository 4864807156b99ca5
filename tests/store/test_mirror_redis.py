"""Mirrors on a real Redis: lost bells, cut lines, and a Redis that is killed and comes back empty."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rules.fleet import FleetState
from bgproxy.store.base import Store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.trail import verify

pytestmark = pytest.mark.redis

Until = Callable[..., Awaitable[float]]
Opened = Callable[..., Awaitable[Store]]


async def follow(store: Store, until: Until, read_interval: float = 1.0) -> Mirror:
    mirror = Mirror(store, read_interval=read_interval)
    await mirror.start()
    await until(lambda: mirror.subscribed)
    return mirror


async def test_two_nodes_hold_the_same_within_moments(
    opened: Opened, redis_server: Any, flips: Any, until: Until
) -> None:
    mine, other = await opened(redis_server.url), await opened(redis_server.url)
    mirror = await follow(other, until, read_interval=60)
    state, _ = await mine.commit(flips.first(), create=True)
    for _ in range(10):
        state, _ = await mine.commit(flips.flip(state))
        assert await until(lambda: mirror.state == state) < 0.5  # noqa: B023 - awaited in this turn
    await mirror.stop()


async def test_what_a_lost_bell_did_not_tell_is_read(
    opened: Opened, redis_server: Any, flips: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mute = await opened(redis_server.url), await opened(redis_server.url)
    state, _ = await store.commit(flips.first(), create=True)
    mirror = await follow(store, until)
    monkeypatch.setattr(mute, "_bell", "another-channel")
    before = mirror.state
    assert before == state
    state, _ = await mute.commit(flips.flip(state))
    await until(lambda: mirror.state != before)  # by the reading behind the bell, once a second
    assert (mirror.state, mirror.subscribed, mirror.alarms) == (state, True, 0)
    await mirror.stop()


async def test_a_line_that_was_cut_is_taken_up_again(opened: Opened, own_redis: Any, flips: Any, until: Until) -> None:
    store = await opened(own_redis.url)
    state, _ = await store.commit(flips.first(), create=True)
    mirror = await follow(store, until, read_interval=60)
    own_redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: not mirror.subscribed)
    await until(lambda: mirror.subscribed)
    before = mirror.state
    assert before == state
    state, _ = await store.commit(flips.flip(state))
    await until(lambda: mirror.state != before)  # long before the next reading
    assert (mirror.state, mirror.subscribed, mirror.alarms) == (state, True, 0)
    await mirror.stop()


async def test_killed_and_come_back_empty(
    opened: Opened, own_redis: Any, flips: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(own_redis.url)
    state, _ = await store.commit(flips.first(), create=True)
    state, _ = await store.commit(flips.flip(state))
    mirror = await follow(store, until, read_interval=0.1)
    heard: list[FleetState] = []
    mirror.listen(heard.append)
    own_redis.kill()
    await until(lambda: not mirror.connected and not mirror.subscribed)
    ledger = Ledger(store, mirror, clock=lambda: 0.0)
    with pytest.raises(StoreUnavailable):
        await ledger.flip("blue", actor="ada", reason="while away")
    assert mirror.state == state
    own_redis.start()
    await until(lambda: mirror.connected and mirror.subscribed and mirror.alarms > 0)
    assert mirror.state == state
    assert heard == []
    assert caplog.text.count("ALARM") == 1
    outcome = await ledger.flip("blue", actor="ada", reason="after the loss")
    assert (outcome.state.pointer.active, outcome.state.pointer.epoch) == ("blue", 3)
    assert await store.read() == outcome.state == mirror.state
    await mirror.stop()


async def test_somebody_else_began_anew_on_the_empty_one(
    opened: Opened, own_redis: Any, flips: Any, until: Until
) -> None:
    """Nobody writes back: a verb does, before it decides."""
    store = await opened(own_redis.url)
    state, _ = await store.commit(flips.first(), create=True)
    state, _ = await store.commit(flips.flip(state))
    mirror = await follow(store, until, read_interval=0.1)
    own_redis.kill()
    own_redis.start()
    stranger = await opened(own_redis.url)
    await stranger.commit(flips.first(), create=True)
    await until(lambda: mirror.alarms > 0 and mirror.subscribed)
    assert mirror.state == state
    outcome = await Ledger(store, mirror, clock=lambda: 0.0).flip("blue", actor="ada", reason="x")
    assert (outcome.state.pointer.active, outcome.state.pointer.epoch) == ("blue", 3)
    assert [entry.verb for entry in await store.audit(limit=5)] == ["flip", "restore", "bootstrap"]
    assert (await verify(store)).fault is None
    await mirror.stop()
