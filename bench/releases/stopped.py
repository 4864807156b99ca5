"""Bad releases, each brought out twice under live traffic: by a plan with gates, and by one with a bake only."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping

from bench.releases.misbehave import AGENTS
from bench.releases.plans import BAKE, GATES
from bench.releases.world import BEFORE, Story, release
from bench.report import table

BAKE_SECONDS = 15.0
WHY = 110  # characters
BAKED = ("good", "slow", "errors", "hang", "break")
"""What a bake can see. All the other faults stand in answers of 200 or, a refused WebSocket, in the agent's own 403."""


async def by_gates(urls: Mapping[str, str]) -> str:
    """A table: which gate, after how long."""
    rows = []
    async for name, story in _stories(urls, GATES, AGENTS, before=1.0):
        end = story.end
        last = next(step for step in reversed(end["steps"]) if step["verdict"])
        is_stopped = end["outcome"] == "stopped"
        what = f"`{last['name']}`" if is_stopped else "(none: it is settled)"
        why = _short(end["why"].partition(": ")[2]) if is_stopped else ""
        took = f"{last['at'] - end['began']:.1f} s"
        rows.append((name, what, took, str(story.harmed), str(len(story.traffic.turns)), why))
    head = ("v2", "stopped by", "after", "turns harmed", "of", "what it says")
    return table(head, rows)


async def by_bake(urls: Mapping[str, str]) -> str:
    """A table: when it was rolled back, and what it had cost by then."""
    rows = []
    async for name, story in _stories(urls, BAKE.format(duration=BAKE_SECONDS), BAKED, BEFORE):
        rows.append((name, *_baked(story)))
    head = (
        "v2",
        "end",
        "first bad to rollback",
        "decided to rolled back",
        "bad answers",
        "of v2's",
        "turns harmed",
        "why",
    )
    return table(head, rows)


def _baked(story: Story) -> tuple[str, ...]:
    flipped, decided, back = story.at("flip"), story.at("release", "bake"), story.at("rollback")
    first = story.agent.get("first")
    took = f"{back - first:.1f} s" if back and first else "-"
    at_once = f"{1000 * (back - decided):.0f} ms" if back and decided else "-"
    until = back or float("inf")
    turns = [turn for turn in story.traffic.turns if flipped and flipped <= turn.began < until]
    why = str(next((step["why"] for step in story.end["steps"] if step["name"] == "bake"), ""))
    end = str(story.end["outcome"]).replace("_", " ")
    return end, took, at_once, str(story.agent.get("bad")), str(len(turns)), str(story.harmed), _short(why)


def _short(why: str) -> str:
    """Without addresses, and no longer than a table bears."""
    why = re.sub(r"http://[0-9.:]+: ", "", why)
    return why if len(why) <= WHY else why[: WHY - 1] + "…"


async def _stories(
    urls: Mapping[str, str], plan: str, names: Iterable[str], before: float
) -> AsyncIterator[tuple[str, Story]]:
    for name in names:
        if name == "v1":
            continue
        story = await release(urls["v1"], name, urls[name], plan, before)
        print(f"{name}: {story.end['outcome']} {story.end['why'][:100]}", file=sys.stderr)
        yield name, story
