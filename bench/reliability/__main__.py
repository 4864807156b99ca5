"""Thousands of flips under faults, and the table of what both sides saw.

    python -m bench.reliability                       # all faults, about 40 minutes; writes RELIABILITY.md
    python -m bench.reliability --quick               # one of each kind, about five minutes; writes nothing
    python -m bench.reliability --only kill_workers,slow_store --seconds 10 --write

Exit code 1 if a guarantee was broken, a fleet did not find itself again, or a fault was not played to its end. It needs
a redis-server and two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench.reliability import faults
from bench.reliability.namespaces import why_not
from bench.reliability.stage import Fault, Seen, Size, see, told
from bench.reliability.stores import DidNotStart
from bench.reliability.table import HEAD, row, title, written
from bench.report import machine, table

PAGE = Path(__file__).resolve().parents[1] / "RELIABILITY.md"
FENCED: dict[str, object] = {"store": "node_ttl = 4.0\nfence_after = 4.5"}
TWO_HOSTS: dict[str, object] = {"hosts": 2, "workers": 2}
ADMITS: dict[str, object] = {"outage": "admit"}  # the default of a configuration
REFUSES: dict[str, object] = {"outage": "refuse"}
GOES: dict[str, object] = {"pause": 0.25, "conversing": 32, "asking": 20, "turns": 60, "rest": 0.4}
FOLLOWS: dict[str, object] = {**GOES, "policy": "follow"}
MOVES: dict[str, object] = {**GOES, "on_rollback": "move"}
PAIR: dict[str, object] = {"servers": "pair"}
CLUSTER: dict[str, object] = {"servers": "cluster"}
REPLICATED: dict[str, object] = {"store": "min_replicas = 1"}

CASES: dict[str, tuple[Fault, dict[str, object], float]] = {
    # the fault, what is different of its stage, how many times as long as the others it takes
    "nothing": (faults.nothing, {}, 0.5),
    "nothing_two_hosts": (faults.nothing, TWO_HOSTS, 0.5),
    "kill_workers": (faults.kill_workers, {}, 1),
    "kill_coordinators": (faults.kill_coordinators, {}, 1),
    "kill_at_the_commit": (faults.kill_at_the_commit, {}, 0.5),
    "kill_at_each_step": (faults.kill_at_each_step, TWO_HOSTS, 1),
    "stop_workers_shortly": (faults.stop_workers_shortly, {}, 1),
    "stop_workers_long": (faults.stop_workers_long, {}, 1),
    "stop_workers_fenced": (faults.stop_workers_very_long, {**TWO_HOSTS, **FENCED}, 1),
    "kill_redis": (faults.kill_redis, ADMITS, 1),
    "kill_redis_refuse": (faults.kill_redis, {**TWO_HOSTS, **REFUSES}, 1),
    "empty_redis": (faults.empty_redis, ADMITS, 1),
    "fail_over": (faults.fail_over, {**ADMITS, **PAIR}, 1.5),
    "stop_redis": (faults.stop_redis, ADMITS, 1),
    "slow_store": (faults.slow_store, TWO_HOSTS, 1),
    "cut_off_all": (faults.cut_off_all, ADMITS, 1),
    "cut_off_one": (faults.cut_off_one, {**TWO_HOSTS, **ADMITS}, 1),
    "cut_off_one_refuse": (faults.cut_off_one, {**TWO_HOSTS, **REFUSES}, 1),
    "cut_off_one_fenced": (faults.cut_off_one, {**TWO_HOSTS, **FENCED, **ADMITS}, 1.5),
    "pull_cable": (faults.pull_cable, {**TWO_HOSTS, **ADMITS, "namespaces": True}, 1.5),
    "pull_cable_fenced": (faults.pull_cable, {**TWO_HOSTS, **FENCED, **ADMITS, "namespaces": True}, 1.5),
    "lose_bells": (faults.lose_bells, TWO_HOSTS, 1),
    "reset_lines": (faults.reset_lines, ADMITS, 1),
    "reset_lines_refuse": (faults.reset_lines, {**TWO_HOSTS, **REFUSES}, 1),
    "everything": (faults.everything, ADMITS, 1.5),
    "everything_refuse": (faults.everything, {**TWO_HOSTS, **REFUSES}, 1.5),
    "replicas_fail_over": (faults.fail_over, {**TWO_HOSTS, **ADMITS, **PAIR, **REPLICATED}, 1.5),
    "replicas_kill": (faults.kill_replica, {**PAIR, **REPLICATED}, 1),
    "replicas_stop": (faults.stop_replica, {**PAIR, **REPLICATED}, 1),
    "cluster": (faults.lose_master, {**ADMITS, **CLUSTER}, 0.5),
    "cluster_ahead": (faults.lose_master_ahead, {**TWO_HOSTS, **ADMITS, **CLUSTER}, 0.5),
    "cluster_replicas": (faults.lose_master, {**ADMITS, **CLUSTER, **REPLICATED}, 0.5),
    "follow": (faults.nothing, FOLLOWS, 0.5),
    "follow_kill_workers": (faults.kill_workers, FOLLOWS, 0.5),
    "follow_kill_at_each_step": (faults.kill_at_each_step, {**TWO_HOSTS, **FOLLOWS}, 1),
    "follow_stop_workers": (faults.stop_workers_shortly, FOLLOWS, 0.5),
    "follow_kill_redis": (faults.kill_redis, {**FOLLOWS, **ADMITS}, 0.5),
    "follow_kill_redis_refuse": (faults.kill_redis, {**TWO_HOSTS, **FOLLOWS, **REFUSES}, 1),
    "follow_slow_store": (faults.slow_store, {**TWO_HOSTS, **FOLLOWS}, 1),
    "follow_cut_off_one": (faults.cut_off_one, {**TWO_HOSTS, **FOLLOWS, **REFUSES}, 1),
    "follow_cut_off_one_fenced": (faults.cut_off_one, {**TWO_HOSTS, **FENCED, **FOLLOWS, **REFUSES}, 1.5),
    "follow_reset_lines": (faults.reset_lines, {**FOLLOWS, **REFUSES}, 0.5),
    "follow_lose_bells": (faults.lose_bells, {**TWO_HOSTS, **FOLLOWS}, 0.5),
    "move": (faults.nothing, MOVES, 0.5),
    "move_kill_workers": (faults.kill_workers, MOVES, 0.5),
    "move_kill_at_each_step": (faults.kill_at_each_step, {**TWO_HOSTS, **MOVES}, 0.5),
    "move_lose_bells": (faults.lose_bells, {**TWO_HOSTS, **MOVES}, 0.5),
    "move_cut_off_all": (faults.cut_off_all, {**MOVES, **REFUSES}, 0.5),
}
QUICK = (
    "kill_workers,kill_at_the_commit,kill_at_each_step,stop_workers_shortly,kill_redis_refuse,empty_redis,fail_over,slow_store,"
    "cut_off_one_refuse,lose_bells,reset_lines_refuse,replicas_kill,cluster,follow_kill_redis_refuse,move_cut_off_all,"
    "everything"
)
"""One of each kind, the stricter one where there are two."""


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.reliability", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each fault (40: 40 minutes in all; quick: 4)")
    parser.add_argument("--quick", action="store_true", help="one fault of each kind, shortly: about five minutes")
    parser.add_argument("--write", action="store_true", help="into RELIABILITY.md too where it is not all of them")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the bgproxy to be tried")
    options = parser.parse_args()
    names = [name for name in (options.only or (QUICK if options.quick else "")).split(",") if name] or list(CASES)
    if unknown := sorted(set(names) - CASES.keys()):
        raise SystemExit(f"bench.reliability: there is no {unknown[0]!r}; there are {', '.join(CASES)}")
    seconds = options.seconds or (4.0 if options.quick else 40.0)
    seen: dict[str, Seen] = {}
    rows, played = [], 0
    for name in names:
        fault, different, longer = CASES[name]
        if different.get("namespaces") and (why := why_not()):
            print(f"== {name}: skipped, as there are no network namespaces here: {why}\n", flush=True)
            continue
        size = Size(python=options.python, **different)  # type: ignore[arg-type]
        began, played = time.monotonic(), played + 1
        try:
            seen[name] = uvloop.run(see(fault, size, seconds * longer))
        except (DidNotStart, OSError, EOFError, TimeoutError) as error:  # the others are played all the same
            print(f"== {name}: NOT PLAYED to its end: {type(error).__name__}: {error}\n", flush=True)
            continue
        rows.append(row(fault, different, seen[name]))
        well = "well" if seen[name].went_well else "NOT WELL"
        print(f"== {name}: {well}, after {time.monotonic() - began:.0f} s\n{told(seen[name])}\n", flush=True)
        if options.write or len(names) == len(CASES):
            date = datetime.now(UTC).strftime("%Y-%m-%d")
            titles = [title(fault, different) for fault, different, _ in CASES.values()]
            PAGE.write_text(written(PAGE.read_text(), rows, titles, machine(), date))
    print(table(HEAD, rows))
    return 0 if len(rows) == played and all(one.went_well for one in seen.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
