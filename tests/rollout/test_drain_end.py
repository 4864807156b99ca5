"""A drain's deadline: it ends the sessions once, by the store's clock, and then they hold nothing any more."""

from __future__ import annotations

import math

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout import drain
from bgproxy.rollout.drain import LOOKS, Drainer
from bgproxy.rules.release import Phase
from bgproxy.store.pinning import PinCount

LIVE = {("blue", "v1"): PinCount(3, 99.0), ("green", "v2"): PinCount(7, 99.0)}


@pytest.fixture
def drainer(world) -> Drainer:
    return Drainer(world.ledger, world.mirror, world.watched)


async def left(world, report, seconds: float | None) -> None:
    """Traffic has left blue, where three sessions live, with a deadline in so many seconds."""
    await world.flip("green")
    world.pins = LIVE
    world.reports = [report("a", 2, revision=2, blue=1), report("b", 2, revision=2, blue=4)]
    if seconds is not None:
        await world.ledger.set_deadline("blue", seconds, actor="ada", reason="")


async def test_before_it_nothing_happens_and_it_is_told_how_long_that_is(world, drainer, report):
    await left(world, report, 60.0)
    assert await drainer.end_what_is_due() == pytest.approx(60.0, abs=1.0)
    world.later = 58.0
    assert 0.0 < await drainer.end_what_is_due() <= 2.0
    assert not world.state.releases["blue"].ended


async def test_without_one_the_clock_is_not_even_asked(world, drainer, report, monkeypatch):
    await left(world, report, None)
    monkeypatch.setattr(world.watched, "now", None)
    assert await drainer.end_what_is_due() == math.inf


async def test_once_it_has_passed_the_sessions_are_ended_with_the_evidence(world, drainer, report):
    await left(world, report, 60.0)
    world.later = 61.0
    assert await drainer.end_what_is_due() == math.inf
    assert world.state.releases["blue"].ended
    (entry,) = [one for one in await world.ledger.audit(limit=9) if one.facts.get("ended")]
    assert (entry.verb, entry.actor) == ("drain", "bgproxy")
    [flip] = await world.store.flips([2])
    assert (flip.epoch, flip.ended) == (2, 3)
    assert entry.facts["evidence"] == {"sessions": 3, "in_flight": 5, "nodes": 2, "flip": flip.document()}
    before = world.state
    assert await drainer.end_what_is_due() == math.inf
    assert world.state == before


async def test_cancelled_or_moved_it_does_not_pass(world, drainer, report):
    await left(world, report, 60.0)
    await world.ledger.set_deadline("blue", 600.0, actor="ada", reason="")
    world.later = 61.0
    assert await drainer.end_what_is_due() == pytest.approx(539.0, abs=1.0)
    await world.ledger.set_deadline("blue", None, actor="ada", reason="")
    world.later = 9_999.0
    assert await drainer.end_what_is_due() == math.inf
    assert not world.state.releases["blue"].ended


async def test_where_traffic_has_come_back_it_does_not_pass(world, drainer, report):
    await left(world, report, 60.0)
    await world.flip("blue")
    world.later = 61.0
    assert await drainer.end_what_is_due() == math.inf
    assert not world.state.releases["blue"].ended


async def test_two_drainers_end_them_once(world, report):
    await left(world, report, 0.0)
    for one in [Drainer(world.ledger, world.mirror, world.watched) for _ in range(2)]:
        await one.end_what_is_due()
    assert len([one for one in await world.ledger.audit(limit=9) if one.facts.get("ended")]) == 1


async def test_ended_sessions_hold_nothing_and_what_is_in_flight_does(world, drainer, report):
    await left(world, report, 0.0)
    await drainer.end_what_is_due()
    for _ in range(LOOKS + 1):
        await drainer.look()
    assert world.phase("blue") is Phase.STANDBY
    revision = world.state.revision
    world.reports = [report("a", 2, revision=revision), report("b", 2, revision=revision)]
    for _ in range(LOOKS):
        assert world.phase("blue") is Phase.STANDBY
        await drainer.look()
    assert world.phase("blue") is Phase.DRAINED
    assert world.state.releases["blue"].ended, "who comes back later is told so still"


async def test_a_node_that_has_not_heard_of_the_end_may_still_let_one_in(world, drainer, report):
    await left(world, report, 0.0)
    await drainer.end_what_is_due()
    revision = world.state.revision
    world.reports = [report("a", 2, revision=revision), report("b", 2, revision=revision - 1)]
    for _ in range(LOOKS + 1):
        await drainer.look()
    assert world.phase("blue") is Phase.STANDBY
    world.reports = [report("a", 2, revision=revision), report("b", 2, revision=revision)]
    for _ in range(LOOKS):
        await drainer.look()
    assert world.phase("blue") is Phase.DRAINED


async def test_a_second_end_waits_for_every_node_again(world, drainer, report):
    await left(world, report, 0.0)
    await drainer.end_what_is_due()
    await drainer.look()
    first = world.state.revision
    await world.flip("blue")
    await world.flip("green")
    await world.ledger.set_deadline("blue", 0.0, actor="ada", reason="")
    await drainer.end_what_is_due()
    world.reports = [report("a", 4, revision=first)]
    for _ in range(LOOKS + 1):
        await drainer.look()
    assert world.phase("blue") is Phase.STANDBY


async def test_in_the_background_it_comes_at_its_moment_whatever_the_interval(world, drainer, report, monkeypatch):
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        world.later += seconds
        if len(slept) == 4:
            raise StopAsyncIteration

    await left(world, report, 0.25)
    monkeypatch.setattr(drain.asyncio, "sleep", sleep)
    monkeypatch.setattr(drain, "INTERVAL", 0.1)
    with pytest.raises(StopAsyncIteration):
        await drainer._run()
    assert world.state.releases["blue"].ended
    assert min(slept) < 0.075, "it slept no longer than to the deadline"


async def test_while_the_store_is_away_none_passes(world, drainer, report):
    await left(world, report, 0.0)
    world.pins = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await drainer.end_what_is_due()
    assert not world.state.releases["blue"].ended
    world.pins = LIVE
    await drainer.end_what_is_due()
    assert world.state.releases["blue"].ended
