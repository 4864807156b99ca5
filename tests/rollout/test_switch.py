"""The flip as its node makes it: the target is looked at now, warmed and, where it waits for that, validated."""

from __future__ import annotations

import pytest

from bgproxy.errors import NotReady, Refused, StaleEpoch, UnknownColor
from bgproxy.rollout.barrier import Barrier, FlipOptions
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.validate import Validator
from bgproxy.rules.release import Phase, Release
from tests.rollout.doors import Shut

TERMS = {"actor": "ada", "reason": "why", "if_epoch": None, "force": False}


@pytest.fixture
def switch(world) -> Switch:
    validator = Validator(world.ledger, world.mirror, world.probe)
    barrier = Barrier(world.ledger, world.mirror, world.store, "here", FlipOptions(), Shut())
    return Switch(world.ledger, world.mirror, world.probe, validator, world.spread, barrier)


async def test_the_other_workers_have_applied_a_move_when_it_returns_and_a_no_op_asks_nothing_of_them(world, switch):
    await switch.flip("blue", **TERMS)
    assert world.spreads == []
    await switch.flip("green", **TERMS)
    await switch.rollback(**TERMS)
    assert world.spreads == ["green", "blue"]


async def test_the_target_is_warmed_before_and_the_color_that_is_left_is_asked_nothing(world, switch):
    world.trouble["blue"] = "it is on fire"
    outcome = await switch.flip("green", **TERMS)
    assert (outcome.changed, outcome.state.pointer.active) == (True, "green")
    assert world.probed == ["green"]


async def test_a_target_that_is_down_is_refused_and_forced_goes_on_record(world, switch):
    world.trouble["green"] = "connection refused"
    with pytest.raises(NotReady, match="connection refused; force overrides"):
        await switch.flip("green", **TERMS)
    outcome = await switch.flip("green", **TERMS | {"force": True})
    assert outcome.entry is not None
    assert outcome.entry.facts["forced"] == ["connection refused"]


async def test_a_flip_to_where_the_pointer_is_looks_at_nothing(world, switch):
    outcome = await switch.flip("blue", **TERMS)
    assert (outcome.changed, world.probed) == (False, [])


async def test_a_release_that_waits_for_its_validation_gets_it_on_the_way(world, switch):
    await world.stage("green", "v3")
    outcome = await switch.flip("green", **TERMS)
    assert outcome.state.releases["green"].phase is Phase.ACTIVE
    assert await world.steps() == [{"green": ["staged", "validating"]}, {"green": ["validating", "ready"]}]


async def test_one_that_does_not_answer_is_refused_for_that_and_for_its_phase(world, switch):
    await world.stage("green", "v3")
    world.trouble["green"] = "connection refused"
    with pytest.raises(NotReady, match="green holds v3, which is staged; connection refused"):
        await switch.flip("green", **TERMS)


@pytest.mark.parametrize(("to", "refusal"), [("purple", UnknownColor), ("red", NotReady)])
async def test_colors_that_cannot_be_had(world, switch, to, refusal):
    with pytest.raises(refusal):
        await switch.flip(to, **TERMS)
    assert world.probed == []


async def test_a_rollback_looks_at_the_previous_color(world, switch):
    await switch.flip("green", **TERMS)
    world.trouble["blue"] = "connection refused"
    with pytest.raises(NotReady, match="connection refused"):
        await switch.rollback(**TERMS)
    world.trouble = {"green": "it is on fire"}
    outcome = await switch.rollback(**TERMS)
    assert (outcome.state.pointer.active, outcome.state.pointer.epoch) == ("blue", 3)
    assert world.probed == ["green", "blue", "blue"]


async def test_there_is_nothing_to_roll_back_to(world, switch):
    with pytest.raises(Refused, match="the pointer has not moved yet"):
        await switch.rollback(**TERMS)
    assert world.probed == []


async def test_terms_are_passed_on(world, switch):
    for verb in (switch.flip("green", **TERMS | {"if_epoch": 9}), switch.rollback(**TERMS | {"if_epoch": 9})):
        with pytest.raises(StaleEpoch):
            await verb
    staged = Release("v3", ("http://127.0.0.1:1",))
    with pytest.raises(StaleEpoch):
        await switch.stage("green", staged, **TERMS | {"if_epoch": 9})
    outcome = await switch.stage("green", staged, **TERMS)
    assert outcome.entry is not None
    assert (outcome.entry.actor, outcome.entry.reason) == ("ada", "why")
