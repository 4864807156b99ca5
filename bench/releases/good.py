"""Good releases with noisy latency, brought out as real processes under live traffic, one after the other."""

from __future__ import annotations

from collections.abc import Mapping

from bench.releases.plans import BAKE
from bench.releases.world import release
from bench.report import table

RELEASES = 6
SECONDS = 4.0  # of each one's bake


async def table_of_good_ones(urls: Mapping[str, str]) -> tuple[str, int]:
    """A table of what became of them, and how many were rolled back."""
    rows, alarms = [], 0
    for number in range(1, RELEASES + 1):
        story = await release(urls["v1"], f"good-{number}", urls["good"], BAKE.format(duration=SECONDS))
        outcome = str(story.end["outcome"])
        alarms += outcome == "rolled_back"
        why = str(next((step["why"] for step in story.end["steps"] if step["name"] == "bake"), ""))
        what = ", ".join(story.traffic.troubles()) or "-"
        rows.append((str(number), outcome, str(story.harmed), str(len(story.traffic.turns)), what, why))
    return table(("release", "end", "turns harmed", "of", "by", "what the bake says"), rows), alarms
