"""The node that takes a release down is killed at every change that it makes, before it and after it, on a store that
nodes share: another one goes on, with its hook and with the contract step behind it, and each is on record once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from conductors import Mortal, until

from bgproxy.config.plan import plan_from
from bgproxy.rollout import leading
from bgproxy.rollout import retire as module
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rollout.retire import Retirer
from bgproxy.rules import fleet
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.release import Event, Phase
from bgproxy.rules.route import Route, RouteTable
from bgproxy.store.base import NodeReport
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror

RUN = {"command": ["/bin/true"]}
PARTING = {"decommission": {**RUN, "rollback_window": 0, "automatic": True}, "migrate": {"contract": RUN}}
ROUTES = RouteTable((Route("default"),))


class Story:
    """One release that is taken down by itself, by a node that is killed at one moment, or at none."""

    def __init__(self, world: Any, last: tuple[int, str]) -> None:
        self.world = world
        self.last = last
        self.ran: list[str] = []
        self.was_killed = False

    async def act(self, _action: Any, step: str, _event: Any, _trial: Any, name: str) -> Finding:
        self.ran.append(name)
        await asyncio.sleep(0)
        return Finding(Verdict.PASS, f"{step} is done")

    async def host(self, name: str, store: Mortal) -> tuple[Retirer, Mirror]:
        mirror = Mirror(store)  # type: ignore[arg-type]  # it is one, but for what it looks up
        await mirror.start()
        ledger = Ledger(store, mirror, lambda: 1.0)  # type: ignore[arg-type]
        await self.world.store.beat(NodeReport(id=name, host="h", pid=1, version="1", epoch=1))
        options = RolloutOptions(commands=("/bin/true",))
        made = Retirer(name, ledger, mirror, store, plan_from, lambda: ROUTES, options, {})  # type: ignore[arg-type]
        return made, mirror

    async def play(self) -> None:
        world = self.world
        await world.start()
        await world.mirror.start()
        await world.flip("green")
        await world.ledger.make(drained)
        self.store = Mortal(world.store, self.last)
        first, one = await self.host("n1", self.store)
        second, two = await self.host("n2", Mortal(world.store))
        first.start()
        killer = asyncio.create_task(self.kill(first))
        try:
            await until(lambda: self.was_killed or self.is_over)
            second.start()
            await until(lambda: self.is_over)
        finally:
            killer.cancel()
            for part in (first, second, one, two, world.mirror):
                await part.stop()
            await world.store.close()

    @property
    def is_over(self) -> bool:
        blue = self.world.state.releases["blue"]
        return blue.phase is Phase.RETIRED and blue.retirement is None

    async def kill(self, first: Retirer) -> None:
        """As a process that is killed: nothing is handed over; its host signs it off."""
        await self.store.died.wait()
        self.was_killed = True
        first._node_id = "a ghost"
        await first.stop()
        await self.world.store.leave("n1")

    async def recorded(self) -> list[str]:
        entries = reversed(await self.world.ledger.audit(limit=99))
        return [str(entry.facts.get("step", entry.verb)) for entry in entries if "verdict" in entry.facts]


def drained(state: FleetState) -> Change:
    """As if a plan had brought green."""
    change = fleet.step(state, "blue", "v1", Event.DRAINED, actor="test", reason="", at=1.0)
    assert change is not None
    blue = replace(change.state.releases["blue"], parting=PARTING)
    return replace(change, state=replace(change.state, releases={**change.state.releases, "blue": blue}))


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_whenever_its_leader_is_killed_it_is_taken_down_and_once(world, monkeypatch, moment):
    monkeypatch.setattr(leading, "INTERVAL", 0.001)
    monkeypatch.setattr(leading, "PAUSE", 0.0)
    for number in itertools.count():
        story = Story(type(world)(), (number, moment))
        monkeypatch.setattr(module, "act", story.act)
        await story.play()
        where = f"{moment} commit {number}"
        assert await story.recorded() == ["retire", "migrate:contract"], f"{where}: each once"
        times = Counter(story.ran)
        assert len(times) == 2, where
        assert sum(times.values()) <= 2 + story.was_killed, f"{where}: only what was under way is run again"
        if not story.was_killed:
            break
    assert number >= 3, "the order, its leader, the retirement and the contract step are a commit each"
