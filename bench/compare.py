"""CPU time per request, all contenders in one run.

    python -m bench.compare [--request turn|small] [--rounds 7] [--seconds 2] [--only nginx,bgproxy]

Moves requests with wrk; the figure is what the operating system charges the contender's processes, divided by the
requests that wrk saw answered.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.backends import start_echo
from bench.contenders import Backends, Contender, LineUp, line_up
from bench.options import Plan, add_common, plan_of
from bench.processes import Cores, Cpu, Stage, cpu
from bench.report import median, ratio, section, table

CONNECTIONS = 64
WARM_UP_SECONDS = 1
SCRIPT = Path(__file__).parent / "load" / "turn.lua"
TITLES = {
    "turn": "A turn: POST, 13 fields with Host, 1 KiB of JSON, answered with 200 bytes",
    "small": "A small GET, 2 fields, answered with 200 bytes",
}


@dataclass(frozen=True, slots=True)
class Round:
    """What one contender did in one round."""

    requests: int
    seconds: float
    failed: int
    p50: float  # seconds
    p99: float
    cpu: Cpu

    @property
    def micros(self) -> float:
        """CPU time per request in microseconds."""
        return self.cpu.total * 1e6 / self.requests if self.requests else float("nan")

    @property
    def user_micros(self) -> float:
        return self.cpu.user * 1e6 / self.requests if self.requests else float("nan")


def parse_totals(output: str) -> tuple[int, float, int, float, float]:
    """Requests, seconds, failures, p50 and p99 in seconds from the line that load/turn.lua writes.

    Raises ValueError where there is none.
    """
    for line in output.splitlines():
        if line.startswith("totals "):
            requests, micros, failed, p50, p99 = (int(word) for word in line.split()[1:])
            return requests, micros / 1e6, failed, p50 / 1e6, p99 / 1e6
    raise ValueError(f"bench: wrk wrote no totals: {output.strip()[-300:]!r}")


def _one_round(contender: Contender, request: str, seconds: int, core: int) -> Round:
    url = f"http://127.0.0.1:{contender.port}/v1/chat/completions"
    argv = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(SCRIPT), url]
    before = cpu(contender.running.pid)
    done = subprocess.run([*argv, "--", request], capture_output=True, text=True, check=False, timeout=seconds + 30)
    spent = cpu(contender.running.pid) - before
    requests, took, failed, p50, p99 = parse_totals(done.stdout + done.stderr)
    return Round(requests, took, failed, p50, p99, spent)


def measure(plan: Plan, request: str) -> tuple[LineUp, dict[str, list[Round]]]:
    """All rounds of all contenders, in turn."""
    for program in ("wrk", "nginx", "taskset"):
        if not shutil.which(program):
            raise SystemExit(f"bench: `{program}` makes the load of this figure and is not installed")
    with Stage() as stage:
        cores = Cores.of_this_machine()
        echo = start_echo(stage, cores)
        lined_up = line_up(stage, cores, Backends(echo, echo), plan.builds, only=plan.only)
        rounds: dict[str, list[Round]] = {each.name: [] for each in lined_up.contenders}
        for contender in lined_up.contenders:
            _one_round(contender, request, WARM_UP_SECONDS, cores.load)
        for _ in range(plan.rounds):
            for contender in lined_up.contenders:
                rounds[contender.name].append(_one_round(contender, request, plan.seconds, cores.load))
    return lined_up, rounds


def micros(rounds: dict[str, list[Round]]) -> dict[str, float]:
    """Median CPU microseconds per request by contender."""
    return {name: median(each.micros for each in held) for name, held in rounds.items()}


def report(request: str, rounds: dict[str, list[Round]]) -> str:
    """The table of one kind of request."""
    figures = micros(rounds)
    rows = [_row(name, held, ratio(figures, name)) for name, held in rounds.items()]
    head = ["contender", "µs CPU per request", "lowest-highest", "of which user", "÷ nginx"]
    head += ["requests/s", "p50 ms", "p99 ms", "failed"]
    return section(TITLES[request], table(head, rows))


def _row(name: str, held: Sequence[Round], over_base: str) -> list[str]:
    all_micros = [each.micros for each in held]
    return [
        name,
        f"{median(all_micros):.1f}",
        f"{min(all_micros):.1f}-{max(all_micros):.1f}",
        f"{median(each.user_micros for each in held):.1f}",
        over_base,
        f"{median(each.requests / each.seconds for each in held):,.0f}",
        f"{median(each.p50 for each in held) * 1e3:.2f}",
        f"{median(each.p99 for each in held) * 1e3:.2f}",
        str(sum(each.failed for each in held)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="CPU time per request, all contenders in one run.")
    parser.add_argument("--request", choices=sorted(TITLES), default="turn")
    add_common(parser)
    options = parser.parse_args(arguments)
    lined_up, rounds = measure(plan_of(options), options.request)
    print(report(options.request, rounds))
    for name, why in lined_up.left_out.items():
        print(f"left out: {name}: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
