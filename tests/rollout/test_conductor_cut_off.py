"""The node that leads is cut off from the store at every change that it makes in a release, so that it does not hear
that it was made. Another one takes over, and the first comes back: what must happen once happens once.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from conductors import V3, WHO, Cut, until
from test_conductor_killed import PLAN, STORIES, TOLD, Story, all_pretended

from bgproxy.rollout import barrier
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror


class CutOff(Story):
    """One release of which the leader is cut off at one moment, until another has taken over, and somewhat longer."""

    async def play(self) -> None:
        await self.world.start()
        await self.world.mirror.start()
        store: Any = Cut(self.world.store, self.last)
        self._store = store
        mirror = Mirror(store)
        await mirror.start()
        ledger = Ledger(store, mirror, lambda: 1.0)
        first = await self.hosts.add("n1", options=TOLD, store=store, mirror=mirror, ledger=ledger)
        second, _ = await self.hosts.host("n2")
        begun = asyncio.create_task(first.begin("red", V3, PLAN, **WHO))
        tasks = [begun, asyncio.create_task(self.approve(second)), asyncio.create_task(self.kill(store))]
        try:
            await until(lambda: self.run is not None and not self.run.is_open and not self.run.tell)
            store.is_cut = False
            await asyncio.sleep(0.01)  # in which the first one could still do what is done already
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.hosts.close()
            await self.world.mirror.stop()
            await self.world.store.close()

    async def kill(self, store: Any) -> None:
        await store.died.wait()
        self.was_killed = True
        await self.world.store.leave("n1")
        await until(lambda: self.run is None or self.run.leader == "n2" or not self.run.is_open)
        await asyncio.sleep(0.001 * (self.last[0] % 7))
        store.is_cut = False
        await self.hosts.beat("n1")


@pytest.mark.parametrize("outcome", ["rolled_back", "stopped"])
async def test_whenever_the_answer_to_its_leader_is_lost_all_is_done_and_once(monkeypatch, outcome):
    monkeypatch.setattr(barrier, "_PATIENCE", 0.005)
    monkeypatch.setattr(barrier, "_AGAIN", 0.005)
    step, found, done, after, flips, rollbacks = STORIES[outcome]
    for number in itertools.count(1):
        steps = all_pretended(monkeypatch)
        steps.comes_to[step] = found
        story = CutOff(steps, (number, "after"))
        await story.play()
        where = f"commit {number}"
        run, verbs = story.run, await story.verbs()
        assert (run.outcome, [one.name for one in run.done]) == (outcome, done), where
        assert (verbs["flip"], verbs["rollback"]) == (flips, rollbacks), where
        assert story.world.state.pointer.epoch == 1 + flips + rollbacks, where
        assert await story.recorded() == [*done, *after], f"{where}: each once"
        if story.commits <= number:
            break
    assert number >= len(done) + len(after) + 2 * flips, "each is a commit, and the flip one more"
