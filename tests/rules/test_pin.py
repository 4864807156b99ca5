"""How long a pin lives: buckets, use, age."""

from __future__ import annotations

import pytest

from bgproxy.rules.pin import BUCKETS_PER_TTL, bucket_seconds, expiry


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(0.0, 1), (0.5, 1), (60.0, 1), (60.1, 2), (120.0, 2), (1_800.0, 30), (86_400.0, 1_440)],
)
def test_a_bucket(ttl: float, seconds: int) -> None:
    assert bucket_seconds(ttl) == seconds


@pytest.mark.parametrize(
    ("created", "ttl", "max_age", "now", "expires"),
    [
        (1_000.0, 600.0, 0.0, 1_000.0, 1_600),  # just at the end of a bucket
        (1_000.0, 600.0, 0.0, 1_000.1, 1_610),
        (1_000.0, 600.0, 0.0, 9_000.0, 9_600),  # without a limit of age
        (1_000.0, 600.0, 700.0, 1_050.0, 1_650),  # not old yet
        (1_000.0, 600.0, 700.0, 1_300.0, 1_700),  # held by its age
        (1_000.0, 600.0, 705.0, 1_300.0, 1_710),  # up to the end of that bucket
        (1_000.0, 600.0, 100.0, 5_000.0, 1_100),  # long over
        (1_000.5, 0.2, 0.0, 1_000.5, 1_001),
    ],
)
def test_an_expiry(created: float, ttl: float, max_age: float, now: float, expires: int) -> None:
    assert expiry(created, ttl, max_age, now) == expires


@pytest.mark.parametrize("ttl", [1.0, 59.0, 61.0, 600.0, 1_801.5, 86_400.0])
def test_all_of_one_ttl_fall_on_few_instants_and_never_too_early(ttl: float) -> None:
    times = [step * ttl / 997 for step in range(997)]
    expiries = [expiry(0.0, ttl, 0.0, now) for now in times]
    assert len(set(expiries)) <= BUCKETS_PER_TTL + 1
    late = [expires - now - ttl for expires, now in zip(expiries, times, strict=True)]
    assert min(late) >= 0
    assert max(late) < bucket_seconds(ttl)
