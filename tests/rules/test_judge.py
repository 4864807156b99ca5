"""The judge of a bake: its statistics against what is known, its power, and that it cries wolf less than it may."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from bgproxy.rules.gate import Verdict
from bgproxy.rules.judge import LEAST_DIFFERENCE, Judge, Judgement, bound_of, evidence_of, figures, tail
from bgproxy.rules.plan import Bake
from bgproxy.rules.window import Times, Window
from bgproxy.telemetry.metrics import Histogram

Took = Callable[[random.Random], float]


def times(seconds: Any) -> Times:
    histogram = Histogram()
    for one in seconds:
        histogram.add(one)
    return counted(histogram)


def counted(histogram: Histogram) -> Times:
    return Times({part: count for part, count in enumerate(histogram.parts) if count})


def window(answers: int, errors: int = 0, took: float = 0.1) -> Window:
    found = Times(dict.fromkeys(times([took]).parts, answers) if answers else {})
    return Window(answers, errors, found, found)


# The statistics


@pytest.mark.parametrize(("count", "share"), [(1, 0.3), (10, 0.05), (40, 0.5), (200, 0.01)])
def test_the_tail_is_that_of_the_binomial_distribution(count, share):
    exact = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    for least in range(count + 2):
        assert tail(count, share, least) == pytest.approx(sum(exact[least:]), abs=1e-9)


def test_the_tail_of_very_many_is_quick_and_right():
    assert tail(4_000_000, 0.5, 2_000_000) == pytest.approx(0.5, abs=1e-3)
    assert tail(4_000_000, 0.5, 2_002_000) == pytest.approx(0.0228, abs=1e-3)
    assert (tail(5, 0.0, 1), tail(5, 1.0, 5), tail(5, 0.5, 0), tail(5, 0.5, 6)) == (0.0, 1.0, 1.0, 0.0)


def test_evidence_is_what_its_definition_says():
    terms = []
    for odds in (1.5, 2.0, 3.0, 6.0, 20.0, 100.0):
        worse = odds * 0.1 / 0.9 / (1 + odds * 0.1 / 0.9)
        terms.append((worse / 0.1) ** 7 * ((1 - worse) / 0.9) ** 23)
    assert evidence_of(30, 7, 0.1) == pytest.approx(math.log(sum(terms) / len(terms)))


def test_evidence_of_nothing_and_of_what_may_never_be():
    assert evidence_of(100, 0, 0.01) == -math.inf
    assert evidence_of(100, 1, 0.0) == math.inf
    assert evidence_of(100, 100, 1.0) == -math.inf


def test_the_bound_of_a_quantile_is_an_order_statistic():
    rng = random.Random(1)
    covered = 0
    for _ in range(400):
        covered += bound_of(times(rng.expovariate(1.0) for _ in range(200)), 0.95, 0.05) >= -math.log(0.05)
    assert covered / 400 >= 0.93
    assert bound_of(times([0.1] * 50), 0.95, 0.05) == math.inf, "50 samples do not reach beyond their p95"
    assert bound_of(Times(), 0.95, 0.05) == math.inf


# The judge


def looked(judge: Judge, *windows: Window, old: Window | None = None) -> list[Judgement]:
    return [judge.look(one, old or Window()) for one in windows]


def test_a_release_that_fails_always_is_found_at_once():
    (first,) = looked(Judge(Bake(max_error_rate=0.01)), window(6, 6))
    assert first.verdict is Verdict.FAIL
    assert first.why == "error rate 1 (6 of 6), limit 0.01"


def test_what_the_missing_samples_could_still_make_good_waits_for_them():
    judge = Judge(Bake(max_error_rate=0.05, min_samples=200))
    assert looked(judge, window(10, 9))[0].verdict is Verdict.UNDECIDED
    assert looked(judge, window(12, 11))[0].verdict is Verdict.FAIL, "11 are more than 5 % of 200"


def test_where_no_error_may_be_one_is_too_many():
    assert looked(Judge(Bake(max_error_rate=0.0)), window(5, 0), window(6, 1))[1].verdict is Verdict.FAIL


def test_too_few_samples_are_told():
    (found,) = looked(Judge(Bake(max_error_rate=0.01)), window(150))
    assert found.verdict is Verdict.UNDECIDED
    assert found.why == "150 answers came, 200 are needed"
    assert looked(Judge(Bake(max_error_rate=0.01)), window(200))[0].verdict is Verdict.PASS


def test_a_ratio_needs_something_to_compare_with():
    (found,) = looked(Judge(Bake(max_p95_ratio=1.5)), window(500))
    assert (found.verdict, "the old release gave too few answers" in found.why) == (Verdict.UNDECIDED, True)


@pytest.mark.parametrize("name", ["max_p50_ratio", "max_p95_ratio", "max_p99_ratio", "max_first_byte_ratio"])
def test_how_many_answers_it_takes_to_compare_is_told_and_is_the_least(name):
    def why(had: int) -> str:
        return looked(Judge(Bake(**{name: 1.5})), window(500), old=window(had))[0].why

    needed = int(why(1).split("compare with: 1, ")[1].split()[0])
    assert f"compare with: {needed - 1}, {needed} are needed" in why(needed - 1)
    assert "compare with" not in why(needed)


def test_a_difference_that_is_a_machines_is_none():
    judge, old = Judge(Bake(max_p95_ratio=1.5)), window(1_000, took=0.001)
    slower = [window(300 * n, took=0.001 + LEAST_DIFFERENCE * 0.8) for n in (1, 2, 3, 4)]
    assert {one.verdict for one in looked(judge, *slower, old=old)} == {Verdict.PASS}
    much = [window(300 * n, took=0.02) for n in (1, 2, 3, 4)]
    assert looked(Judge(Bake(max_p95_ratio=1.5)), *much, old=old)[-1].verdict is Verdict.FAIL


def test_one_stall_does_not_count_and_a_lasting_one_does():
    judge = Judge(Bake(max_p95=1.0, min_samples=100))
    fine = window(300)
    stalled = fine.plus(window(100, took=5.0))
    assert [one.verdict for one in looked(judge, fine, *[stalled] * 5)][-1] is not Verdict.FAIL
    lasting = [stalled.plus(window(100 * n, took=5.0)) for n in range(1, 8)]
    assert looked(judge, *lasting)[-1].verdict is Verdict.FAIL


def test_nor_do_some_stalls_of_a_second_or_two():
    judge, came = Judge(Bake(max_p95=1.0, min_samples=100)), Window()
    for number in range(60):
        came = came.plus(window(20, took=5.0 if number % 15 > 12 else 0.1))  # eight bad seconds of sixty
        assert looked(judge, came)[-1].verdict is not Verdict.FAIL, number
    assert judge.look(came, Window(), last=True).verdict is Verdict.PASS


def test_a_release_that_turns_bad_late_is_found_though_most_was_good():
    judge = Judge(Bake(max_error_rate=0.05, duration=640.0))
    good = [window(100 * n) for n in range(1, 301)]
    assert {one.verdict for one in looked(judge, *good[2:])} == {Verdict.PASS}
    for seconds in range(1, 61):
        found = judge.look(window(30_000 + 100 * seconds, 20 * seconds), Window())
        if found.verdict is Verdict.FAIL:
            break
    assert seconds <= 30, "and not when the whole is beyond 5 %, which it never is"


def test_a_baseline_that_grows_late_begins_the_evidence_anew():
    judge = Judge(Bake(max_p95_ratio=2.0, min_samples=100))
    new = window(400, took=0.5)
    assert judge.look(new, window(200, took=0.1)).verdict is not Verdict.FAIL
    for more in (1, 2, 3, 4):
        found = judge.look(new.plus(window(100 * more, took=0.5)), window(400, took=0.4))
    assert found.verdict is Verdict.PASS


def test_the_evidence_tells_both_releases_and_each_limit():
    (found,) = looked(Judge(Bake(max_error_rate=0.1, max_p95=1.0)), window(300, 3), old=window(500, 1, took=0.2))
    assert found.evidence["new"] == {**figures(window(300, 3))}
    assert (found.evidence["new"]["error_rate"], found.evidence["old"]["answers"]) == (0.01, 500)
    assert found.evidence["limits"]["max_error_rate"] == {"samples": 300, "bad": 3}
    assert found.evidence["limits"]["max_p95"] == {"samples": 300, "bad": 0}


# Good and bad releases, simulated: each seed is one bake of a minute


def noisy(scale: float = 1.0) -> Took:
    """Agents' times: a few tenths of a second, with a long tail."""
    return lambda rng: scale * rng.lognormvariate(-1.5, 0.7)


