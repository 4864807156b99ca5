"""Runs the whole bench and writes its tables into README.md.

    python -m bench [--quick] [--bgproxy NAME=WHERE] [--only NAME,…]

The exit code is 1 if bgproxy did not run, or lost anything; a figure beyond its limit is said in the table, for on a
shared machine one run is no proof.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import compare, flip, pins, session, stream
from bench.backends import ROOT, start_agent
from bench.contenders import Backends, Build, LineUp, line_up
from bench.options import Plan, add_common, plan_of
from bench.processes import Cores, Stage
from bench.report import BASE, machine, median, section, splice, table

README = Path(__file__).parent / "README.md"
LOCUST_USERS = 40
THINK_MS = 8.0  # about 7,000 requests a second of 64 connections: every contender is busy, none is at its end


@dataclass(slots=True)
class Results:
    """What the parts have found so far."""

    sections: list[str] = field(default_factory=list)
    limits: list[list[str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    event_micros: dict[str, float] = field(default_factory=dict)  # CPU for each event of a stream

    def add(self, lined_up: LineUp, text: str) -> None:
        """Keep a part's table, and show it at once: the whole takes minutes."""
        self.versions |= lined_up.versions()
        self.left_out |= lined_up.left_out
        self.sections.append(text)
        print(text, end="\n\n", flush=True)

    def limit(self, build: str, what: str, figure: float, limit: float, unit: str = "") -> None:
        """Set a figure against what the project asks of itself; NaN, no figure, is never within."""
        verdict = "within" if figure <= limit else "**beyond**"
        self.limits.append([build, what, f"{figure:.4g}{unit}", f"{limit:g}{unit}", verdict])


def _requests(plan: Plan, results: Results) -> None:
    for request in ("turn", "small"):
        lined_up, rounds = compare.measure(plan, request)
        results.add(lined_up, compare.report(request, rounds))
        if request == "turn":
            _limit_ratio(plan, results, compare.micros(rounds), "CPU per request ÷ nginx", 1.5)
        failed = {name: sum(each.failed for each in held) for name, held in rounds.items()}
        results.lost += [f"{each.name}: {request}" for each in plan.builds if failed.get(each.name)]


def _limit_ratio(plan: Plan, results: Results, figures: dict[str, float], what: str, limit: float) -> None:
    for build in plan.builds:
        if build.name in figures:
            results.limit(build.name, what, figures[build.name] / figures.get(BASE, float("nan")), limit)


def _streams(plan: Plan, results: Results) -> None:
    found = stream.measure(plan)
    results.add(found.lined_up, stream.report(plan, found))
    results.event_micros = stream.micros(found)
    _limit_ratio(plan, results, results.event_micros, "CPU per SSE event ÷ nginx", 1.2)
    for build in plan.builds:
        if build.name in found.rounds:
            results.limit(build.name, "memory per silent stream", found.silent_kib[build.name], 16, " KiB")
            results.limit(build.name, "memory per flowing stream", found.flowing_kib[build.name], 16, " KiB")
            results.lost += [f"{build.name}: streams"] if found.lost[build.name] else []


def _sessions(plan: Plan, results: Results) -> None:
    """What knowing sessions costs, on the data path and where their pins are kept. Behind `_streams`."""
    found = {each.name: session.measure(each) for each in plan.builds if not plan.only or each.name in plan.only}
    results.add(LineUp(), session.report(found))
    for build, costs in found.items():
        none, usual = costs["none"], costs["usual"]
        results.limit(build, "known session, more than an unpinned request", usual["known"] - none["known"], 3, " µs")
        learner = (usual["event"] - none["event"]) / results.event_micros.get(build, float("nan")) * 100
        results.limit(build, "learner, of a stream's event", learner, 10, " %")
    kept = pins.measure(plan.pins)
    if kept is None:
        results.left_out["pins"] = "no redis-server (`apt-get install redis-server`)"
        return
    results.add(LineUp(), pins.report(kept))
    results.limit("bgproxy", "bytes in Redis for each pin", kept.redis_bytes, 300)
    results.limit("bgproxy", "round trips of a new session's first request", kept.first_trips, 1)
    results.limit("bgproxy", "round trips of a known session's request", kept.known_trips, 0)


def _flips(plan: Plan, results: Results) -> None:
    for think_ms in (0.0, THINK_MS):
        paced = replace(plan, think_ms=think_ms)
        lined_up, found = flip.measure(paced)
        results.add(lined_up, flip.report(paced, found))
        load = f"{think_ms:g} ms between requests" if think_ms else "closed loop"
        for build in plan.builds:
            if build.name in found:
                limit_flips(results, build.name, found[build.name], load)


