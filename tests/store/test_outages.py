"""An outage of the store is on record once, by whichever node speaks first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.store import outages
from bgproxy.store.base import Store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.outages import Outages
from tests.store.conftest import FakeStore, Opened


@pytest.fixture
async def memory(opened: Opened, flips: Any) -> Store:
    store = await opened("memory://")
    await store.commit(flips.first(), create=True)
    return store


class Nodes:
    """Two nodes on one store; each waits until it is let go."""

    def __init__(self, store: Store) -> None:
        self.go = [asyncio.Event(), asyncio.Event()]
        self.counts: dict[str, Any] = {"journalled": 3, "hits": 9}
        self.outages = [self._node(store, number) for number in range(2)]
        self.store = store

    def _node(self, store: Store, number: int) -> Outages:
        async def wait(_: float) -> None:
            await self.go[number].wait()

        ledger = Ledger(store, Mirror(store), lambda: 1.0)
        return Outages(ledger, store, f"n{number}", lambda: self.counts, sleep=wait)

    async def entries(self) -> list[Any]:
        for _ in range(20):
            await asyncio.sleep(0)
        return [entry for entry in await self.store.audit(limit=10) if entry.verb == "outage"]


async def test_the_first_that_speaks_says_what_it_went_through(memory: Store) -> None:
    nodes = Nodes(memory)
    nodes.counts = {"journalled": 7, "refused": 0, "hits": 99}
    for node in nodes.outages:
        node.over(4.26)
    nodes.go[1].set()
    [entry] = await nodes.entries()
    assert entry.facts == {"node": "n1", "seconds": 4.3, "journalled": 4}
    assert (entry.actor, entry.reason) == ("bgproxy", "the store was away")
    nodes.go[0].set()
    assert len(await nodes.entries()) == 1, "the other one has nothing to add"


async def test_the_next_outage_is_another(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(memory)
    nodes.go[0].set()
    nodes.outages[0].over(2.0)
    assert len(await nodes.entries()) == 1
    monkeypatch.setattr(outages, "_SPREAD", -1.0)  # as if that were long ago
    nodes.outages[0].over(3.0)
    assert [entry.facts["seconds"] for entry in await nodes.entries()] == [3.0, 2.0]


async def test_a_hiccup_is_no_outage(memory: Store) -> None:
    nodes = Nodes(memory)
    nodes.go[0].set()
    nodes.outages[0].over(0.9)
    assert await nodes.entries() == []


async def test_the_mirror_tells_how_long_it_was(flips: Any) -> None:
    store, now = FakeStore(), [100.0]
    store.state = flips.first().state
    mirror = Mirror(store, clock=lambda: now[0])  # type: ignore[arg-type]
    told: list[float] = []
    mirror.returned = told.append
    assert await mirror.look()
    store.failure = StoreUnavailable("away")
    for _ in range(3):
        assert not await mirror.look()
        now[0] += 2.0
    store.failure = None
    assert await mirror.look()
    assert await mirror.look()
    assert told == [6.0]
