"""What begins a session while the store does not let any in, and this node knows of no pause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from bgproxy.proxy.hold import hold_new


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
