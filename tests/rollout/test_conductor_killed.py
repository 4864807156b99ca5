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
from bgproxy.rollout import conductor as module
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
    "migrate": {"expand": {"url": "http://h/"}, "revert": {"url": "http://h/"}},
    "mirror": {"paths": ["/"]},
    "canary": {"share": 0.05, "max_error_rate": 0.01},
    "bake": BAKE,
}
BEFORE = ["migrate:expand", "ready", "parity", "gate:smoke", "approval:look", "after:gates:tell", "mirror"]
STEPS = [*BEFORE, "canary", "before:flip:veto", "flip", "bake"]


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


def all_pretended(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The migration, the mirror and the canary too."""
    made = pretended(monkeypatch)

    async def live(name: str, *_: Any) -> Finding:
        return await made.take(name)

    async def migration(_migrate: Any, name: str, *_: Any) -> Finding:
        return await made.take(name)

    monkeypatch.setattr(module, "watch_live", live)
    monkeypatch.setattr(module, "try_migration", migration)
    return made


GOOD, BAD = Finding(Verdict.PASS, "as before"), Finding(Verdict.FAIL, "3 % errors")

# What one step comes to; then the outcome, the steps that are done, what is done after the end, and how often the
# pointer is moved forth and back.
STORIES = {
    "settled": ("bake", GOOD, STEPS, ["after:end:tell"], 1, 0),
    "rolled_back": ("bake", BAD, STEPS, ["after:end:tell"], 1, 1),
    "stopped": ("mirror", BAD, BEFORE, ["migrate:revert", "after:end:tell"], 0, 0),
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("outcome", STORIES)
async def test_whenever_the_leader_is_killed_all_is_done_and_once(monkeypatch, outcome, moment):
    monkeypatch.setattr(barrier, "_PATIENCE", 0.005)
    monkeypatch.setattr(barrier, "_AGAIN", 0.005)
    step, found, done, after, flips, rollbacks = STORIES[outcome]
    for number in itertools.count(1 if moment == "before" else 0):  # before the first one there is no release
        steps = all_pretended(monkeypatch)
        steps.comes_to[step] = found
        story = Story(steps, (number, moment))
        await story.play()
        where = f"{moment} commit {number}"
        run, verbs = story.run, await story.verbs()
        assert (run.outcome, [one.name for one in run.done]) == (outcome, done), where
        assert (verbs["flip"], verbs["rollback"]) == (flips, rollbacks), where
        assert story.world.state.pointer.epoch == 1 + flips + rollbacks, where
        assert story.world.state.pointer.active == ("red" if outcome == "settled" else "blue"), where
        assert await story.recorded() == [*done, *after], f"{where}: each once"
        twice = [name for name, times in Counter(steps.tried).items() if times > 1]
        assert len(twice) <= story.was_killed, f"{where}: only what was under way is tried again"
        assert max(Counter(steps.tried).values()) <= 2, where
        is_last = story.commits == number + 1  # after it nothing is left for another one
        assert run.leader == ("n2" if story.was_killed else "n1") or is_last, where
        if story.commits <= number:
            break
    assert number >= len(done) + len(after) + 2 * flips, "each is a commit, as its beginning is, and the flip one more"
