"""Good releases with noisy latency, brought out as real processes under live traffic: several fleets at once, and in
each of them one release after the other, to and fro between two colors.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice

from bench.releases.plans import BAKE
from bench.releases.traffic import Traffic
from bench.releases.world import BEFORE, Processes, Proxy, proxy
from bench.report import table

FLEETS = 8
EACH = 25  # releases, of one fleet
RATE = 25.0  # turns per second, of one fleet
SECONDS = 6.0  # of each bake
SAMPLES = 100  # `min_samples` of each bake
DRAINED = 30.0  # seconds that the old release may take to be empty


@dataclass(slots=True)
class Tally:
    """What became of all of them."""

    ends: Counter[str] = field(default_factory=Counter)
    whys: list[str] = field(default_factory=list)  # of those that were rolled back or stopped
    turns: int = 0
    troubles: Counter[str] = field(default_factory=Counter)


async def table_of_good_ones(urls: Mapping[str, str]) -> tuple[str, int]:
    """A table of what became of them, and how many were rolled back."""
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        for number in range(FLEETS):
            group.create_task(_fleet(number, urls, tally))
    rows = [(end, str(count)) for end, count in sorted(tally.ends.items())]
    rows += [(f"turns with {what}, of {tally.turns}", str(count)) for what, count in sorted(tally.troubles.items())]
    return "\n".join([table(("what", "count"), rows), *(f"\n- {why}" for why in tally.whys)]), tally.ends["rolled back"]


async def _fleet(number: int, urls: Mapping[str, str], tally: Tally) -> None:
    plan = BAKE.format(duration=SECONDS).replace("min_samples = 200", f"min_samples = {SAMPLES}")
    async with proxy(urls["v1"]) as serve, Processes() as processes:
        traffic = Traffic(serve.url, RATE)
        flowing = asyncio.create_task(traffic.flow())
        await asyncio.sleep(BEFORE + number * SECONDS / FLEETS)  # so that not all of them flip at once
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(plan)
            file.flush()
            targets = cycle((("green", urls["good"]), ("blue", urls["v1"])))
            for count, (color, url) in enumerate(islice(targets, EACH), 1):
                words = (
                    "release",
                    color,
                    "--release",
                    f"good-{number}-{count}",
                    "--upstream",
                    url,
                    "--plan",
                    file.name,
                )
                command = await processes.start("bgproxy", *words, "--yes", "--json", "--admin", serve.admin)
                out, _ = await command.communicate()
                end = json.loads(out.splitlines()[-1])
                _count(end, tally)
                print(f"fleet {number}, release {count}: {end['outcome']}", file=sys.stderr)
                await _drained(serve, color)
        traffic.is_over.set()
        await flowing
        tally.turns += len(traffic.turns)
        tally.troubles += traffic.troubles()


def _count(end: Mapping[str, object], tally: Tally) -> None:
    steps = end["steps"]
    assert isinstance(steps, list)
    why = next((str(step["why"]) for step in steps if step["name"] == "bake"), "")
    outcome = str(end["outcome"]).replace("_", " ")
    if outcome != "settled":
        tally.whys.append(f"{outcome}: {end['why']}")
    tally.ends[f"{outcome}, undecided" if why.startswith("undecided") else outcome] += 1


async def _drained(serve: Proxy, active: str) -> None:
    """The colors that are not active are empty, so that the next release may be put there."""
    async with asyncio.timeout(DRAINED):
        while True:
            colors = (await serve.get("/v1/status"))["colors"]
            if all(one["phase"] in (None, "", "drained", "rejected") for name, one in colors.items() if name != active):
                return
            await asyncio.sleep(0.1)
