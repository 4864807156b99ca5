"""The clock of the Redis host is set: no node that lives is lost for longer than a beat, none that is dead stays."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import pytest

from bgproxy.store.base import NodeReport

pytestmark = pytest.mark.redis

HOUR = 3600.0


@pytest.fixture
async def nodes_at(opened, redis_server, fleet_name):
    """A store, and a way to put a report there as if it had come so many seconds ago by the clock as it is now."""
    store = await opened(redis_server.url)
    key = f"bgproxy:{{{fleet_name}}}:nodes"

    def put(name: str, age: float) -> None:
        report = asdict(NodeReport(name, "h", 1, "1", 1)) | {"at": time.time() - age}
        redis_server.command("HSET", key, name, json.dumps(report, separators=(",", ":")))

    return store, put


@pytest.mark.parametrize(("step", "listed"), [(0.0, True), (5.0, True), (-5.0, True), (HOUR, False), (-HOUR, False)])
async def test_a_report_from_before_the_step_is_not_believed(nodes_at, step, listed):
    store, put = nodes_at
    put("other", step)
    found = await store.nodes()
    assert [node.id for node in found] == (["other"] if listed else [])
    assert all(node.age >= 0 for node in found)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_the_living_are_back_at_their_next_beat_and_the_dead_are_swept_away(nodes_at, step):
    store, put = nodes_at
    for name in ("living", "dead"):
        put(name, step)
    await store.beat(NodeReport("living", "h", 1, "1", 2))
    assert [(node.id, node.epoch) for node in await store.nodes()] == [("living", 2)]
    put("dead", 0)
    assert len(await store.nodes()) == 2, "nothing but the time kept it away"
