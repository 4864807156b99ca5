"""The judge itself on simulated windows: the same code that a node runs, looked at once a simulated second.

Simulated are the answers: their times are log-normal, one of a hundred takes ten times as long, and a stall makes all
answers of a second or two late, for the old release and the new one alike. A good release is like the old one; a bad
one has one fault more.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.report import table
from bgproxy.rules.gate import Verdict
from bgproxy.rules.judge import Judge
from bgproxy.rules.plan import Bake
from bgproxy.rules.window import LEAST, Times, Window

GOOD, BAD = 400, 20  # releases of each kind
SECONDS = 60  # of the bake, and of the baseline: the smallest plan's
PLAN = Bake(duration=float(SECONDS), max_error_rate=0.01, max_p95_ratio=1.5, min_samples=200)
STALL_EVERY = 45.0  # seconds, in the mean
NO_ERRORS, SOME, AT_THE_LIMIT = 0.0, 0.002, 0.01


@dataclass(frozen=True, slots=True)
class Agent:
    """How a release answers: so often per second, in the median so long, and so many of them are errors."""

    rate: float
    middle: float
    spread: float
    errors: float
    slower: float = 1.0

    def second(self, chance: random.Random, stalled: bool) -> Window:
        """What it answered in one second."""
        count = _arrived(chance, self.rate)
        parts: Counter[int] = Counter()
        for _ in range(count):
            took = chance.lognormvariate(0.0, self.spread) * self.middle * self.slower
            took *= 10.0 if chance.random() < 0.01 else 1.0
            parts[bisect_right(LEAST, took + (chance.uniform(0.5, 2.0) if stalled else 0.0)) - 1] += 1
        errors = sum(chance.random() < self.errors for _ in range(count))
        times = Times(parts)
        return Window(count, errors, times, times)


def _arrived(chance: random.Random, rate: float) -> int:
    """How many requests came in a second, where they come independently of one another."""
    count, passed = 0, chance.expovariate(rate)
    while passed < 1.0:
        count += 1
        passed += chance.expovariate(rate)
    return count


def stretch(agent: Agent, chance: random.Random) -> list[Window]:
    """A minute of answers, second by second."""
    stalled, seconds = 0, []
    for _ in range(SECONDS):
        if chance.random() < 1 / STALL_EVERY:
            stalled = chance.randint(1, 2)
        seconds.append(agent.second(chance, stalled > 0))
        stalled -= 1
    return seconds


def judged(old: Agent, new: Agent, chance: random.Random) -> tuple[Verdict, int, int]:
    """What the bake comes to, after how many seconds, and the answers that the new release gave until then."""
    judge, baseline, since = Judge(PLAN), Window(), Window()
    for one in stretch(old, chance):
        baseline = baseline.plus(one)
    verdict = Verdict.UNDECIDED
    for number, one in enumerate(stretch(new, chance), start=1):
        since = since.plus(one)
        verdict = judge.look(since, baseline, last=number == SECONDS).verdict
        if verdict is Verdict.FAIL:
            return verdict, number, since.answers
    return verdict, SECONDS, since.answers


def agent(chance: random.Random, errors: float, rate: float = 0.0) -> Agent:
    """Any agent: 5 to 100 turns a second, 20 ms to 3 s each."""
    rate = rate or 5.0 * 20.0 ** chance.random()
    return Agent(rate, 0.02 * 150.0 ** chance.random(), chance.uniform(0.3, 1.2), errors)


FAULTS: dict[str, Callable[[Agent], Agent]] = {
    "2 % errors": lambda one: Agent(one.rate, one.middle, one.spread, 0.02),
    "5 % errors": lambda one: Agent(one.rate, one.middle, one.spread, 0.05),
    "20 % errors": lambda one: Agent(one.rate, one.middle, one.spread, 0.2),
    "twice as slow": lambda one: Agent(one.rate, one.middle, one.spread, one.errors, 2.0),
    "4 times as slow": lambda one: Agent(one.rate, one.middle, one.spread, one.errors, 4.0),
}


def tables() -> tuple[str, int]:
    """Two tables, and how many good releases were rolled back."""
    rows, alarms = [], 0
    for errors, words in ((NO_ERRORS, "none"), (SOME, "0.2 %"), (AT_THE_LIMIT, "1 %, at the limit")):
        ends: Counter[Verdict] = Counter()
        for number in range(GOOD):
            chance = random.Random(f"good {errors} {number}")
            one = agent(chance, errors)
            ends[judged(one, one, chance)[0]] += 1
        alarms += ends[Verdict.FAIL] if errors < AT_THE_LIMIT else 0
        rows.append((words, str(GOOD), *(str(ends[verdict]) for verdict in (Verdict.FAIL, Verdict.UNDECIDED))))
    good = table(("errors of a good release", "releases", "rolled back", "undecided at the end"), rows)
    bad = table(("fault", "turns/s", "rolled back", "after (median)", "answers by then (median)"), [*_found()])
    return f"{good}\n\n{bad}", alarms


def _found() -> list[tuple[str, ...]]:
    rows = []
    for name, worse in FAULTS.items():
        for rate in (10.0, 50.0, 200.0):
            ends = []
            for number in range(BAD):
                chance = random.Random(f"bad {name} {rate} {number}")
                one = agent(chance, SOME / 2, rate)
                ends.append(judged(one, worse(one), chance))
            caught = [(seconds, answers) for verdict, seconds, answers in ends if verdict is Verdict.FAIL]
            when = f"{median(seconds for seconds, _ in caught):.0f} s" if caught else "-"
            cost = f"{median(answers for _, answers in caught):.0f}" if caught else "-"
            rows.append((name, f"{rate:g}", f"{len(caught)} of {BAD}", when, cost))
    return rows
