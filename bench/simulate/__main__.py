"""Many worlds, or one that is told in full.

    python -m bench.simulate [--seeds 20000] [--first 0] [--seconds 300] [--jobs 2] [--fenced] [--replicated] [--calm]
    python -m bench.simulate --seed 4711 [--forgetful] [--near]      # this world again, each step of it

Exit code 1 if any world broke a guarantee or did not find itself again; each such seed is named. A seed is the same
story on every machine, as long as the code is the same: strings are hashed alike, for which the command starts anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import takewhile
from math import inf

from bench.history import LINEARIZABLE, RULES
from bench.simulate.play import Outcome, Plan, play

CHUNK = 50  # seeds that a process takes at once


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        faults=not options.calm,
        forgetful=options.forgetful,
        strategy=options.strategy,
        fenced=options.fenced,
        replicated=options.replicated,
        near=options.near,
    )
    if options.seed is not None:
        return tell(options.seed, plan)
    seeds = range(options.first, options.first + options.seeds)
    until = time.monotonic() + options.seconds
    with ProcessPoolExecutor(options.jobs) as pool:
        outcomes = pool.map(partial(play, plan=plan), seeds, chunksize=CHUNK)
        bad = summed(takewhile(lambda _: time.monotonic() < until, outcomes), plan)
        pool.shutdown(cancel_futures=True)
    return 1 if bad else 0


def tell(seed: int, plan: Plan) -> int:
    """One world, step by step."""
    outcome = play(seed, plan, print)
    print(outcome.told())
    return 1 if plan.blames(outcome) else 0


def summed(outcomes: Iterable[Outcome], plan: Plan) -> int:
    """Print what came of them; how many were bad."""
    began, worlds, requests, flips, at_once, bad = time.monotonic(), 0, 0, 0, 0, 0
    broken: Counter[int] = Counter()
    for outcome in outcomes:
        worlds += 1
        requests += outcome.verdict.requests
        flips += outcome.flips
        at_once += outcome.at_once
        broken += outcome.verdict.broken
        if plan.blames(outcome):
            bad += 1
            print(f"seed {outcome.seed}: {outcome.told()}", flush=True)
    speed = worlds / (time.monotonic() - began)
    print(f"{worlds} worlds ({speed:.0f} a second), {requests} requests, {flips} epochs")
    print(f"{at_once} flips by one commit, {bad} worlds went wrong")
    for rule, count in sorted(broken.items()):
        note = "; a swap does not promise that" if rule == LINEARIZABLE and plan.strategy == "swap" else ""
        print(f"rule {rule} ({RULES[rule]}) broken {count} times{note}")
    return bad


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20_000, help="how many worlds (20000)")
    parser.add_argument("--first", type=int, default=0, help="the first of their seeds (0)")
    parser.add_argument("--seconds", type=float, default=inf, help="begin no more after so many (none)")
    parser.add_argument("--seed", type=int, help="this world alone, told step by step")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (one per core)")
    parser.add_argument("--calm", action="store_true", help="nothing goes wrong but what is usual on a line")
    parser.add_argument("--forgetful", action="store_true", help="the store may come back empty")
    parser.add_argument("--fenced", action="store_true", help="nodes fence themselves, and flips leave them behind")
    parser.add_argument(
        "--replicated", action="store_true", help="a replica takes the store's place, without what came last"
    )
    parser.add_argument("--near", action="store_true", help="nodes are workers of one host, or of two")
    parser.add_argument("--strategy", default="auto", choices=["auto", "barrier", "swap"], help="how flips are made")
    return parser


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "bench.simulate", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
