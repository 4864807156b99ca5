"""Windows: times counted in parts, told apart as finely as a ratio needs, added up, written and read."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.rules.window import BOUNDS, LEAST, PARTS, Times, Window, upper, window_from
from bgproxy.telemetry import metrics
from bgproxy.telemetry.metrics import Histogram


def times(*seconds: float) -> Times:
    histogram = Histogram()
    for one in seconds:
        histogram.add(one)
    return Times({part: count for part, count in enumerate(histogram.parts) if count})


def test_the_data_path_counts_by_the_same_parts():
    assert metrics._PARTS == PARTS
    assert len(Histogram().parts) == len(LEAST)


@given(st.floats(0, 1_000))
def test_a_time_lies_between_the_edges_of_its_part(seconds):
    (part,) = times(seconds).parts
    slack = 1e-9 * max(1.0, seconds)
    assert LEAST[part] - slack <= seconds <= upper(part) + slack


@pytest.mark.parametrize("seconds", [0.0011, 0.012, 0.12, 0.3, 1.1, 6.0, 31.0])
def test_parts_are_fine_enough_to_tell_a_ratio_of_one_and_a_half(seconds):
    assert times(seconds).parts.keys() != times(seconds * 1.3).parts.keys()


@given(st.lists(st.floats(0, 400), min_size=1), st.floats(0, 400))
def test_what_is_above_a_time_is_never_too_many(seconds, limit):
    assert times(*seconds).above(limit) <= sum(one >= limit * (1 - 1e-9) for one in seconds)


def test_above_leaves_out_the_part_that_the_time_falls_into():
    assert times(0.1, 0.2, 0.201, 0.21, 0.3, 400.0).above(0.2) == 3
    assert times(400.0).above(299.0) == 1
    assert times(400.0).above(300.0) == 0, "how long it took is not known"


@given(st.lists(st.floats(0.0005, 250), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_part_of_the_sample_that_it_is(seconds, q):
    ordered = sorted(seconds)
    rank = next(rank for rank in range(1, len(ordered) + 1) if rank >= q * len(ordered) - 1e-9)
    (part,) = times(ordered[rank - 1]).parts
    assert LEAST[part] <= times(*seconds).quantile(q) <= upper(part)


def test_a_quantile_of_nothing_is_nothing():
    assert Times().quantile(0.95) == 0.0


def test_the_one_of_a_rank_is_not_longer_than_what_is_told():
    found = times(0.011, 0.5, 0.5, 400.0)
    assert 0.011 <= found.ordered(1) < 0.013
    assert found.ordered(3) == pytest.approx(0.5)
    assert found.ordered(4) == inf
    with pytest.raises(ValueError, match="there are 4, not 5"):
        found.ordered(5)


def test_windows_add_up():
    one, other = Window(3, 1, times(0.1, 0.2), times(0.1)), Window(4, 0, times(0.1), times(2.0))
    both = one.plus(other).plus(Window())
    assert (both.answers, both.errors) == (7, 1)
    assert (both.latency, both.first_byte) == (times(0.1, 0.1, 0.2), times(0.1, 2.0))
    assert one.latency.count == 2, "what is added stays as it was"


def test_a_window_is_read_as_it_was_written():
    window = Window(3, 1, times(0.1, 0.2, 400.0), times(0.1))
    assert window_from(window.document()) == window


@pytest.mark.parametrize(
    "wrong", [None, {}, {"latency": [1]}, {"latency": [len(LEAST), 1]}, {"first_byte": [0, -1]}, {"answers": "x"}]
)
def test_what_is_no_window_is_told_apart(wrong: Any):
    document = None if wrong is None else {**Window().document(), **wrong} if wrong else {}
    with pytest.raises((KeyError, TypeError, ValueError)):
        window_from(document)


def test_bounds_are_those_that_are_told():
    assert metrics.BOUNDS == BOUNDS
