"""How much is run, and of whom: the options that all parts of the bench share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from bench.contenders import Build


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure what. The counts are the method's; `--quick` makes them small, for a look at the tables."""

    rounds: int = 7
    seconds: int = 2
    flips: int = 20
    think_ms: float = 0.0  # between an answer and its client's next request, under flips; 0 is a closed loop
    streams: int = 400  # open at once, each with 50 events a second
    idle_streams: int = 1000  # for the memory of an open stream
    pins: int = 1_000_000  # sessions that are pinned in a real Redis
    locust_seconds: int = 30
    builds: tuple[Build, ...] = ()
    only: tuple[str, ...] = ()


QUICK = {"rounds": 3, "seconds": 1, "flips": 5, "idle_streams": 300, "pins": 50_000, "locust_seconds": 10}


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that `plan_of` reads."""
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; figures for a look only")
    parser.add_argument("--rounds", type=int, help="how often each contender has its turn (7)")
    parser.add_argument("--seconds", type=int, help="how long a turn is (2)")
    parser.add_argument("--flips", type=int, help="how often each contender flips (20)")
    parser.add_argument("--only", default="", metavar="NAME,…", help="these contenders only")
    parser.add_argument(
        "--bgproxy",
        action="append",
        default=[],
        metavar="NAME=WHERE",
        help="one more build of bgproxy: WHERE is an interpreter that has it or a directory that holds the package",
    )


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for. Raises SystemExit for a build that cannot be found."""
    counts: dict[str, int] = dict(QUICK) if options.quick else {}
    for name in ("rounds", "seconds", "flips"):
        if (given := getattr(options, name)) is not None:
            counts[name] = given
    try:
        builds = (Build.of_this_checkout(), *(Build.parse(text) for text in options.bgproxy))
    except ValueError as why:
        raise SystemExit(f"bench: {why}") from None
    only = tuple(name for name in options.only.split(",") if name)
    return Plan(builds=builds, only=only, **counts)
