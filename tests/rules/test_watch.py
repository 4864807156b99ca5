"""What is watched, read off the state: a bake from its flip on, for as long as its run is open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bgproxy.rules import fleet
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.run import Run
from bgproxy.rules.watch import BASELINE, Watch, watched


def state(*, active: str = "green", epoch: int = 2, todo: tuple[str, ...] = ("flip", "bake"), **run: Any) -> FleetState:
    first = fleet.bootstrap(("blue", "green"), "blue", {"blue": Release("v1", ("http://a:1",))}, "t", 1.0).state
    pointer = replace(first.pointer, active=active, epoch=epoch)
    told = {"plan": {"bake": {"max_error_rate": 0.1}}, **run}
    run_ = Run(
        "r7", "release", "green", "v2", todo=todo, actor="", reason="", epoch=1, leader="n", began=1, at=1, **told
    )
    assert first.releases["blue"].phase is Phase.ACTIVE
    return replace(first, pointer=pointer, run=run_)


def test_a_bake_is_watched_from_the_flip_on():
    assert watched(state(active="blue", epoch=1)) == Watch()
    assert watched(state()) == Watch("r7:bake:2", BASELINE, since_flip=True)


@pytest.mark.parametrize(
    "other",
    [
        {"todo": ("flip",)},
        {"outcome": "settled"},
        {"active": "blue", "epoch": 3},
        {"epoch": 1},  # it was there before the run began
    ],
)
def test_nothing_else_is(other):
    assert watched(state(**other)) == Watch()


def test_without_a_run_nothing_is():
    assert watched(replace(state(), run=None)) == Watch()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ({"baseline": 5}, 5.0),
        ({}, BASELINE),
        ({"baseline": "x"}, BASELINE),
        ({"baseline": 1e9}, BASELINE),
        (None, 60.0),
    ],
)
def test_the_baseline_is_the_plans(written, seconds):
    assert watched(state(plan={"bake": written})).baseline == seconds
