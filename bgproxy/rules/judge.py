"""Whether a release keeps to its limits, judged on its live answers again and again, without crying wolf.

Each limit is a share of *bad* answers that may be: errors by `max_error_rate`; by a limit on p95, answers that took
longer than it, of which there may be 5 %. A ratio becomes a time first: so many times the old release's percentile, by
an upper bound for it (an order statistic), so that a short baseline accuses nobody.

Looked at once a second, a test that is right 95 times of 100 would be wrong in nearly every bake. So what is added up
is evidence that holds however often it is looked at: the likelihood of what came under worse shares, against the share
that may be (a mixture of likelihood ratios; it is a supermartingale where the limit is kept, so by Ville's inequality
it ever reaches 1/alpha with a probability of alpha at most). It is added up from the beginning, and anew from each of
some later looks, or an hour of good answers would hide a minute of bad ones. At the end an exact binomial test takes
the rest of alpha. Answers are not independent: one stall is many slow answers. So times, and errors of late, must be
bad in several seconds to count, of one second no more than `MOST_OF_A_LOOK` has, and a ratio from a difference of
`LEAST_DIFFERENCE` on.

Fewer than `min_samples` answers decide only what the missing ones could not change: 3 errors where 2 of 200 may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, exp, inf, isinf, lgamma, log, log1p
from typing import Any, Final

from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import Bake
from bgproxy.rules.slo import QUANTILES, needed
from bgproxy.rules.window import Times, Window

LEAST_DIFFERENCE: Final = 0.01
"""Seconds: a percentile that is worse by less than that is a busy machine, not a release."""

BAD_LOOKS: Final = 3  # in which bad answers must have come
MOST_OF_A_LOOK: Final = 2.0
"""So many times the share that may be late counts of one look. A stall of a second or two, in which every answer is
late, is what good releases have too; of one that is slow for good each look is bad, and it is found hardly later.
"""

_STARTS: Final = 32  # at most, from which evidence is added up anew
_WORSE: Final = (1.5, 2.0, 3.0, 6.0, 20.0, 100.0)  # times the odds of a bad answer that may be
_FIGURES: Final = ("p50", "p95", "p99", "first_byte")


@dataclass(frozen=True, slots=True)
class Judgement:
    """As of one look. FAIL: a limit is broken, beyond doubt; UNDECIDED: as many of `unknown` cannot be told yet."""

    verdict: Verdict
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Start:
    """A look from which evidence is added up: what had come by then."""

    count: int = 0
    weighed: int = 0
    bad_looks: int = 0


@dataclass(slots=True)
class _Limit:
    """One limit, and what was seen of it."""

    name: str
    limit: float
    allowed: float  # the share of bad answers that may be
    threshold: float = inf  # seconds, for times
    standard: str = ""  # in words, where it is made of a baseline
    starts: list[_Start] = field(default_factory=lambda: [_Start()])
    count: int = 0
    bad: int = 0
    weighed: int = 0  # of the bad ones, those that count
    bad_looks: int = 0

    @property
    def figure(self) -> str:
        """What of."""
        return self.name.removeprefix("max_").removesuffix("_ratio")

    @property
    def is_of_times(self) -> bool:
        return self.figure != "error_rate"

    def take(self, new: Window) -> None:
        """Look at what has come by now."""
        count, bad = new.answers, min(new.errors, new.answers)
        if self.is_of_times:
            times = times_of(self.figure, new)
            count, bad = times.count, times.above(self.threshold)
        came, worse = count - self.count, bad - self.bad
        self.weighed += min(worse, ceil(MOST_OF_A_LOOK * self.allowed * came)) if self.is_of_times else worse
        self.bad_looks += worse > 0
        self.count, self.bad = count, bad

    def told(self) -> str:
        """In words, with the numbers."""
        if not self.is_of_times:
            return f"error rate {self.bad / max(1, self.count):.4g} ({self.bad} of {self.count}), limit {self.limit:g}"
        which = self.standard or f"limit {self.limit:g} s"
        return (
            f"{self.figure}: {self.bad} of {self.count} answers took longer than {self.threshold:.4g} s, "
            f"{self.allowed:.2g} of them may; {which}"
        )


class Judge:
    """Judges one release by one bake's limits; `look` is called about once a second with all that came since the flip.

    Pure: it knows no time but the number of looks.
    """

    def __init__(self, bake: Bake) -> None:
        self._bake = bake
        self._limits = [_Limit(name, limit, _allowed(name, limit), limit) for name, limit in bake.limits()]
        self._alpha = (1.0 - bake.confidence) / max(1, len(self._limits))
        self._every = max(1, ceil(bake.duration / _STARTS))  # looks
        self._looks = 0
        self._baseline: Window | None = None

    def look(self, new: Window, old: Window, *, last: bool = False) -> Judgement:
        """The judgement as of now. `old`: the old release's baseline; `last`: no further look is to come."""
        self._compare(old)
        broken = []
        for limit in self._limits:
            limit.take(new)
            if self._is_broken(limit, new.answers) or (last and self._is_broken_in_the_end(limit, new.answers)):
                broken.append(limit)
        self._begin_anew()
        unknown = [*self._unknown(new)]
        evidence: dict[str, Any] = {"new": figures(new), "old": figures(old)}
        evidence["limits"] = {one.name: {"samples": one.count, "bad": one.bad} for one in self._limits}
        if broken:
            return Judgement(Verdict.FAIL, "; ".join(limit.told() for limit in broken), evidence)
        if unknown:
            return Judgement(Verdict.UNDECIDED, "; ".join(unknown), evidence)
        return Judgement(Verdict.PASS, f"{new.answers} answers, {new.errors} errors: every limit is kept", evidence)

    def _compare(self, old: Window) -> None:
        """Make times of ratios. A baseline that has grown, as nodes told late, makes the evidence so far void."""
        if old == self._baseline:
            return
        self._baseline = old
        for limit in self._limits:
            if not limit.name.endswith("_ratio"):
                continue
            bound = bound_of(times_of(limit.figure, old), QUANTILES[limit.figure], self._alpha / 4)
            limit.threshold = max(limit.limit * bound, bound + LEAST_DIFFERENCE)
            limit.standard = f"limit {limit.limit:g} times the old release's, which is {bound:.4g} s at most"
            limit.starts, limit.count, limit.bad, limit.weighed, limit.bad_looks = [_Start()], 0, 0, 0, 0

    def _is_broken(self, limit: _Limit, answers: int) -> bool:
        if not self._is_enough(limit, answers):
            return False
        least = log(2 / self._alpha)  # half of alpha is for these looks
        for start in limit.starts:
            is_first = start is limit.starts[0]
            looks = limit.bad_looks - start.bad_looks
            if looks < (1 if is_first and not limit.is_of_times else BAD_LOOKS):
                continue
            weight = log(2.0) if is_first else log(2.0 * _STARTS)
            if evidence_of(limit.count - start.count, limit.weighed - start.weighed, limit.allowed) >= least + weight:
                return True
        return False

    def _is_broken_in_the_end(self, limit: _Limit, answers: int) -> bool:
        if limit.is_of_times and limit.bad_looks < BAD_LOOKS:
            return False
        if limit.count < needed(limit.name, limit.limit) or not self._is_enough(limit, answers):
            return False
        return tail(limit.count, limit.allowed, limit.weighed) <= self._alpha / 4

    def _is_enough(self, limit: _Limit, answers: int) -> bool:
        """Whether so many answers decide, or those that are missing could not change it."""
        least = self._bake.min_samples
        return answers >= least or limit.weighed > limit.allowed * max(limit.count, least)

    def _begin_anew(self) -> None:
        self._looks += 1
        if self._looks % self._every:
            return
        for limit in self._limits:
            if len(limit.starts) <= _STARTS:
                limit.starts.append(_Start(limit.count, limit.weighed, limit.bad_looks))

    def _unknown(self, new: Window) -> Iterator[str]:
        """What cannot be told."""
        if self._limits and new.answers < self._bake.min_samples:
            yield f"{new.answers} answers came, {self._bake.min_samples} are needed"
        for limit in self._limits:
            if isinf(limit.threshold) and limit.name.endswith("_ratio"):
                had = times_of(limit.figure, self._baseline).count if self._baseline is not None else 0
                least = ceil(log(self._alpha / 4) / log(QUANTILES[limit.figure]))  # from which `bound_of` is finite
                yield (
                    f"{limit.name}: the old release gave too few answers before the flip to compare with: {had}, "
                    f"{least} are needed"
                )
            elif limit.count < (wanted := needed(limit.name, limit.limit)):
                yield f"{limit.name}: {limit.count} samples cannot tell, {wanted} are needed"
            elif limit.weighed > limit.allowed * limit.count:
                yield f"{limit.told()}; that may be chance"