def baked(
    seed: int, *, rate: int = 40, leak: float = 0.0, new: Took | None = None, **limits: Any
) -> tuple[Verdict, int]:
    """What a bake of a minute comes to, and after how many answers."""
    rng, bake = random.Random(seed), Bake(**limits)
    old = times(noisy()(rng) for _ in range(60 * rate))
    judge, histogram, answers, errors = Judge(bake), Histogram(), 0, 0
    took = new or noisy()
    for second in range(1, 61):
        for _ in range(rate):
            answers, errors = answers + 1, errors + (rng.random() < leak)
            histogram.add(took(rng))
        found = counted(histogram)
        verdict = judge.look(
            Window(answers, errors, found, found), Window(60 * rate, 0, old, old), last=second == 60
        ).verdict
        if verdict is Verdict.FAIL:
            break
    return verdict, answers


LIMITS = {"max_error_rate": 0.01, "max_p95_ratio": 1.5}


def test_of_200_good_releases_with_noisy_latency_none_is_rolled_back():
    verdicts = [baked(seed, rate=8, leak=0.003, **LIMITS)[0] for seed in range(200)]
    assert verdicts.count(Verdict.FAIL) == 0


def test_at_the_very_limit_no_more_are_rolled_back_than_may_be():
    """Half as slow again is just what may be, and so is 1 % of errors."""
    slower = noisy(1.5)
    found = [baked(seed, rate=20, leak=0.01, new=slower, **LIMITS)[0] for seed in range(40)]
    assert found.count(Verdict.FAIL) <= 40 * 0.05 + 2


def test_a_leak_of_two_percent_is_found_where_one_may_be():
    found = [baked(seed, leak=0.02, max_error_rate=0.01) for seed in range(30)]
    assert sum(verdict is Verdict.FAIL for verdict, _ in found) >= 28
    assert sorted(answers for _, answers in found)[15] <= 2_400


def test_a_release_that_is_twice_as_slow_is_found():
    found = [baked(seed, new=noisy(2.2), max_p95_ratio=1.5) for seed in range(20)]
    assert sum(verdict is Verdict.FAIL for verdict, _ in found) == 20