def limit_flips(results: Results, build: str, seen: flip.Result, load: str) -> None:
    """Set what one build's clients saw under `load` against the limits, and keep what it lost."""
    results.limit(build, f"failed requests in all flips, {load}", seen.failed, 0)
    results.limit(build, f"first answer of the new side, median, {load}", median(seen.first_new_ms()), 5, " ms")
    results.limit(build, f"first answer of the new side, slowest, {load}", max(seen.first_new_ms()), 5, " ms")
    results.limit(build, f"sent after the return, answered by the old side, {load}", seen.old_sent_after, 0)
    if seen.failed or seen.executed_twice or seen.old_sent_after:
        results.lost.append(f"{build}: flips, {load}")


def _locust(plan: Plan, results: Results) -> None:
    if importlib.util.find_spec("locust") is None:
        results.left_out["locust"] = "not installed (`pip install bgproxy[bench]`)"
        return
    rows = []
    for build in plan.builds:
        if plan.only and build.name not in plan.only:
            continue
        with Stage() as stage:
            lined_up, row = _locust_one(stage, plan, build)
        results.left_out |= lined_up.left_out
        if row:
            rows.append(row)
            results.limit(build.name, "lost under locust", float(row[3]), 0)
            results.lost += [f"{build.name}: locust"] if row[3] != "0" or row[2] == "0" else []
    title = f"Locust: {LOCUST_USERS} users, {plan.locust_seconds} s, a flip every 3 s"
    results.add(LineUp(), section(title, table(["build", "requests", "flips", "lost"], rows)))


def _locust_one(stage: Stage, plan: Plan, build: Build) -> tuple[LineUp, list[str]]:
    """Run the scenario against one build; a row of the table, empty where the build did not start."""
    cores = Cores.of_this_machine()
    backends = Backends(start_agent(stage, cores, "blue"), start_agent(stage, cores, "green"))
    lined_up = line_up(stage, cores, backends, [build], only=[build.name], flippable=True)
    if not lined_up.contenders:
        return lined_up, []
    contender = lined_up.contenders[0]
    argv = [sys.executable, "-m", "locust", "-f", "bench/locustfile.py", "--headless", "--only-summary"]
    argv += ["-u", str(LOCUST_USERS), "-r", str(LOCUST_USERS), "-t", f"{plan.locust_seconds}s"]
    argv += ["--stop-timeout", "10", "--host", f"http://127.0.0.1:{contender.port}"]
    environment = {**os.environ, "BGPROXY_ADMIN": f"http://127.0.0.1:{contender.admin_port}"}
    limit = plan.locust_seconds + 60
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=limit)
    said = re.search(r"locust: (\d+) requests, (\d+) flips, (\d+) lost", done.stdout)
    if said is None:
        raise RuntimeError(f"bench: locust did not come to its end: {(done.stdout + done.stderr)[-800:]}")
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
    return lined_up, [build.name, *said.groups()]


def compose(results: Results, command: str) -> str:
    """The text between the README's markers."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    about = [f"- Made on {today} by `{command}`.", f"- Machine: {machine()}.", f"- Versions: {versions}."]
    about += [f"- Left out: {name} ({why})." for name, why in results.left_out.items()]
    parts = ["\n".join(about)]
    if results.limits:
        limits = table(["build", "what", "measured", "limit", "verdict"], results.limits)
        parts.append(section("Against the project's limits", limits))
    return "\n\n".join(parts + results.sections)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run the whole bench.")
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="put the tables into bench/README.md (done unless --quick is given)",
    )
    add_common(parser)
    options = parser.parse_args(arguments)
    plan = plan_of(options)
    results = Results()
    for part in (_requests, _streams, _sessions, _flips, _locust):
        part(plan, results)
    given = sys.argv[1:] if arguments is None else arguments
    text = compose(results, shlex.join(["python", "-m", "bench", *given]))
    print(text)
    if options.write if options.write is not None else not options.quick:
        README.write_text(splice(README.read_text(), text))
    for what in results.lost:
        print(f"bench: lost or wrong: {what}", file=sys.stderr)
    missing = [each.name for each in plan.builds if each.name in results.left_out]
    return 1 if results.lost or missing else 0


if __name__ == "__main__":
    sys.exit(main())