def figures(window: Window) -> dict[str, float]:
    """What a window comes to, by name; times only where there are any."""
    found: dict[str, float] = {"answers": window.answers, "errors": window.errors}
    found["error_rate"] = round(window.errors / window.answers, 6) if window.answers else 0.0
    for name in _FIGURES:
        if (times := times_of(name, window)).count:
            found[name] = round(times.quantile(QUANTILES[name]), 6)
    return found


def times_of(figure: str, window: Window) -> Times:
    """The durations that a figure is about."""
    return window.first_byte if figure == "first_byte" else window.latency


def _allowed(name: str, limit: float) -> float:
    if name == "max_error_rate":
        return limit
    return round(1.0 - QUANTILES[name.removeprefix("max_").removesuffix("_ratio")], 6)


def evidence_of(count: int, bad: int, allowed: float) -> float:
    """The natural logarithm of the evidence that more than `allowed` of all answers are bad."""
    if not bad or allowed >= 1.0:
        return -inf
    if allowed <= 0.0:
        return inf
    terms = []
    for times in _WORSE:
        odds = times * allowed / (1.0 - allowed)
        worse = odds / (1.0 + odds)
        terms.append(bad * log(worse / allowed) + (count - bad) * (log1p(-worse) - log1p(-allowed)))
    most = max(terms)
    return most + log(sum(exp(term - most) for term in terms) / len(terms))


