"""Who runs a plan: steps in their order, on record, by one leader, through crashes of it, an away store, an abort."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from conductors import BAKE, SMOKE, V3, WHO, Nodes, Steps, pretended, until

from bgproxy.config.plan import plan_from
from bgproxy.errors import BadInput, NotReady, Refused, StaleEpoch, StoreUnavailable
from bgproxy.rollout import conductor as conductor_module
from bgproxy.rollout import cut_over as cut_over_module
from bgproxy.rollout.conductor import Conductor
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.plan import Plan
from bgproxy.rules.release import Phase
from bgproxy.rules.run import Run


@pytest.fixture
def steps(monkeypatch) -> Steps:
    return pretended(monkeypatch)


@pytest.fixture
async def nodes(world, steps) -> AsyncIterator[Nodes]:
    made = Nodes(world, steps)
    yield made
    await made.close()


@pytest.fixture
async def node(nodes) -> Conductor:
    return await nodes.add("n1")


def plan(*gates: Mapping[str, Any], bake: bool = False) -> dict[str, Any]:
    return {"gate": list(gates), **({"bake": BAKE} if bake else {})}


def run_of(world: Any) -> Run:
    assert world.state.run is not None
    return world.state.run


async def ended(world: Any) -> Run:
    await until(lambda: not run_of(world).is_open)
    return run_of(world)


async def test_a_good_one_goes_through_step_by_step_and_all_is_on_record(world, node, steps):
    await node.begin("red", V3, plan(SMOKE, bake=True), **WHO)
    run = await ended(world)
    assert run.outcome == "settled"
    assert steps.tried == ["ready", "parity", "gate:smoke", "bake"]
    assert [step.name for step in run.done] == ["ready", "parity", "gate:smoke", "flip", "bake"]
    assert (world.state.pointer.active, world.phase("red"), world.phase("blue")) == ("red", Phase.ACTIVE, Phase.STANDBY)
    entries = [entry for entry in reversed(await world.ledger.audit(limit=50)) if entry.verb in ("release", "flip")]
    told = [str(entry.facts.get("step", entry.verb)) for entry in entries]
    assert told == ["begin", "ready", "parity", "gate:smoke", "flip", "flip", "bake"]
    assert entries[3].facts["evidence"] == {"answers": [1]}
    assert [(entry.actor, entry.reason) for entry in entries if entry.verb == "flip"] == [("ada", "why")]
    assert world.spreads == ["red"], "the host's other workers flipped too"


@pytest.mark.parametrize("step", ["ready", "parity", "gate:smoke"])
@pytest.mark.parametrize(
    "found",
    [Finding(Verdict.FAIL, "bad"), Finding(Verdict.UNDECIDED, "who knows"), RuntimeError("a bug"), ValueError()],
    ids=lambda found: str(getattr(found, "verdict", found)),
)
async def test_what_does_not_pass_stops_it_with_nothing_flipped(world, node, steps, step, found):
    steps.comes_to[step] = found
    await node.begin("red", V3, plan(SMOKE, bake=True), **WHO)
    run = await ended(world)
    assert (run.outcome, run.why.startswith(step)) == ("stopped", True)
    assert (world.phase("red"), world.state.pointer.epoch) == (Phase.REJECTED, 1)
    assert steps.tried[-1] == step


async def test_a_step_is_put_on_record_whatever_an_agent_has_said(world, node, steps):
    head = {"location": "/caf\udce9"}  # a byte that is no UTF-8, as aiohttp has it
    steps.comes_to["gate:smoke"] = Finding(Verdict.FAIL, 'it says "\ud83d"', {"answers": [{"fields": head}]})
    await node.begin("red", V3, plan(SMOKE), **WHO)
    run = await ended(world)
    assert (run.outcome, run.why) == ("stopped", 'gate:smoke failed: it says "?"')
    assert steps.tried.count("gate:smoke") == 1


async def test_a_validation_flips_nothing(world, node, steps):
    await world.stage("red", "v3")
    await node.begin("red", None, plan(SMOKE), **WHO)
    run = await ended(world)
    assert (run.outcome, world.phase("red"), world.state.pointer.epoch) == ("validated", Phase.READY, 1)


async def test_without_a_bake_it_is_settled_by_the_flip(world, node):
    await node.begin("red", V3, plan(), **WHO)
    assert ((await ended(world)).outcome, world.phase("red")) == ("settled", Phase.ACTIVE)


async def test_a_flip_that_is_refused_stops_it(world, node):
    world.trouble["red"] = "connection refused"
    await node.begin("red", V3, plan(), **WHO)
    run = await ended(world)
    assert (run.outcome, "connection refused" in run.why, world.phase("red")) == ("stopped", True, Phase.READY)


async def test_a_bake_that_fails_is_rolled_back_once_the_old_release_is_well(world, node, steps, caplog):
    steps.comes_to["bake"] = Finding(Verdict.FAIL, "3 % errors")
    world.trouble["blue"] = "connection refused"
    await node.begin("red", V3, plan(bake=True), **WHO)
    await until(lambda: "cannot be rolled back" in caplog.text)
    await until(lambda: run_of(world).trouble)
    assert (world.state.pointer.active, run_of(world).is_open) == ("red", True)
    assert "it is bad and cannot be rolled back, which is tried again and again" in run_of(world).trouble
    world.trouble.clear()
    run = await ended(world)
    assert (run.outcome, run.why) == ("rolled_back", "blue was made active by bgproxy: bake of v3: 3 % errors")
    assert (world.state.pointer.active, world.phase("red")) == ("blue", Phase.ROLLED_BACK)
    steps_told = [entry.facts.get("step") for entry in await world.ledger.audit(limit=50)]
    assert steps_told.count("trouble") == 1, "however often it is tried"


async def test_a_plan_whose_judge_does_not_answer_is_refused_with_nothing_moved(world, node, steps, monkeypatch):
    async def unjudged(*_: Any) -> str:
        return "judge prom does not answer, so nothing is flipped: connection refused"

    monkeypatch.setattr(conductor_module, "unjudged", unjudged)
    before = world.state
    with pytest.raises(BadInput, match="judge prom does not answer"):
        await node.begin("red", V3, plan(bake=True), **WHO)
    assert (world.state, steps.tried) == (before, [])


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"gate": [SMOKE, {"kind": "http", "headers": {"Authorization": "Bearer ${GATE_GONE}"}}]},
            r"^gate\[2\]\.headers\.Authorization: the variable GATE_GONE is not set",
        ),
        (
            {"decommission": {"url": "http://a/down", "secret": "${GATE_GONE}"}},
            r"^decommission\.secret: the variable GATE_GONE is not set",
        ),
        (
            {"migrate": {"contract": {"url": "http://a/contract", "secret": "${GATE_GONE}"}}},
            r"^migrate\.contract\.secret: the variable GATE_GONE is not set",
        ),
        (
            {"gate": [SMOKE, {"kind": "http", "route": "nope"}]},
            r"^gate\[2\]\.route: there is no route 'nope'; this fleet has default",
        ),
        (
            {"canary": {"share": 0.1, "max_error_rate": 0.1, "synthetic": {"route": "nope"}}},
            r"^canary\.synthetic\.route: there is no route 'nope'",
        ),
    ],
)
async def test_what_a_plan_needs_and_does_not_find_is_told_with_nothing_begun(world, nodes, steps, more, why):
    node = await nodes.add("n1", options=RolloutOptions(webhooks=("http://a",)))
    before = world.state
    with pytest.raises(BadInput, match=why):
        await node.begin("red", V3, more, **WHO)
    assert (world.state, steps.tried) == (before, [])


async def test_what_is_set_and_what_is_sent_as_it_stands_is_no_obstacle(world, node, monkeypatch):
    monkeypatch.setenv("GATE_HERE", "hush")
    here = {"kind": "http", "method": "POST", "route": "default", "headers": {"X-A": "${GATE_HERE}"}}
    await node.begin("red", V3, plan(SMOKE, here | {"json": {"headers": "${GATE_GONE}"}}), **WHO)
    assert (await ended(world)).outcome == "settled"


async def test_a_judge_that_falls_silent_before_the_flip_stops_it_there(world, node, steps, monkeypatch):
    async def unanswered(*_: Any) -> str:
        return "judge prom does not answer"

    monkeypatch.setattr(cut_over_module, "unanswered", unanswered)
    await node.begin("red", V3, plan(bake=True), **WHO)
    run = await ended(world)
    assert (run.outcome, run.why) == ("stopped", "flip could not be decided: judge prom does not answer")
    assert (world.state.pointer.epoch, world.phase("red")) == (1, Phase.READY)


async def test_a_flip_that_somebody_before_has_made_counts_also_where_the_store_is_away(
    world, node, steps, monkeypatch
):
    flip, refresh, away = node._switch.flip, world.mirror.refresh, []

    async def again(*arguments: Any, **more: Any) -> Any:
        await flip(*arguments, **more)
        away.append(StoreUnavailable("away"))
        raise StaleEpoch("the epoch is 2, not 1")

    async def looked() -> Any:
        if away:
            raise away.pop()
        return await refresh()

    monkeypatch.setattr(node._switch, "flip", again)
    monkeypatch.setattr(world.mirror, "refresh", looked)
    await node.begin("red", V3, plan(bake=True), **WHO)
    run = await ended(world)
    assert (run.outcome, steps.tried[-1], world.phase("red")) == ("settled", "bake", Phase.ACTIVE)


@pytest.mark.parametrize("step", ["ready", "parity", "gate:smoke", "bake"])
async def test_a_leader_that_dies_is_followed_by_one_who_goes_on_there(world, nodes, steps, step):
    steps.holds[step] = asyncio.Event()
    first, _ = await nodes.add("n1"), await nodes.add("n2")
    await first.begin("red", V3, plan(SMOKE, bake=True), **WHO)
    await until(lambda: steps.tried and steps.tried[-1] == step)
    await nodes.dies("n1")
    await until(lambda: run_of(world).leader == "n2")
    steps.holds[step].set()
    run = await ended(world)
    assert (run.outcome, world.state.pointer.epoch, run.leader) == ("settled", 2, "n2")
    tried = ["ready", "parity", "gate:smoke", "bake"]
    tried.insert(tried.index(step), step)
    assert steps.tried == tried, "only the step that it died in is tried again"
    verbs = [entry.verb for entry in await world.ledger.audit(limit=50)]
    assert verbs.count("flip") == 1


async def test_between_its_flip_and_the_word_of_it_too(world, nodes, steps, monkeypatch):
    first = await nodes.add("n1")
    died = asyncio.Event()

    async def put(decide: Any) -> None:
        if world.state.pointer.epoch == 2:
            died.set()
            await asyncio.Event().wait()
        await Conductor._put(first, decide)

    monkeypatch.setattr(first, "_put", put)
    await first.begin("red", V3, plan(bake=True), **WHO)
    await died.wait()
    await nodes.dies("n1")
    await nodes.add("n2")
    run = await ended(world)
    assert (run.outcome, world.state.pointer.epoch) == ("settled", 2)
    assert next(step.why for step in run.done if step.name == "flip") == "red is active, epoch 2"


async def test_one_that_leaves_hands_over_at_once_and_of_many_one_takes_it(world, nodes, steps):
    steps.holds["parity"] = asyncio.Event()
    first = await nodes.add("n1")
    for name in ("n2", "n3", "n4"):
        await nodes.add(name)
    await first.begin("red", V3, plan(), **WHO)
    await until(lambda: "parity" in steps.tried)
    await nodes.running.pop("n1").stop()
    await until(lambda: run_of(world).leader in ("n2", "n3", "n4"))
    steps.holds["parity"].set()
    assert (await ended(world)).outcome == "settled"
    taken = [entry for entry in await world.ledger.audit(limit=50) if entry.facts.get("step") == "take over"]
    assert [entry.facts["leader"] for entry in reversed(taken)] == ["", run_of(world).leader]


async def test_a_leader_that_lives_is_left_alone_however_long_it_takes(world, nodes, steps):
    steps.holds["parity"] = asyncio.Event()
    first, _ = await nodes.add("n1"), await nodes.add("n2")
    await first.begin("red", V3, plan(), **WHO)
    await asyncio.sleep(0.05)
    assert (run_of(world).leader, steps.tried) == ("n1", ["ready", "parity"])
    steps.holds["parity"].set()
    await ended(world)


async def test_an_abort_cancels_what_is_under_way(world, node, steps):
    steps.holds["gate:smoke"] = asyncio.Event()
    await node.begin("red", V3, plan(SMOKE), **WHO)
    await until(lambda: "gate:smoke" in steps.tried)
    outcome = await node.abort(actor="bob", reason="no")
    assert outcome.state.run is not None
    assert (outcome.state.run.outcome, world.phase("red")) == ("aborted", Phase.REJECTED)
    await until(lambda: steps.cancelled == ["gate:smoke"])
    assert world.state.pointer.epoch == 1


async def test_an_abort_past_the_flip_rolls_back(world, node, steps):
    steps.holds["bake"] = asyncio.Event()
    await node.begin("red", V3, plan(bake=True), **WHO)
    await until(lambda: "bake" in steps.tried)
    await node.abort(actor="bob", reason="no")
    run = await ended(world)
    assert (run.outcome, run.why) == ("rolled_back", "blue was made active by bob: no")
    assert world.state.pointer.active == "blue"
    await until(lambda: steps.cancelled == ["bake"])


async def test_a_flip_by_hand_ends_it(world, node, steps):
    steps.holds["gate:smoke"] = asyncio.Event()
    await node.begin("red", V3, plan(SMOKE), **WHO)
    await until(lambda: "gate:smoke" in steps.tried)
    await world.flip("green")
    steps.holds["gate:smoke"].set()
    run = await ended(world)
    assert (run.outcome, "green was made active by test" in run.why) == ("stopped", True)
    assert world.state.pointer.active == "green"


async def test_a_store_that_is_away_loses_nothing_that_was_found_out(world, node, steps, monkeypatch):
    away = 5

    async def now() -> float:
        nonlocal away
        if "parity" in steps.tried and away:
            away -= 1
            raise StoreUnavailable("away")
        return 7.0

    monkeypatch.setattr(world.store, "now", now)
    await node.begin("red", V3, plan(SMOKE), **WHO)
    assert (await ended(world)).outcome == "settled"
    assert (away, steps.tried) == (0, ["ready", "parity", "gate:smoke"])


async def test_an_approval_is_waited_for_and_given_once(world, nodes):
    node = await nodes.add("n1")
    await node.begin("red", V3, plan({"kind": "manual", "name": "look", "four_eyes": True}), **WHO)
    await until(lambda: run_of(world).next == "approval:look")
    with pytest.raises(Refused, match="second pair of eyes"):
        await node.approve("look", actor="ada", reason="")
    with pytest.raises(Refused, match="waits for no approval of 'smoke'"):
        await node.approve("smoke", actor="bob", reason="")
    assert (await node.approve("", actor="bob", reason="good")).changed
    run = await ended(world)
    assert (run.outcome, run.approvals) == ("settled", {"look": "bob"})
    assert next(step.why for step in run.done if step.name == "approval:look") == "bob approved it"
    with pytest.raises(Refused, match="nothing is being released"):
        await node.approve("look", actor="eve", reason="")


async def test_an_approval_that_nobody_gives_expires_by_the_store_s_clock(world, nodes, monkeypatch):
    node = await nodes.add("n1")
    later = 0.0

    async def now() -> float:
        return 100.0 + later

    monkeypatch.setattr(world.store, "now", now)
    await node.begin("red", V3, plan({"kind": "manual", "expires": 60}), **WHO)
    await until(lambda: run_of(world).next == "approval:manual-1")
    later = 59.0
    await asyncio.sleep(0.01)
    assert run_of(world).is_open
    later = 60.0
    run = await ended(world)
    assert (run.outcome, run.why) == (
        "stopped",
        "approval:manual-1 could not be decided: nobody approved it within 60 s",
    )


async def test_an_approval_has_no_more_time_where_its_leader_died(world, nodes, monkeypatch):
    first, second = await nodes.add("n1"), await nodes.add("n2")
    later = 0.0

    async def now() -> float:
        return 100.0 + later

    monkeypatch.setattr(world.store, "now", now)
    await first.begin("red", V3, plan({"kind": "manual", "expires": 60}), **WHO)
    await until(lambda: run_of(world).next == "approval:manual-1")
    later = 59.0
    assert (await second._change_leader(run_of(world), "n2")).changed
    await until(lambda: second._leading is not None)
    assert run_of(world).is_open
    later = 60.0
    assert (await ended(world)).why.endswith("nobody approved it within 60 s")


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ({"gate": [{"kind": "htpp"}]}, "did you mean"),
        ({"gate": [{"kind": "command", "command": ["/bin/true"]}]}, "add it to rollout.commands"),
        ({"gate": [{"kind": "webhook", "url": "http://x/"}]}, "add it to rollout.webhooks"),
    ],
)
async def test_a_plan_that_cannot_be_run_is_refused_before_anything_is_done(world, node, written, why):
    with pytest.raises(BadInput, match=why):
        await node.begin("red", V3, written, **WHO)
    assert (world.state.run, "red" in world.state.releases) == (None, False)


async def test_who_gives_no_plan_goes_by_the_configured_one(world, nodes, steps):
    node = await nodes.add("n1", default=plan(SMOKE))
    await node.begin("red", V3, None, **WHO)
    assert (await ended(world)).outcome == "settled"
    assert steps.tried == ["ready", "parity", "gate:smoke"]
    node.configure(RolloutOptions(), HealthOptions(), {})
    with pytest.raises(BadInput, match=r"plan is missing: give one, or write \[release\]"):
        await node.begin("green", replace(V3, label="v4"), None, **WHO)


async def test_a_leader_that_does_not_understand_the_plan_decides_nothing(world, nodes, steps):
    node = await nodes.add("n1")
    await node.begin("red", V3, plan(SMOKE), **WHO)
    await ended(world)
    steps.holds["ready"] = asyncio.Event()
    await node.begin("blue", replace(V3, label="v4"), plan(SMOKE), **WHO, force=True)
    node._read_plan = _unknown
    steps.holds["ready"].set()
    run = await ended(world)
    assert (run.outcome, "does not understand the plan" in run.why) == ("stopped", True)


def _unknown(_: Mapping[str, Any]) -> Plan:
    return plan_from({"gates": 5})


async def test_nobody_gets_between_a_run_and_its_flip(world, node, steps):
    steps.holds["gate:smoke"] = asyncio.Event()
    await node.begin("red", V3, plan(SMOKE), **WHO)
    await until(lambda: "gate:smoke" in steps.tried)
    with pytest.raises(NotReady, match="v3, which is validating"):
        await world.flip("red")
    with pytest.raises(Refused, match="is being released"):
        await world.stage("red", "v4")
    with pytest.raises(Refused, match="is being released by ada"):
        await node.begin("green", V3, plan(), **WHO)
    steps.holds["gate:smoke"].set()
    assert (await ended(world)).outcome == "settled"


HOOKS = [
    {"name": "veto", "when": "before", "at": ["flip"], "url": "http://h/"},
    {"name": "tell", "at": ["gates", "end"], "url": "http://h/"},
]
ALLOWED = RolloutOptions(webhooks=("http://h/",))


async def test_hooks_are_called_around_their_steps_and_told_of_the_end(world, nodes, steps):
    node = await nodes.add("n1", options=ALLOWED)
    steps.comes_to["after:gates:tell"] = Finding(Verdict.FAIL, "nobody is there")
    await node.begin("red", V3, {**plan(SMOKE), "hook": HOOKS}, **WHO)
    await until(lambda: not run_of(world).is_open and not run_of(world).tell)
    assert run_of(world).outcome == "settled"
    order = ["ready", "parity", "gate:smoke", "after:gates:tell", "before:flip:veto", "after:end:tell"]
    assert steps.tried == order
    assert run_of(world).plan == {}


async def test_a_veto_before_the_flip_leaves_it_where_it_is(world, nodes, steps):
    node = await nodes.add("n1", options=ALLOWED)
    steps.comes_to["before:flip:veto"] = Finding(Verdict.FAIL, "change freeze")
    await node.begin("red", V3, {**plan(), "hook": HOOKS}, **WHO)
    await until(lambda: not run_of(world).is_open and not run_of(world).tell)
    run = run_of(world)
    assert (run.outcome, run.why) == ("stopped", "before:flip:veto failed: change freeze")
    assert (world.state.pointer.epoch, world.phase("red"), steps.tried[-1]) == (1, Phase.READY, "after:end:tell")


async def test_the_end_is_told_by_another_where_the_leader_died(world, nodes, steps):
    steps.holds["after:end:tell"] = asyncio.Event()
    first, _ = await nodes.add("n1", options=ALLOWED), await nodes.add("n2", options=ALLOWED)
    await first.begin("red", V3, {**plan(), "hook": HOOKS}, **WHO)
    await until(lambda: "after:end:tell" in steps.tried)
    await nodes.dies("n1")
    await until(lambda: steps.tried.count("after:end:tell") == 2)
    steps.holds["after:end:tell"].set()
    await until(lambda: not run_of(world).tell)
    assert (run_of(world).outcome, run_of(world).leader) == ("settled", "n2")


async def test_an_abort_cancels_the_step_and_is_told(world, nodes, steps):
    node = await nodes.add("n1", options=ALLOWED)
    steps.holds["gate:smoke"] = asyncio.Event()
    await node.begin("red", V3, {**plan(SMOKE), "hook": HOOKS}, **WHO)
    await until(lambda: "gate:smoke" in steps.tried)
    await node.abort(actor="bob", reason="no")
    await until(lambda: not run_of(world).tell)
    assert (steps.cancelled, steps.tried[-1]) == (["gate:smoke"], "after:end:tell")


async def test_a_hook_that_is_not_allowed_is_refused_at_the_beginning(world, node):
    with pytest.raises(BadInput, match=r"hook\[1\].url: http://h/ may not be called"):
        await node.begin("red", V3, {"hook": HOOKS}, **WHO)
