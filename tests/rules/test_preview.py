"""Which color a look at what is not active yet leads to, and when it leads nowhere."""

from __future__ import annotations

import pytest

from bgproxy.errors import NotReady, UnknownColor
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.preview import preview_color
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.run import Run


def state(run: Run | None = None, **phases: Phase) -> FleetState:
    releases = {color: Release(f"on-{color}", ("http://a:1",), phase=phase) for color, phase in phases.items()}
    pointer = Pointer("blue", None, 7, "ada", "", 2.0)
    return FleetState(20, pointer, releases, ("blue", "green", "red"), run=run)


def run(color: str, outcome: str = "") -> Run:
    about = {"plan": {}, "todo": ("ready",), "actor": "ada", "reason": "", "epoch": 7, "leader": "one"}
    return Run("r9", "release", color, f"on-{color}", began=1.0, at=1.0, outcome=outcome, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", [p for p in Phase if p not in (Phase.RETIRED, Phase.ACTIVE)])
def test_the_only_idle_color_that_holds_something(phase: Phase) -> None:
    assert preview_color(state(blue=Phase.ACTIVE, green=phase)) == "green"


@pytest.mark.parametrize(
    ("found", "color"),
    [
        (state(blue=Phase.ACTIVE, green=Phase.STANDBY, red=Phase.READY), "red"),
        (state(blue=Phase.ACTIVE, green=Phase.RETIRED, red=Phase.STANDBY), "red"),
        (state(run("green"), blue=Phase.ACTIVE, green=Phase.VALIDATING, red=Phase.READY), "green"),
        (state(run("green", "stopped"), blue=Phase.ACTIVE, green=Phase.REJECTED, red=Phase.READY), "red"),
        (state(run("blue"), blue=Phase.BAKING, green=Phase.STANDBY), "green"),
    ],
)
def test_of_several_the_one_that_is_new(found: FleetState, color: str) -> None:
    assert preview_color(found) == color


def test_a_named_one_even_the_active() -> None:
    found = state(blue=Phase.ACTIVE, green=Phase.STANDBY, red=Phase.READY)
    assert [preview_color(found, color) for color in found.colors] == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("found", "wanted", "why"),
    [
        (state(blue=Phase.ACTIVE), "", "no color but the active one, blue, has a release"),
        (state(blue=Phase.ACTIVE), "green", "green has no release"),
        (state(blue=Phase.ACTIVE, green=Phase.RETIRED), "green", "green holds on-green, which is over"),
        (state(blue=Phase.ACTIVE, green=Phase.READY, red=Phase.READY), "", "name one by X-Bgproxy-Color"),
        (state(blue=Phase.ACTIVE, green=Phase.STANDBY, red=Phase.DRAINED), "", "green, red all hold"),
        (state(run("green"), blue=Phase.ACTIVE), "", "green has no release"),
    ],
)
def test_nowhere(found: FleetState, wanted: str, why: str) -> None:
    with pytest.raises(NotReady, match=why):
        preview_color(found, wanted)


def test_no_color_of_this_fleet() -> None:
    with pytest.raises(UnknownColor):
        preview_color(state(blue=Phase.ACTIVE), "mauve")
