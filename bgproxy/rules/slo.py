"""Whether many answers keep to their limits, and how many it takes to say so.

A limit is judged on enough samples only, else the verdict is UNDECIDED: a p99 of fifty answers is their worst one, and
an error rate of 1 % cannot be told from none by them. What can never be judged is found out when the plan is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Slo

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "first_byte": 0.95}
"""The quantile of each figure of times."""

_KINDS_TOLD = 8


def needed(name: str, limit: float) -> int:
    """The least number of samples that can tell whether the limit of that name is kept."""
    if name == "max_error_rate":
        return math.ceil(round(1 / limit, 6)) if limit else 1
    quantile = next((q for part, q in QUANTILES.items() if part in name), None)
    # So many that one of them may lie beyond the quantile. Rounded, as 1 - 0.99 is a little less than 0.01.
    return math.ceil(round(1 / (1 - quantile), 6)) if quantile is not None else 1


def samples_needed(limits: Iterable[tuple[str, float]]) -> int:
    """For all of these limits."""
    return max((needed(name, limit) for name, limit in limits), default=1)


def unjudgeable(limits: Iterable[tuple[str, float]], samples: float) -> Iterator[tuple[str, int]]:
    """The limits that so many samples cannot judge, each with the number that could."""
    return ((name, needed(name, limit)) for name, limit in limits if needed(name, limit) > samples)


@dataclass(frozen=True, slots=True)
class Samples:
    """What came of many requests. `latency` and `first_byte` in seconds, of whole answers only."""

    latency: Sequence[float] = ()
    first_byte: Sequence[float] = ()
    errors: int = 0
    seconds: float = 0.0  # for which it was asked
    kinds: Mapping[str, int] = field(default_factory=dict)  # of errors

    @property
    def count(self) -> int:
        """Answers and errors."""
        return len(self.latency) + self.errors

    def figures(self) -> dict[str, float]:
        """What limits are about, by name; times only where there was an answer."""
        answers = len(self.latency)
        found: dict[str, float] = {"samples": self.count, "errors": self.errors}
        found["error_rate"] = round(self.errors / self.count, 6) if self.count else 0.0
        found["throughput"] = round(answers / self.seconds, 3) if self.seconds else 0.0
        if answers:
            times, first = sorted(self.latency), sorted(self.first_byte)
            found |= {name: round(quantile(times, q), 6) for name, q in QUANTILES.items() if name != "first_byte"}
            found["first_byte"] = round(quantile(first, QUANTILES["first_byte"]), 6) if first else 0.0
        return found


def quantile(ordered: Sequence[float], q: float) -> float:
    """The smallest sample that a share `q` of all does not exceed."""
    return ordered[max(0, math.ceil(round(q * len(ordered), 6)) - 1)]


def judge(slo: Slo, new: Samples, old: Samples | None = None, least: int = 0) -> Finding:
    """The verdict on what the new release did. `old`: what the active one did under the same load; `least`: samples.

    FAIL if one limit is broken by samples enough for it, whatever the others say; PASS if all are kept.
    """
    figures = new.figures()  # once, as times are sorted for them
    before = old.figures() if old is not None else None
    broken: list[str] = []
    unknown: list[str] = []
    for name, limit in slo.limits():
        verdict, why = _limit(name, limit, figures, before)
        if verdict is not Verdict.PASS:
            (broken if verdict is Verdict.FAIL else unknown).append(why)
    if new.count < max(least, 1):
        unknown.append(f"{new.count} samples came together, {max(least, 1)} are needed")
    evidence: dict[str, Any] = {"new": figures}
    if before is not None:
        evidence["old"] = before
    if new.kinds:
        most = sorted(new.kinds.items(), key=lambda item: -item[1])
        evidence["errors"] = dict(most[:_KINDS_TOLD])
    if broken:
        kinds = f" (most: {next(iter(evidence['errors']))})" if new.kinds else ""
        return Finding(Verdict.FAIL, "; ".join(broken) + kinds, evidence)
    if unknown:
        return Finding(Verdict.UNDECIDED, "; ".join(unknown), evidence)
    told = ", ".join(f"{name} {figures[name]:.4g}" for name in ("samples", "error_rate", "p95") if name in figures)
    return Finding(Verdict.PASS, told, evidence)


def _limit(name: str, limit: float, new: Mapping[str, float], old: Mapping[str, float] | None) -> tuple[Verdict, str]:
    """One limit by itself. `new`, `old`: figures."""
    what = name.removeprefix("max_").removeprefix("min_")
    if name == "max_error_rate":
        # More errors than all the samples that are needed may have: those that are missing would not change it.
        if new["errors"] > limit * max(new["samples"], needed(name, limit)):
            return Verdict.FAIL, f"the error rate is {new['errors'] / new['samples']:.4g}, the limit is {limit:g}"
        return _enough(name, limit, new["samples"])
    figure = what.removesuffix("_ratio")
    if not _answers(new):
        return Verdict.FAIL, f"{figure}: no request was answered"
    value = new[figure]
    if name.endswith("_ratio"):
        if old is None or not _answers(old):
            return Verdict.UNDECIDED, f"{name}: there is nothing to compare with, the active color did not answer"
        few = _enough(name, limit, min(_answers(new), _answers(old)))
        base = old[figure]
        value = value / base if base else (1.0 if not value else math.inf)
        unit = f" times the active color's ({base:.4g})"
    else:
        few, unit = _enough(name, limit, _answers(new)), ""
    if few[0] is not Verdict.PASS:
        return few
    if value > limit if name.startswith("max_") else value < limit:
        return Verdict.FAIL, f"{figure} is {value:.4g}{unit}, the limit is {limit:g}"
    return Verdict.PASS, ""


def _answers(figures: Mapping[str, float]) -> float:
    return figures["samples"] - figures["errors"]


def _enough(name: str, limit: float, samples: float) -> tuple[Verdict, str]:
    wanted = needed(name, limit)
    if samples >= wanted:
        return Verdict.PASS, ""
    return Verdict.UNDECIDED, f"{name}: {samples} samples cannot tell, {wanted} are needed"
