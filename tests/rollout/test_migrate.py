"""A plan's migration, carried out: the steps of a run around its gates, and the contract step behind a retirement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conductors import SMOKE, V3, WHO, Nodes, Steps, pretended, until

from bgproxy.config.plan import plan_from
from bgproxy.errors import BadInput, NotReady
from bgproxy.rollout import leading, migrate
from bgproxy.rollout import retire as retiring
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rollout.retire import Retirer
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.release import Event, Phase
from bgproxy.rules.route import Route, RouteTable

OPTIONS = RolloutOptions(commands=("/db/",))
MIGRATE = {name: {"command": [f"/db/{name}"]} for name in ("expand", "revert", "contract")}
PLAN = {"gate": [SMOKE], "migrate": {**MIGRATE, "rehearse": True}, "decommission": {"rollback_window": 0}}
FAIL = Finding(Verdict.FAIL, "bad")
REHEARSED = ["migrate:expand", "migrate:revert", "migrate:expand-again"]


@pytest.fixture
def steps(monkeypatch) -> Steps:
    """Programs are steps too, by their names: which was run stands in `tried`, its events' names in `names`."""
    made = pretended(monkeypatch)
    made.names = []  # type: ignore[attr-defined]

    async def act(action: Any, step: str, event: Any, _trial: Any, name: str) -> Finding:
        program = {"migrate:expand-again": "expand"}.get(step, step.partition(":")[2])
        assert (action.command, event["event"]) == ((f"/db/{program}",), step)
        made.names.append(name)  # type: ignore[attr-defined]
        return await made.take(step)

    monkeypatch.setattr(migrate, "act", act)
    monkeypatch.setattr(retiring, "act", act)
    monkeypatch.setattr(leading, "INTERVAL", 0.001)
    return made


@pytest.fixture
async def nodes(world, steps) -> AsyncIterator[Nodes]:
    made = Nodes(world, steps)
    yield made
    await made.close()


async def over(world: Any) -> Any:
    await until(lambda: world.state.run is not None and not world.state.run.is_open and not world.state.run.tell)
    return world.state.run


async def steps_on_record(world: Any) -> list[tuple[str, str]]:
    found = [entry.facts for entry in reversed(await world.ledger.audit(limit=99)) if "verdict" in entry.facts]
    return [(str(facts.get("step", "retire")), str(facts["verdict"])) for facts in found]


async def test_it_is_rehearsed_before_anything_is_tried_and_settled_without_a_revert(world, nodes, steps):
    await (await nodes.add("n1", options=OPTIONS)).begin("red", V3, PLAN, **WHO)
    run = await over(world)
    assert (run.outcome, steps.tried) == ("settled", [*REHEARSED, "ready", "parity", "gate:smoke"])
    assert len(set(steps.names)) == 3, "each is an event of its own"
    assert world.state.releases["blue"].parting == {name: PLAN[name] for name in ("decommission", "migrate")}


async def test_a_gate_that_fails_has_it_reverted_on_record(world, nodes, steps):
    steps.comes_to["gate:smoke"] = FAIL
    await (await nodes.add("n1", options=OPTIONS)).begin("red", V3, PLAN, **WHO)
    run = await over(world)
    assert (run.outcome, run.why) == ("stopped", "gate:smoke failed: bad")
    assert (await steps_on_record(world))[-2:] == [("gate:smoke", "fail"), ("migrate:revert", "pass")]
    assert (world.phase("red"), world.state.pointer.epoch) == (Phase.REJECTED, 1)


async def test_a_schema_that_cannot_be_expanded_stops_it_before_anything_is_tried(world, nodes, steps):
    steps.comes_to["migrate:expand"] = FAIL
    await (await nodes.add("n1", options=OPTIONS)).begin("red", V3, PLAN, **WHO)
    assert (await over(world)).outcome == "stopped"
    assert steps.tried == ["migrate:expand", "migrate:revert"], "it may be done in part"


