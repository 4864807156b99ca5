"""Who leads: no change is missed between two looks, a leader is gone after two looks in a row, and what was found is
put on record however often the store refuses it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conductors import until

from bgproxy.errors import Refused, StoreUnavailable
from bgproxy.rollout import leading
from bgproxy.rollout.leading import Absences, Bell, look_for_ever, put_on_record
from bgproxy.rules.fleet import Change, FleetState, changed
from bgproxy.store.base import NodeReport


class Nodes:
    """Stands in for the store."""

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.is_away = False

    async def nodes(self) -> list[NodeReport]:
        if self.is_away:
            raise StoreUnavailable("away")
        return [NodeReport(id=name, host="h", pid=1, version="1", epoch=1, live=name in self.live) for name in "ab"]


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def look(nodes: Nodes) -> Any:
    """One look at what "a" or "b" leads."""
    absences = Absences(nodes)  # type: ignore[arg-type]

    async def one(leader: str = "a", what: str = "r1") -> bool:
        absences.begin()
        return await absences.is_gone(leader, what)

    return one


async def test_a_leader_is_gone_after_two_looks_in_a_row(nodes, look):
    assert [await look() for _ in range(3)] == [False, True, True]
    nodes.live = {"a"}
    assert await look() is False
    nodes.live = set()
    assert [await look(), await look("b"), await look("a")] == [False, False, False], "each by itself"
    assert [await look("a", "r2"), await look("a", "r2")] == [False, True], "and each for what it leads"


async def test_a_look_that_could_not_be_had_counts_neither_way(nodes, look):
    assert await look() is False
    nodes.is_away = True
    with pytest.raises(StoreUnavailable):
        await look()
    nodes.is_away = False
    assert await look() is True


async def test_a_change_during_a_look_is_looked_at_without_a_pause(world, monkeypatch):
    monkeypatch.setattr(leading, "INTERVAL", 3600.0)
    looks: list[int] = []

    async def look() -> None:
        looks.append(world.state.pointer.epoch)
        if len(looks) == 1:
            await world.flip("green")
            await asyncio.sleep(0)
            raise RuntimeError("a bug, which ends nothing")

    task = asyncio.create_task(look_for_ever(Bell(world.mirror), look, "it"))
    await until(lambda: len(looks) == 2)
    task.cancel()
    assert looks == [1, 2]


async def test_it_is_put_on_record_once_the_store_takes_it(world, monkeypatch):
    monkeypatch.setattr(leading, "PAUSE", 0.0)
    faults: list[Exception] = [StoreUnavailable("away"), Refused("8 other changes came first")]

    def decide(state: FleetState, *, at: float) -> Change:
        if faults:
            raise faults.pop()
        return changed(state, {}, "test", {"at": at}, "ada", "")

    await put_on_record(world.ledger, world.store, decide, "it")
    [entry] = [entry for entry in await world.ledger.audit(limit=9) if entry.verb == "test"]
    assert (entry.facts["at"] > 0, faults) == (True, [])
