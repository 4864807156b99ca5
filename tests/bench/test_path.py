"""The data path through sockets that are none: it can be measured there, and leaves nothing for the collector."""

from __future__ import annotations

import asyncio
import gc

import pytest

from bench import path


@pytest.mark.parametrize("request_bytes", [path.UNPINNED, path.KNOWN, path.SMALL], ids=["unpinned", "known", "small"])
async def test_a_turn_leaves_nothing_for_the_garbage_collector(request_bytes: bytes) -> None:
    """Else it runs for milliseconds at a time under load, and every request waits for it."""
    one = await path.rig(None)
    await one.first(path.KNOWN, path.REPLY)
    one.turn(request_bytes, path.REPLY)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            one.turn(request_bytes, path.REPLY)
        assert gc.collect() < 50
    finally:
        gc.enable()
        await one.plane.stop()


async def test_a_turn_comes_to_its_end_there() -> None:
    one = await path.rig(None)
    await one.first(path.KNOWN, path.REPLY)
    before = sum(one.plane.metrics.slot("default", "blue", "blue").classes)
    one.turn(path.UNPINNED, path.REPLY)
    await asyncio.sleep(0)
    after = [each["classes"][2] for each in one.plane.metrics.snapshot()["series"] if each["color"] == "blue"]
    assert before == 0
    assert sum(after) == 2
    assert one.plane.busy == {}
    await one.plane.stop()
