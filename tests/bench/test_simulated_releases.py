"""The judge on simulated fleets, as `python -m bench.releases` tries more of: stalls and noise accuse nobody."""

from __future__ import annotations

import random

import pytest

from bench.releases.simulated import FAULTS, Agent, agent, judged
from bgproxy.rules.gate import Verdict


@pytest.mark.parametrize("errors", [0.0, 0.002])
def test_good_releases_are_left_alone(errors):
    for seed in range(12):
        chance = random.Random(f"{errors} {seed}")
        one = agent(chance, errors, rate=20.0)
        assert judged(one, one, chance)[0] is not Verdict.FAIL, seed


@pytest.mark.parametrize("fault", ["5 % errors", "4 times as slow"])
def test_bad_ones_are_found(fault):
    chance = random.Random(fault)
    old = Agent(rate=50.0, middle=0.2, spread=0.5, errors=0.001)
    verdict, seconds, _ = judged(old, FAULTS[fault](old), chance)
    assert (verdict, seconds < 30) == (Verdict.FAIL, True)
