"""A color is drained when no session lives on its release, and every node has applied the epoch by which traffic left
it and holds nothing on it."""

from __future__ import annotations

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout import drain
from bgproxy.rollout.drain import LOOKS, Drainer, is_empty
from bgproxy.rules.release import Phase
from bgproxy.store.pinning import PinCount

EMPTY = [
    ("no node at all: nothing is known", [], False),
    ("one that holds nothing", [(2, 0)], True),
    ("one that knows nothing of the color", [(2, None)], True),
    ("one that is further on", [(3, 0)], True),
    ("one that has not heard of the flip", [(1, 0)], False),
    ("one that holds something", [(2, 1)], False),
    ("all but one", [(2, 0), (2, 0), (2, 5)], False),
    ("all", [(2, 0), (3, 0), (2, 0)], True),
    ("all but one that is late", [(2, 0), (1, 0)], False),
]


@pytest.mark.parametrize(("nodes", "empty"), [case[1:] for case in EMPTY], ids=[case[0] for case in EMPTY])
def test_empty(report, nodes, empty):
    reports = [
        report(f"n{number}", epoch, **({} if count is None else {"blue": count}), green=9)
        for number, (epoch, count) in enumerate(nodes)
    ]
    assert is_empty("blue", 2, reports) is empty


@pytest.fixture
def drainer(world) -> Drainer:
    return Drainer(world.ledger, world.mirror, world.watched)


async def test_after_looks_that_find_nothing_it_is_drained_with_the_evidence(world, drainer, report):
    await world.flip("green")
    world.reports = [report("a", 2), report("b", 2)]
    for _ in range(LOOKS - 1):
        await drainer.look()
        assert world.phase("blue") is Phase.STANDBY
    await drainer.look()
    assert world.phase("blue") is Phase.DRAINED
    (entry,) = [one for one in await world.ledger.audit(limit=9) if one.verb == "phase"]
    [flip] = await world.store.flips([2])
    assert entry.facts["evidence"] == {"nodes": 2, "in_flight": 0, "sessions": 0, "flip": flip.document()}
    await drainer.look()  # nothing is left to do
    assert len(await world.steps()) == 1


async def test_a_look_that_finds_something_begins_the_row_anew(world, drainer, report):
    await world.flip("green")
    nothing = [0] * (LOOKS - 1)
    for count in (*nothing, 1, *nothing, 3, *nothing):
        world.reports = [report("a", 2, blue=count)]
        await drainer.look()
        assert world.phase("blue") is Phase.STANDBY
    world.reports = [report("a", 2)]
    await drainer.look()
    assert world.phase("blue") is Phase.DRAINED


async def test_a_session_that_lives_on_it_holds_it(world, drainer, report):
    await world.flip("green")
    world.reports = [report("a", 2)]
    world.pins = {("blue", "v1"): PinCount(1, 99.0)}
    for _ in range(LOOKS + 1):
        await drainer.look()
        assert world.phase("blue") is Phase.STANDBY
    world.pins = {}
    for _ in range(LOOKS):
        assert world.phase("blue") is Phase.STANDBY, "the row began when it was empty, not before"
        await drainer.look()
    assert world.phase("blue") is Phase.DRAINED


async def test_sessions_of_other_releases_do_not_hold_it(world, drainer, report):
    await world.flip("green")
    world.reports = [report("a", 2)]
    world.pins = {("blue", "v0"): PinCount(4, 99.0), ("green", "v2"): PinCount(7, 99.0)}
    for _ in range(LOOKS):
        await drainer.look()
    assert world.phase("blue") is Phase.DRAINED


async def test_while_the_sessions_cannot_be_counted_nothing_is_drained(world, drainer, report):
    await world.flip("green")
    world.reports = [report("a", 2)]
    world.pins = StoreUnavailable("away")
    for _ in range(LOOKS + 1):
        with pytest.raises(StoreUnavailable):
            await drainer.look()
    assert world.phase("blue") is Phase.STANDBY


async def test_the_sessions_are_counted_after_the_nodes(world, report):
    """An exchange in flight may begin a session and end, between the two."""
    asked = []

    async def nodes():
        asked.append("nodes")
        return [report("a", 2)]

    async def sessions():
        asked.append("sessions")
        return {}

    await world.flip("green")
    world.watched.nodes, world.watched.pins.counts = nodes, sessions
    await Drainer(world.ledger, world.mirror, world.watched).look()
    assert asked == ["nodes", "sessions"]


async def test_a_flip_between_the_looks_begins_the_row_anew(world, drainer, report):
    await world.flip("green")
    world.reports = [report("a", 2)]
    for _ in range(LOOKS - 1):
        await drainer.look()
    await world.flip("blue")
    await world.flip("green")
    world.reports = [report("a", 4)]
    await drainer.look()
    assert world.phase("blue") is Phase.STANDBY


async def test_the_color_that_came_back_is_never_drained(world, drainer, report):
    await world.flip("green")
    world.reports = [report("a", 9)]
    await drainer.look()
    await world.flip("blue")
    for _ in range(LOOKS + 1):
        await drainer.look()
    assert (world.phase("blue"), world.phase("green")) == (Phase.ACTIVE, Phase.DRAINED)


async def test_what_was_rolled_back_while_it_baked_ends_rejected(world, drainer, report):
    await world.flip("green", bake=True)
    await world.ledger.rollback(actor="test", reason="")
    assert world.phase("green") is Phase.ROLLED_BACK
    world.reports = [report("a", 3)]
    for _ in range(LOOKS):
        await drainer.look()
    assert world.phase("green") is Phase.REJECTED


async def test_two_drainers_make_one_step(world, report):
    await world.flip("green")
    world.reports = [report("a", 2)]
    both = [Drainer(world.ledger, world.mirror, world.watched) for _ in range(2)]
    for _ in range(LOOKS):
        for one in both:
            await one.look()
    assert await world.steps() == [{"blue": ["standby", "drained"]}]


async def test_before_a_state_is_known_there_is_nothing_to_look_at(world, drainer):
    world.mirror.state = None
    world.reports = StoreUnavailable("away")
    await drainer.look()


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), RuntimeError("a bug")])
async def test_it_goes_on_after_whatever_a_look_raises(world, drainer, report, monkeypatch, turns, failure):
    monkeypatch.setattr(drain, "INTERVAL", 0.0)
    await world.flip("green")
    world.reports = failure
    drainer.start()
    await turns()
    assert world.phase("blue") is Phase.STANDBY
    world.reports = [report("a", 2)]
    await turns()
    await drainer.stop()
    assert world.phase("blue") is Phase.DRAINED