async def test_an_abort_in_the_middle_has_it_reverted(world, nodes, steps):
    steps.holds["gate:smoke"] = asyncio.Event()
    node = await nodes.add("n1", options=OPTIONS)
    await node.begin("red", V3, {**PLAN, "migrate": MIGRATE}, **WHO)
    await until(lambda: "gate:smoke" in steps.tried)
    await node.abort(actor="bob", reason="no")
    assert (await over(world)).outcome == "aborted"
    assert (steps.cancelled, steps.tried[-1]) == (["gate:smoke"], "migrate:revert")


@pytest.mark.parametrize("step", ["migrate:expand", "migrate:revert"])
async def test_a_leader_that_dies_in_it_is_followed_under_the_same_id(world, nodes, steps, step):
    steps.comes_to["gate:smoke"] = FAIL
    steps.holds[step] = asyncio.Event()
    first, _ = await nodes.add("n1", options=OPTIONS), await nodes.add("n2", options=OPTIONS)
    await first.begin("red", V3, {**PLAN, "migrate": MIGRATE}, **WHO)
    await until(lambda: step in steps.tried)
    await nodes.dies("n1")
    await until(lambda: steps.tried.count(step) == 2)
    steps.holds[step].set()
    run = await over(world)
    assert (run.outcome, run.leader) == ("stopped", "n2")
    assert (len(steps.names), len(set(steps.names))) == (3, 2)
    assert [name for name, _ in await steps_on_record(world)].count(step) == 1


async def test_a_revert_is_left_where_the_release_was_made_active_before_it_could_be_done(world, nodes, steps):
    steps.holds["migrate:revert"] = asyncio.Event()
    steps.comes_to["ready"] = FAIL
    first = await nodes.add("n1", options=OPTIONS)
    await first.begin("red", V3, {**PLAN, "migrate": MIGRATE}, **WHO)
    await until(lambda: "migrate:revert" in steps.tried)
    await nodes.dies("n1")
    await world.ledger.flip("red", actor="eve", reason="", force=True)
    await nodes.add("n2", options=OPTIONS)
    await over(world)
    assert steps.tried.count("migrate:revert") == 1
    assert (await steps_on_record(world))[-1] == ("migrate:revert", "undecided")


async def test_programs_that_may_not_run_here_are_refused_at_the_beginning(world, nodes):
    node = await nodes.add("n1")
    with pytest.raises(BadInput, match=r"migrate.expand.command: /db/expand may not be run"):
        await node.begin("red", V3, PLAN, **WHO)


async def test_the_contract_step_is_done_behind_the_retirement_and_ends_the_way_back(world, nodes, steps):
    await (await nodes.add("n1", options=OPTIONS)).begin("red", V3, PLAN, **WHO)
    await over(world)
    await world.ledger.step("blue", "v1", Event.DRAINED, actor="test", reason="")
    parts = "n1", world.ledger, world.mirror, world.store, plan_from
    one = Retirer(*parts, lambda: RouteTable((Route("default"),)), OPTIONS, {})
    one.start()
    try:
        steps.comes_to["migrate:contract"] = FAIL
        await one.order("blue", **WHO)
        await until(lambda: steps.tried[-1] == "migrate:contract" and world.state.releases["blue"].retirement.is_over)
        assert world.phase("blue") is Phase.RETIRED
        with pytest.raises(
            NotReady, match="v3's contract step, begun or still to be done, may have removed what it needs"
        ):
            await world.ledger.rollback(actor="eve", reason="")
        del steps.comes_to["migrate:contract"]
        await one.order("blue", **WHO)
        await until(lambda: world.state.releases["blue"].retirement is None)
    finally:
        await one.stop()
    assert (await steps_on_record(world))[-3:] == [
        ("retire", "pass"),
        ("migrate:contract", "fail"),
        ("migrate:contract", "pass"),
    ]
    assert len(set(steps.names[-2:])) == 1, "whoever is called can tell a repetition"
