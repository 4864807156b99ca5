"""Who takes a drained release down: one node, once, also where it dies; by order, or by itself where a plan says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from conductors import until

from bgproxy.config.plan import plan_from
from bgproxy.errors import Refused, StoreUnavailable
from bgproxy.rollout import leading
from bgproxy.rollout import retire as module
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rollout.retire import Retirer
from bgproxy.rules.fleet import Change, FleetState, changed
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Decommission
from bgproxy.rules.release import Event, Phase
from bgproxy.rules.route import Route, RouteTable
from bgproxy.store.base import NodeReport

WHO = {"actor": "ada", "reason": "why"}
AT_ONCE = {"decommission": {"rollback_window": 0, "command": ["/bin/true"]}}
BY_ITSELF = {"decommission": {**AT_ONCE["decommission"], "automatic": True}}


class Hook:
    """Stands in for the plan's action: what it was told, and what it comes to."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.holds: asyncio.Event | None = None
        self.comes_to: Finding | Exception = Finding(Verdict.PASS, "scaled to zero", {"replicas": 0})

    async def act(self, _action: Any, _step: str, event: dict[str, Any], _trial: Any, name: str) -> Finding:
        self.events.append(json.loads(json.dumps(event)))
        self.names.append(name)
        if self.holds is not None:
            await self.holds.wait()
        if isinstance(self.comes_to, Exception):
            raise self.comes_to
        return self.comes_to


@pytest.fixture
def hook(monkeypatch) -> Hook:
    made = Hook()
    monkeypatch.setattr(module, "act", made.act)
    monkeypatch.setattr(leading, "INTERVAL", 0.001)
    monkeypatch.setattr(leading, "PAUSE", 0.0)
    return made


Add = Callable[..., Any]


@pytest.fixture
async def add(world, hook) -> AsyncIterator[Add]:
    """Start a node's retirer by the name that it has in the fleet."""
    made = []

    async def start(name: str = "n1", default: Any = AT_ONCE, store: Any = None) -> Retirer:
        parts = name, world.ledger, world.mirror, store or world.store, plan_from
        one = Retirer(*parts, lambda: RouteTable((Route("default"),)), RolloutOptions(commands=("/bin/true",)), default)
        await world.store.beat(NodeReport(id=name, host="h", pid=1, version="1", epoch=1))
        one.start()
        made.append(one)
        return one

    yield start
    for one in made:
        await one.stop()


@pytest.fixture
async def drained(world) -> None:
    """Green is active, and blue is drained."""
    await world.flip("green")
    await world.ledger.step("blue", "v1", Event.DRAINED, actor="test", reason="")


async def entries(world: Any) -> list[dict[str, Any]]:
    return [dict(entry.facts) for entry in reversed(await world.ledger.audit(limit=99)) if entry.verb == "retire"]


@pytest.mark.usefixtures("drained")
async def test_an_order_runs_the_hook_and_retires_it_with_all_on_record(world, add, hook):
    await (await add()).order("blue", **WHO)
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    [event] = hook.events
    assert (event["event"], event["color"], event["release"], event["active"]) == ("retire", "blue", "v1", "v2")
    assert (event["actor"], event["upstreams"]) == ("ada", ["http://127.0.0.1:1001"])
    assert event["double_running"]["replicas"] == 1
    first, second, third = await entries(world)
    assert (first["order"], second["leader"], third["verdict"]) == (True, "n1", "pass")
    assert third["evidence"] == {"replicas": 0}
    assert third["freed"]["successor"] == "v2"


@pytest.mark.usefixtures("drained")
async def test_without_a_hook_it_only_becomes_retired(world, add, hook):
    await (await add(default={})).order("blue", force=True, **WHO)
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    assert hook.events == []


@pytest.mark.usefixtures("drained")
@pytest.mark.parametrize("found", [Finding(Verdict.FAIL, "it is needed"), RuntimeError("a bug")], ids=str)
async def test_where_the_hook_says_no_it_stays_drained(world, add, hook, found):
    hook.comes_to = found
    await (await add()).order("blue", **WHO)
    await until(lambda: world.state.releases["blue"].retirement.is_over)
    assert world.phase("blue") is Phase.DRAINED
    assert len(hook.events) == 1, "who asked for it is told, and asks again"
    hook.comes_to = Finding(Verdict.PASS, "")
    await (await add("n2")).order("blue", **WHO)
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    assert hook.names[0] == hook.names[1], "whoever is called can tell a repetition"


async def test_by_itself_only_where_the_plan_says_so_once_drained(world, add, hook):
    await add("n1", BY_ITSELF)
    await world.flip("green")
    await asyncio.sleep(0.01)
    assert world.state.releases["blue"].retirement is None
    await world.ledger.step("blue", "v1", Event.DRAINED, actor="test", reason="")
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    assert [entry.actor for entry in await world.ledger.audit(limit=9) if entry.verb == "retire"] == ["bgproxy"] * 3


@pytest.mark.usefixtures("drained")
async def test_by_itself_it_waits_for_the_window(world, add):
    plan = {"decommission": {"rollback_window": 1000, "automatic": True}}
    await add("n1", plan, world.watched)
    await asyncio.sleep(0.01)
    assert world.phase("blue") is Phase.DRAINED
    world.later = 1001.0
    await until(lambda: world.phase("blue") is Phase.RETIRED)


