"""A staged release becomes ready by itself once its agents answer; until then it stays what it is."""

from __future__ import annotations

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout import validate
from bgproxy.rollout.validate import Validator
from bgproxy.rules import running
from bgproxy.rules.plan import Plan
from bgproxy.rules.release import Phase, Release
from bgproxy.store.mirror import Mirror

READY = [{"green": ["staged", "validating"]}, {"green": ["validating", "ready"]}]


@pytest.fixture
def validator(world, monkeypatch) -> Validator:
    monkeypatch.setattr(validate, "INTERVAL", 0.0)
    return Validator(world.ledger, world.mirror, world.probe)


async def test_it_becomes_ready_by_itself_and_both_steps_are_on_record(world, validator, turns):
    await world.stage("green", "v3")
    validator.start()
    await turns()
    await validator.stop()
    assert world.phase("green") is Phase.READY
    assert await world.steps() == READY
    entry = next(one for one in await world.ledger.audit(limit=9) if one.verb == "phase")
    assert entry.facts["evidence"]["upstreams"] == ["http://127.0.0.1:1003"]


async def test_while_its_agents_do_not_answer_it_stays_staged(world, validator, turns):
    await world.stage("green", "v3")
    world.trouble["green"] = "connection refused"
    validator.start()
    await turns()
    assert world.phase("green") is Phase.STAGED
    assert len(world.probed) > 1, "it looks again and again"
    world.trouble.clear()
    await turns()
    await validator.stop()
    assert world.phase("green") is Phase.READY


async def test_what_is_staged_during_a_look_has_not_answered(world, validator, turns):
    await world.stage("green", "v3")
    straight = world.probe

    async def slow(color: str) -> str:
        said = await straight(color)
        if world.state.releases[color].label == "v3":
            await world.stage(color, "v4")  # whose agents are not there yet
            world.trouble[color] = "connection refused"
        return said

    validator._probe = slow
    validator.start()
    await turns()
    await validator.stop()
    assert world.state.releases["green"].label == "v4"
    assert world.phase("green") is Phase.STAGED


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), RuntimeError("a bug")])
async def test_a_look_that_fails_keeps_nobody_else_waiting(world, validator, turns, failure):
    await world.stage("green", "v3")
    await world.stage("red", "v4")
    world.trouble["green"] = failure
    validator.start()
    await turns()
    assert (world.phase("green"), world.phase("red")) == (Phase.STAGED, Phase.READY)
    world.trouble.clear()
    await turns()
    await validator.stop()
    assert world.phase("green") is Phase.READY


async def test_only_what_waits_for_it_is_looked_at(world, validator, turns):
    validator.start()
    await turns()
    await validator.stop()
    assert world.probed == []


async def test_woken_it_looks_at_once(world, monkeypatch, turns):
    monkeypatch.setattr(validate, "INTERVAL", 3600.0)
    validator = Validator(world.ledger, world.mirror, world.probe)
    validator.start()
    await turns()
    await world.stage("green", "v3")
    await turns()
    assert world.phase("green") is Phase.STAGED
    validator.wake()
    await turns()
    await validator.stop()
    assert world.phase("green") is Phase.READY


async def test_many_validators_make_each_step_once(world):
    await world.stage("green", "v3")
    for validator in [Validator(world.ledger, world.mirror, world.probe) for _ in range(3)]:
        await validator.admit("green")
    assert await world.steps() == READY


async def test_one_that_comes_late_finds_it_made(world, validator):
    await world.stage("green", "v3")
    behind = Mirror(world.store)
    await behind.refresh()
    await validator.admit("green")
    await Validator(world.ledger, behind, world.probe).admit("green")
    assert await world.steps() == READY


async def test_the_work_of_one_that_died_in_the_middle_is_taken_up(world, validator):
    await world.stage("green", "v3")
    await world.ledger.step("green", "v3", validate.Event.VALIDATE, actor="another", reason="")
    await validator.admit("green")
    assert world.phase("green") is Phase.READY


async def test_a_release_that_a_plan_is_run_on_is_left_to_that(world, validator, turns):
    plan = {"plan": Plan(), "written": {}, "leader": "n1", "actor": "ada", "reason": "", "at": 1.0}
    change = running.begin(world.state, "red", Release("v3", ("http://127.0.0.1:1003",)), **plan)
    assert change is not None
    world.mirror.learn((await world.store.commit(change))[0])
    validator.start()
    await validator.admit("red")
    await turns()
    await validator.stop()
    assert (world.phase("red"), world.probed) == (Phase.VALIDATING, [])


async def test_what_is_past_that_or_not_there_is_left_alone(world, validator):
    for color in ("blue", "green", "red", "purple"):
        await validator.admit(color)
    world.mirror.state = None
    await validator.admit("green")
    assert await world.steps() == []
