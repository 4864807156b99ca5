"""How long new admissions wait, and what begins a session while this node knows of no pause and the store does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

import bgproxy.proxy.hold
from bgproxy.proxy.hold import Hold, hold_by, hold_new
from bgproxy.proxy.options import HoldOptions
from bgproxy.proxy.wait import Wait
from bgproxy.rules.holds import Pause

pytestmark = pytest.mark.skipif(
    not bgproxy.proxy.hold.__file__.endswith(".py"), reason="compiled functions take no stand-ins for exchanges"
)


class Plane:
    """It catches up at once; `hears`: whether it then holds."""

    def __init__(self, *, hears: bool) -> None:
        self.hold: Plane | None = None
        self.hears = hears
        self.readings = 0
        self.held: list[Exchange] = []

    def catch_up(self, done: Callable[[], None]) -> None:
        self.readings += 1
        self.hold = self if self.hears else None
        done()

    def take(self, exchange: Exchange, _: float) -> None:
        self.held.append(exchange)


class Exchange:
    """Its client, and its turn too. The store answers each time that it is paused."""

    over = has_caught_up = False
    why = ""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.client = self.turn = self

    def go(self, _: float) -> None:
        hold_new(cast("Any", self))

    def refuse(self, why: str) -> None:
        self.why = why


def test_it_waits_once_the_node_has_heard_of_the_pause() -> None:
    plane = Plane(hears=True)
    exchange = Exchange(plane)
    exchange.go(0.0)
    assert (plane.readings, plane.held, exchange.why) == (1, [exchange], "")
    # Let go, and held up by the next pause: that is asked for anew.
    plane.hold = None
    exchange.go(0.0)
    assert (plane.readings, len(plane.held)) == (2, 2)


def test_where_the_store_and_the_node_are_at_odds_it_is_not_asked_for_ever() -> None:
    plane = Plane(hears=False)
    exchange = Exchange(plane)
    exchange.go(0.0)
    assert (plane.readings, plane.held, exchange.why) == (1, [], "paused")


class Waiting:
    """An exchange with nothing but its client's deadlines."""

    request = SimpleNamespace(fields=b"")
    bytes_in = 0
    request_done = True

    def __init__(self, *, over: bool = False) -> None:
        self.client = self
        self.over = over
        self.waits: list[tuple[int, float]] = []

    def expect(self, wait: int, seconds: float, _: float) -> None:
        self.waits.append((wait, seconds))


def test_what_a_flip_held_waits_as_long_as_the_pause_that_follows() -> None:
    options = SimpleNamespace(hold=HoldOptions(max_age=5.0))
    plane: Any = SimpleNamespace(options=options, metrics=SimpleNamespace(held=0), hold=None)
    state: Any = SimpleNamespace(is_held=True, pause=None)
    hold = plane.hold = hold_by(plane, state)
    assert isinstance(hold, Hold)
    early, gone = Waiting(), Waiting()
    for exchange in (early, gone):
        hold.take(cast("Any", exchange), 0.0)
    gone.over = True
    state.pause = Pause(3, "ada", "", 30.0)
    assert hold_by(plane, state) is hold
    state.pause = None
    assert hold_by(plane, state) is hold
    late = Waiting()
    hold.take(cast("Any", late), 0.0)
    assert early.waits == [(Wait.HOLD, 5.0), (Wait.HOLD, 30.0)]
    assert (gone.waits, late.waits) == ([(Wait.HOLD, 5.0)], [(Wait.HOLD, 5.0)])