@pytest.mark.usefixtures("drained")
async def test_a_leader_that_dies_is_followed_by_one_who_carries_it_out(world, add, hook):
    hook.holds = asyncio.Event()
    first = await add("n1")
    await first.order("blue", **WHO)
    await until(lambda: hook.events)
    await add("n2")
    first._node_id = "a ghost"  # it has no time to say anything
    await first.stop()
    await world.store.leave("n1")
    await until(lambda: len(hook.events) == 2)
    hook.holds.set()
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    assert [facts.get("leader") for facts in await entries(world)] == [None, "n1", "n2", None]
    assert hook.names[0] == hook.names[1]


@pytest.mark.usefixtures("drained")
async def test_one_that_stops_lets_another_go_on_at_once(world, add, hook):
    hook.holds = asyncio.Event()
    first = await add("n1")
    await first.order("blue", **WHO)
    await until(lambda: hook.events)
    await first.stop()
    assert world.state.releases["blue"].retirement.leader == ""
    hook.holds.set()
    await add("n2")
    await until(lambda: world.phase("blue") is Phase.RETIRED)


@pytest.mark.usefixtures("drained")
async def test_of_many_nodes_one_carries_it_out(world, add, hook):
    nodes = [await add(f"n{number}", BY_ITSELF) for number in range(4)]
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    assert (len(nodes), len(hook.events)) == (4, 1)


@pytest.mark.usefixtures("drained")
async def test_what_was_found_out_is_put_on_record_once_the_store_is_back(world, add, hook, monkeypatch):
    one, away = await add(), 3
    make = world.ledger.make

    async def fails(decide: Any, **more: Any) -> Any:
        nonlocal away
        if hook.events and away:
            away -= 1
            raise StoreUnavailable("away")
        return await make(decide, **more)

    monkeypatch.setattr(world.ledger, "make", fails)
    await one.order("blue", **WHO)
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    assert (away, len(hook.events)) == (0, 1)


@pytest.mark.usefixtures("drained")
async def test_where_the_answer_to_the_retirement_is_lost_its_contract_step_is_still_run(world, add, hook, monkeypatch):
    commit, lost = world.store.commit, []

    async def breaks(*arguments: Any, **more: Any) -> Any:
        made = await commit(*arguments, **more)
        if hook.events and not lost:
            lost.append(made)
            raise StoreUnavailable("the line broke, and no bell is heard")
        return made

    def owes(state: FleetState) -> Change:
        blue = replace(state.releases["blue"], parting={**AT_ONCE, "migrate": {"contract": {"command": ["/bin/true"]}}})
        return changed(state, {"blue": blue}, "phase", {}, "test", "")

    await world.ledger.make(owes)
    monkeypatch.setattr(world.store, "commit", breaks)
    await (await add()).order("blue", **WHO)
    await until(lambda: world.phase("blue") is Phase.RETIRED and world.state.releases["blue"].retirement is None)
    assert (len(lost), [event["event"] for event in hook.events]) == (1, ["retire", "migrate:contract"])
    assert [facts.get("step") for facts in await entries(world) if "verdict" in facts] == [None, "migrate:contract"]


@pytest.mark.usefixtures("drained")
async def test_a_store_that_is_away_for_a_moment_is_no_reason_not_to_do_it(world, add, hook, monkeypatch):
    now, away = world.store.now, [StoreUnavailable("away")]

    async def asked() -> float:
        standing = world.state.releases["blue"].retirement
        if away and standing is not None and standing.leader:
            raise away.pop()
        return await now()

    monkeypatch.setattr(world.store, "now", asked)
    await (await add()).order("blue", when_drained=True, **WHO)
    await until(lambda: world.phase("blue") is Phase.RETIRED)
    assert (away, len(hook.events)) == ([], 1)
    assert [facts["verdict"] for facts in await entries(world) if "verdict" in facts] == ["pass"]


@pytest.mark.usefixtures("drained")
async def test_one_release_that_this_node_does_not_understand_is_not_in_the_way_of_another(world, add):
    def newer(state: FleetState) -> Change:
        blue = replace(state.releases["blue"], parting={"decommission": {"newer": 7}})
        red = replace(state.releases["blue"], label="v0", parting=BY_ITSELF)
        return changed(state, {"blue": blue, "red": red}, "phase", {}, "test", "")

    await world.ledger.make(newer)
    await add()
    await until(lambda: world.phase("red") is Phase.RETIRED)
    assert world.phase("blue") is Phase.DRAINED


@pytest.mark.usefixtures("drained")
async def test_a_forced_flip_back_ends_what_is_carried_out(world, add, hook):
    hook.holds = asyncio.Event()
    one = await add()
    await one.order("blue", **WHO)
    await until(lambda: hook.events)
    await world.ledger.flip("blue", actor="eve", reason="", force=True)
    await until(lambda: not one._leading)
    assert world.phase("blue") is Phase.ACTIVE


@pytest.mark.usefixtures("drained")
async def test_the_plan_that_brought_the_successor_counts_before_the_configured_one(world, add):
    one = await add("n1", AT_ONCE)
    blue = world.state.releases["blue"]
    assert one.policy(blue).rollback_window == 0.0
    assert one.policy(None) == Decommission(command=("/bin/true",), rollback_window=0.0)

    def with_parting(written: Any) -> Any:
        return replace(blue, parting={"decommission": written})

    assert one.policy(with_parting({"rollback_window": 7})).rollback_window == 7.0
    with pytest.raises(Refused, match="does not understand"):
        one.policy(with_parting({"newer": 7}))
    one.configure(RolloutOptions(), {})
    assert one.policy(blue) == Decommission()
