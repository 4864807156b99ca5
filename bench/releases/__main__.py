"""What becomes of bad releases, and of good ones.

python -m bench.releases                  # everything; writes the tables into bench/RELEASES.md, with date and machine
python -m bench.releases --only gates,bakes,good,simulated --dry     # these parts only; prints, and writes nothing
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import re
import sys
from pathlib import Path

from bench.releases import good, simulated, stopped
from bench.releases.world import Processes, agents
from bench.report import machine

FILE = Path(__file__).resolve().parents[1] / "RELEASES.md"
NOISE = 0.02  # seconds that a turn takes in the median
PARTS = ("gates", "bakes", "good", "simulated")


def main() -> int:
    """The command; its exit status is 1 where a good release was rolled back."""
    parser = argparse.ArgumentParser(prog="python -m bench.releases", description="Bad releases, and good ones.")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,…", help="of %(default)s")
    parser.add_argument("--dry", action="store_true", help="print the tables, and write nothing")
    options = parser.parse_args()
    parts = [part for part in options.only.split(",") if part]
    if unknown := set(parts) - {*PARTS}:
        parser.error(f"--only: there is no part {min(unknown)}; there are {', '.join(PARTS)}")
    alarms = 0
    for part in parts:
        text, found = asyncio.run(measured(part))
        alarms += found
        print(f"\n{text}\n")
        if not options.dry:
            FILE.write_text(spliced(FILE.read_text(), part, text))
    return 1 if alarms else 0


async def measured(part: str) -> tuple[str, int]:
    """A part's section, and how many good releases were rolled back."""
    if part == "simulated":
        text, alarms = simulated.tables()
    else:
        async with Processes() as processes:
            urls = await agents(processes, NOISE)
            alarms = 0
            if part == "gates":
                text = await stopped.by_gates(urls)
            elif part == "bakes":
                text = await stopped.by_bake(urls)
            else:
                text, alarms = await good.table_of_good_ones(urls)
    day = datetime.datetime.now(datetime.UTC).date()
    return f"{text}\n\nMeasured on {day}: {machine()}.", alarms


def spliced(text: str, part: str, results: str) -> str:
    """The file with a part's results replaced. Raises ValueError where it has no place for them."""
    begin, end = f"<!-- {part}: written by `python -m bench.releases`, not by hand -->", f"<!-- end of {part} -->"
    pattern = re.escape(begin) + r".*?" + re.escape(end)
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError(f"bench/RELEASES.md must hold the two lines {begin!r} and {end!r}")
    return re.sub(pattern, lambda _: f"{begin}\n\n{results.strip()}\n\n{end}", text, flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
