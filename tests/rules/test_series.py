"""Points over time: each of what came since the one before, and never more than a step's evidence may weigh."""

from __future__ import annotations

import json

from bgproxy.rules.gate import EVIDENCE_BYTES, Finding, Verdict
from bgproxy.rules.series import MOST, Series
from bgproxy.rules.window import LEAST, Times, Window


def window(answers: int, errors: int = 0, part: int = 0) -> Window:
    return Window(answers, errors, Times({part: answers} if answers else {}), Times())


def test_each_point_is_what_came_since_the_one_before():
    series = Series(10.0)
    series.take(1.0, {"new": window(10), "old": window(3)})
    slow = Window(30, 4, Times({0: 10, 100: 20}), Times())
    series.take(2.0, {"new": slow, "old": window(3)})
    told = series.document()
    (_, _, _, fast), (at, answers, errors, p95) = told["new"]
    assert (at, answers, errors) == (2.0, 20, 4)
    assert fast <= LEAST[1]
    assert LEAST[100] <= p95 <= LEAST[101], "of the new answers alone"
    assert told["old"][1] == (2.0, 0, 0, 0.0)


def test_a_long_watch_has_no_more_points_than_a_short_one():
    series = Series(86_400.0)
    for second in range(1, 86_401):
        series.take(float(second), {"new": window(second * 1000, second), "old": window(second)}, last=second == 86_400)
    told = series.document()
    assert MOST - 1 <= len(told["new"]) <= MOST + 1
    assert sum(point[1] for point in told["new"]) == 86_400_000, "none is left out"
    assert Finding(Verdict.PASS, "", {"series": told}).bounded().evidence["series"] == told
    assert len(json.dumps(told)) < EVIDENCE_BYTES / 2


def test_the_last_one_counts_however_soon_it_comes_and_no_moment_twice():
    series = Series(600.0)
    series.take(3.0, {"new": window(1)})
    assert series.document() == {}
    series.take(3.0, {"new": window(1)}, last=True)
    series.take(3.0, {"new": window(2)}, last=True)
    assert [point[:2] for point in series.document()["new"]] == [(3.0, 1)]
