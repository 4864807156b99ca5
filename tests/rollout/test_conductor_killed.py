"""The node that leads is killed at every change that it makes in a release, before it and after it, on a store that
nodes share: another one goes on, and what must happen once happens once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from conductors import BAKE, SMOKE, V3, WHO, Mortal, Nodes, Steps, pretended, until
from worlds import World

from bgproxy.rollout import barrier
from bgproxy.rollout.conductor import Conductor
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror

TOLD = RolloutOptions(webhooks=("http://h/",))
PLAN: Mapping[str, Any] = {
    "gate": [SMOKE, {"kind": "manual", "name": "look"}],
    "hook": [
        {"name": "veto", "when": "before", "at": ["flip"], "url": "http://h/"},
        {"name": "tell", "at": ["gates", "end"], "url": "http://h/"},
    ],
    "bake": BAKE,
}
STEPS = ["ready", "parity", "gate:smoke", "approval:look", "after:gates:tell", "before:flip:veto", "flip", "bake"]


class Hosts(Nodes):
    """Nodes with a store, a mirror and a barrier of their own."""

    async def host(self, name: str, last: tuple[int, str] | None = None) -> tuple[Conductor, Mortal]:
        store = Mortal(self.world.store, last)
        mirror = Mirror(store)  # type: ignore[arg-type]  # it is one, but for what it looks up
        await mirror.start()
        ledger = Ledger(store, mirror, lambda: 1.0)  # type: ignore[arg-type]
        return await self.add(name, options=TOLD, store=store, mirror=mirror, ledger=ledger), store


class Story:
    """One release of which the leader is killed at one moment, or at none."""

    def __init__(self, steps: Steps, last: tuple[int, str] | None) -> None:
        self.world = World()
        self.steps = steps
        self.hosts = Hosts(self.world, steps)
        self.last = last
        self.was_killed = False

    async def play(self) -> None:
        await self.world.start()
        await self.world.mirror.start()
        first, store = await self.hosts.host("n1", self.last)
        self._store = store
        second, _ = await self.hosts.host("n2")
        tasks = [asyncio.create_task(work) for work in (first.begin("red", V3, PLAN, **WHO), self.approve(second))]
        tasks.append(asyncio.create_task(self.kill(store)))
        try:
            await until(lambda: self.run is not None and not self.run.is_open and not self.run.tell)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.hosts.close()
            await self.world.mirror.stop()
            await self.world.store.close()

    @property
    def run(self) -> Any:
        return self.world.state.run

    @property
    def commits(self) -> int:
        """How many the node has tried that is killed."""
        return self._store.commits

    async def approve(self, node: Conductor) -> None:
        await until(lambda: self.run is not None and self.run.next == "approval:look")
        await node.approve("look", actor="bob", reason="good")

    async def kill(self, store: Mortal) -> None:
        await store.died.wait()
        self.was_killed = True
        await self.hosts.dies("n1")

    async def verbs(self) -> Counter[str]:
        return Counter(entry.verb for entry in await self.world.ledger.audit(limit=200))

    async def recorded(self) -> list[str]:
        """The steps on record, oldest first."""
        entries = reversed(await self.world.ledger.audit(limit=200))
        return [str(entry.facts["step"]) for entry in entries if "verdict" in entry.facts]


FOUND = {
    "settled": Finding(Verdict.PASS, "as before"),
    "rolled_back": Finding(Verdict.FAIL, "3 % errors"),
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("outcome", FOUND)
async def test_whenever_the_leader_is_killed_all_is_done_and_once(monkeypatch, outcome, moment):
    monkeypatch.setattr(barrier, "_PATIENCE", 0.005)
    monkeypatch.setattr(barrier, "_AGAIN", 0.005)
    for number in itertools.count(1 if moment == "before" else 0):  # before the first one there is no release
        steps = pretended(monkeypatch)
        steps.comes_to["bake"] = FOUND[outcome]
        story = Story(steps, (number, moment))
        await story.play()
        where = f"{moment} commit {number}"
        run, verbs = story.run, await story.verbs()
        rolled_back = int(outcome == "rolled_back")
        assert (run.outcome, [step.name for step in run.done]) == (outcome, STEPS), where
        assert (verbs["flip"], verbs["rollback"]) == (1, rolled_back), where
        assert story.world.state.pointer.epoch == 2 + rolled_back, where
        assert story.world.state.pointer.active == ("blue" if rolled_back else "red"), where
        assert await story.recorded() == [*STEPS, "after:end:tell"], f"{where}: each once"
        twice = [name for name, times in Counter(steps.tried).items() if times > 1]
        assert len(twice) <= story.was_killed, f"{where}: only what was under way is tried again"
        assert max(Counter(steps.tried).values()) <= 2, where
        is_last = story.commits == number + 1  # after it nothing is left for another one
        assert run.leader == ("n2" if story.was_killed else "n1") or is_last, where
        if story.commits <= number:
            break
    assert number >= len(STEPS) + 3, "it begins, each step is a commit, the flip one more, and the word of the end"
