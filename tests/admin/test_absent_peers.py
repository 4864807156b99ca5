"""For a worker that does not answer, what it left is told: the totals of the host never fall."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bgproxy.admin.peers import HostPeers
from bgproxy.telemetry import legacy
from bgproxy.telemetry.metrics import Metrics, merge


class Worker:
    """One that counts, and saves what it tells."""

    def __init__(self, directory: Path, slot: int) -> None:
        self.metrics = Metrics()
        self.metrics.slot("chat", "blue", "v1").in_flight = 1
        self._directory, self._slot = directory, slot
        self.peers = HostPeers(directory, slot, self.snapshot, self.refresh)

    async def refresh(self) -> None:
        """Nothing is agreed on here."""

    def answered(self, count: int) -> None:
        self.metrics.slot("chat", "blue", "v1").classes[2] += count

    def snapshot(self) -> dict[str, Any]:
        metrics = self.metrics.snapshot()
        legacy.save(self._directory, self._slot, metrics)
        return {"node": {"id": f"node-{self._slot}"}, "metrics": metrics}


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable]:
    started: list[Worker] = []

    async def make(slot: int) -> Worker:
        worker = Worker(tmp_path, slot)
        await worker.peers.start()
        started.append(worker)
        return worker

    yield make
    for worker in started:
        await worker.peers.stop()


async def told(worker: Worker) -> tuple[int, int, list[str]]:
    """Answers and requests in flight of the host, and the nodes, as that worker tells them."""
    snapshots = await worker.peers.snapshots()
    (series,) = merge([one["metrics"] for one in snapshots])["series"]
    return series["classes"][2], series["in_flight"], [one["node"]["id"] for one in snapshots]


async def test_the_counters_of_one_that_is_gone_are_told_by_the_others_and_nothing_else_of_it(start):
    one, other = await start(0), await start(1)
    one.answered(3)
    other.answered(4)
    assert await told(one) == (7, 2, ["node-0", "node-1"])
    await other.peers.stop()
    assert await told(one) == (7, 1, ["node-0"])


async def test_once_a_successor_answers_it_speaks_for_itself(start, tmp_path):
    one, other = await start(0), await start(1)
    other.answered(4)
    await told(one)
    await other.peers.stop()
    successor = await start(1)
    left = legacy.read(tmp_path, 1)
    assert left is not None
    successor.metrics.carry(left)
    successor.answered(1)
    assert await told(one) == (5, 2, ["node-0", "node-1"])


@pytest.mark.parametrize(
    "content", [b"{", b'{"node": "a", "metrics": {}}', b'{"node": "a", "metrics": {"bounds": []}}']
)
async def test_what_cannot_be_understood_is_left_out(start, tmp_path, content):
    one = await start(0)
    one.answered(3)
    legacy.path_of(tmp_path, 1).write_bytes(content)
    assert await told(one) == (3, 1, ["node-0"])