def tail(count: int, share: float, least: int) -> float:
    """The probability that of so many answers `least` or more are bad, where each is with probability `share`."""
    if least <= 0:
        return 1.0
    if least > count or share <= 0.0:
        return 0.0
    if share >= 1.0:
        return 1.0
    if least <= count * share:  # the shorter side
        return 1.0 - _summed(count, 1.0 - share, count - least + 1)
    return _summed(count, share, least)


def _summed(count: int, share: float, least: int) -> float:
    """The tail from beyond the mean on, where its terms only fall."""
    if least > count:
        return 0.0
    odds = share / (1.0 - share)
    first = lgamma(count + 1) - lgamma(least + 1) - lgamma(count - least + 1)
    term = exp(first + least * log(share) + (count - least) * log1p(-share))
    found = 0.0
    for bad in range(least, count + 1):
        found += term
        term *= odds * (count - bad) / (bad + 1)
        if term < found * 1e-12:
            break
    return min(1.0, found)


def bound_of(times: Times, quantile: float, alpha: float) -> float:
    """What the quantile lies above with a probability of `alpha` at most, in seconds; infinite where there are too few.

    The quantile is above the one of rank r with the probability that r or more of all are below it.
    """
    count = times.count
    low, high = 1, count + 1  # the least rank that will do is in between
    while low < high:
        middle = (low + high) // 2
        if tail(count, quantile, middle) <= alpha:
            high = middle
        else:
            low = middle + 1
    return times.ordered(low) if low <= count else inf
