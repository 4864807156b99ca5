"""Limits on many answers: judged on enough of them only, and what can never be judged is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import Slo
from bgproxy.rules.slo import Samples, judge, needed, quantile, samples_needed, unjudgeable


def samples(count: int = 200, each: float = 0.1, errors: int = 0, seconds: float = 10.0) -> Samples:
    times = [each] * count
    return Samples(times, times, errors, seconds, {"status 500": errors} if errors else {})


@pytest.mark.parametrize(
    ("name", "limit", "least"),
    [
        ("max_error_rate", 0.01, 100),
        ("max_error_rate", 0.3, 4),
        ("max_error_rate", 0.0, 1),
        ("max_error_rate", 1.0, 1),
        ("max_p50", 1.0, 2),
        ("max_p95_ratio", 1.5, 20),
        ("max_p99", 1.0, 100),
        ("max_first_byte", 1.0, 20),
        ("min_throughput", 5.0, 1),
    ],
)
def test_how_many_it_takes(name, limit, least):
    assert needed(name, limit) == least


def test_a_plan_s_limits_together():
    limits = list(Slo(max_error_rate=0.01, max_p95=1.0).limits())
    assert samples_needed(limits) == 100
    assert list(unjudgeable(limits, 50)) == [("max_error_rate", 100)]
    assert samples_needed([]) == 1


@pytest.mark.parametrize(("q", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_quantiles_of_one_to_a_hundred(q, value):
    assert quantile(range(1, 101), q) == value


@pytest.mark.parametrize(
    ("slo", "new", "old"),
    [
        (Slo(max_error_rate=0.01), samples(198, errors=2), None),
        (Slo(max_p95=0.1, max_p99=0.1, max_first_byte=0.1, min_throughput=20.0), samples(), None),
        (Slo(max_p95_ratio=1.0, min_throughput_ratio=1.0), samples(), samples()),
        (Slo(max_p95_ratio=1.5), samples(each=0.0), samples(each=0.0)),
    ],
)
def test_kept(slo, new, old):
    found = judge(slo, new, old)
    assert found.verdict is Verdict.PASS, found.why
    assert found.evidence["new"]["samples"] == new.count


@pytest.mark.parametrize(
    ("slo", "new", "old", "why"),
    [
        (Slo(max_error_rate=0.01), samples(197, errors=3), None, "the error rate is 0.015, the limit is 0.01"),
        (Slo(max_error_rate=0.0), samples(1, errors=1), None, "the error rate is 0.5"),
        (Slo(max_p95=0.05), samples(), None, "p95 is 0.1, the limit is 0.05"),
        (
            Slo(max_p95_ratio=1.5),
            samples(each=0.2),
            samples(),
            "p95 is 2 times the active color's (0.1), the limit is 1.5",
        ),
        (Slo(max_p95_ratio=1.5), samples(each=0.2), samples(each=0.0), "p95 is inf times"),
        (Slo(min_throughput=30.0), samples(), None, "throughput is 20, the limit is 30"),
        (Slo(max_first_byte=0.01), samples(), None, "first_byte is 0.1"),
        (Slo(max_p95=1.0), samples(0, errors=20), None, "p95: no request was answered"),
    ],
)
def test_broken(slo, new, old, why):
    found = judge(slo, new, old)
    assert (found.verdict, why in found.why) == (Verdict.FAIL, True), found.why


@pytest.mark.parametrize(
    ("slo", "new", "old", "why"),
    [
        (Slo(max_error_rate=0.01), samples(99), None, "99 samples cannot tell, 100 are needed"),
        (Slo(max_p99=1.0), samples(99), None, "max_p99: 99 samples"),
        (Slo(max_p99=0.01), samples(99), None, "max_p99: 99 samples"),
        (Slo(max_p95_ratio=1.5), samples(), samples(19), "19 samples cannot tell"),
        (Slo(max_p95_ratio=1.5), samples(), None, "there is nothing to compare with"),
        (Slo(max_p95_ratio=1.5), samples(), samples(0, errors=9), "there is nothing to compare with"),
        (Slo(min_throughput=1.0), Samples(seconds=1.0), None, "no request was answered"),
    ],
)
def test_undecided_is_never_a_pass(slo, new, old, why):
    found = judge(slo, new, old)
    assert why in found.why
    assert found.verdict is (Verdict.FAIL if why.startswith("no request") else Verdict.UNDECIDED)


def test_errors_enough_for_every_sample_that_is_missing_need_not_be_waited_for():
    assert judge(Slo(max_error_rate=0.01), samples(3, errors=2)).verdict is Verdict.FAIL
    assert judge(Slo(max_error_rate=0.01), samples(3, errors=1)).verdict is Verdict.UNDECIDED


def test_more_samples_may_be_asked_for_than_the_limits_need():
    found = judge(Slo(max_p50=1.0), samples(10), least=11)
    assert (found.verdict, found.why) == (Verdict.UNDECIDED, "10 samples came together, 11 are needed")
    assert judge(Slo(max_p50=0.01), samples(10), least=11).verdict is Verdict.FAIL


def test_what_went_wrong_most_is_named():
    kinds = {"timed out": 2, "status 500": 30}
    found = judge(Slo(max_error_rate=0.0), Samples([0.1], [0.1], 32, 1.0, kinds))
    assert "(most: status 500)" in found.why
    assert found.evidence["errors"] == {"status 500": 30, "timed out": 2}


class Counted(Sequence[float]):
    """Times that count how often somebody goes through them."""

    def __init__(self, times: Sequence[float]) -> None:
        self.times = times
        self.walks = 0

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, at: Any) -> Any:
        return self.times[at]

    def __iter__(self) -> Iterator[float]:
        self.walks += 1
        return iter(self.times)


def test_times_are_sorted_once_however_many_limits_there_are():
    latency, first_byte = Counted([0.1] * 200), Counted([0.1] * 200)
    one = Samples(latency, first_byte, 0, 10.0)
    slo = Slo(max_p50=1.0, max_p95=1.0, max_p99=1.0, max_first_byte=1.0, max_p95_ratio=2.0)
    assert judge(slo, one, samples()).verdict is Verdict.PASS
    assert (latency.walks, first_byte.walks) == (1, 1)
