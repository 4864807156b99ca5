"""The clock of the Redis host is set: no node that lives loses its place by it, and none is live for good."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import pytest

from bgproxy.store.badge import Badges
from bgproxy.store.base import NodeReport
from bgproxy.store.neighbours import Neighbours

pytestmark = pytest.mark.redis

HOUR = 3600.0


@pytest.fixture
async def nodes_at(opened, redis_server, fleet_name):
    """A store, and a way to put a report there as if it had come so many seconds ago by the clock as it is now."""
    store = await opened(redis_server.url)
    key = f"bgproxy:{{{fleet_name}}}:nodes"

    def put(name: str, age: float) -> None:
        report = asdict(NodeReport(name, "h", 1, "1", 1, serial=1)) | {"at": time.time() - age}
        redis_server.command("HSET", key, name, json.dumps(report, separators=(",", ":")))

    return store, put


@pytest.mark.parametrize(("step", "live"), [(0.0, True), (5.0, True), (-5.0, True), (HOUR, False), (-HOUR, False)])
async def test_a_report_from_before_the_step_says_little(nodes_at, step, live):
    store, put = nodes_at
    put("other", step)
    [found] = await store.nodes()
    assert (found.id, found.live) == ("other", live)
    assert found.age == pytest.approx(abs(step), abs=1)


@pytest.mark.parametrize("step", [2 * HOUR, -2 * HOUR])
async def test_the_living_are_back_at_their_next_beat_and_the_dead_are_forgotten(nodes_at, step, tmp_path):
    store, put = nodes_at
    for name in ("living", "dead"):
        put(name, step)
    now = 0.0
    badges = Badges(tmp_path, "none")

    async def forgotten(node: NodeReport) -> None:
        on_record.append(node.id)

    on_record: list[str] = []
    neighbours = Neighbours(store, badges, forgotten, node_ttl=10.0, forget_after=HOUR, clock=lambda: now)
    assert len(await neighbours.look()) == 2
    assert await store.beat(NodeReport("living", "h", 1, "1", 2, serial=2)) is True
    now = 59.0
    assert [(node.id, node.live) for node in await neighbours.look()] == [("dead", False), ("living", True)]
    now = 60.0
    assert [node.id for node in await neighbours.look()] == ["living"]
    assert [node.id for node in await store.nodes()] == ["living"]
    assert on_record == ["dead"]
