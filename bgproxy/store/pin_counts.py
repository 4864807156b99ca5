"""What a node counts of its sessions, and of the questions that it puts to the store about them.

Promises plain numbers that only grow, by preset and color where both are at hand anyway, and that their places are
bounded whatever names the pins of other nodes bring. Must not know who tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from bgproxy.errors import StoreUnavailable
from bgproxy.store.pinning import NodePins

P = ParamSpec("P")
T = TypeVar("T")
Ask: TypeAlias = Callable[P, Coroutine[Any, Any, T]]

MOST_PLACES: Final = 500
"""Presets times colors that are counted apart; a configuration has a dozen of the one and two of the other."""

BEYOND: Final = "other"
"""The preset under which the rest is counted."""


@dataclass(slots=True)
class Place:
    """What became of the sessions of one preset on one color."""

    pinned: int = 0  # sessions that began there
    learned: int = 0  # keys that agents there have minted
    moved: int = 0  # sessions that came there from another place
    ended: int = 0  # sessions that were over, as their protocol says


@dataclass(slots=True)
class Trips:
    """Round trips to the store with one question; `seconds`: all of their time, the failed ones' too."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0


class PinCounts:
    """Places by preset and color, and round trips by the question's name."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], Place] = {}
        self._trips: dict[str, Trips] = {}

    def of(self, preset: str, color: str) -> Place:
        """The place of these two, made at its first use."""
        place = self._places.get((preset, color))
        if place is None:
            if len(self._places) >= MOST_PLACES:
                preset = BEYOND
            place = self._places.setdefault((preset, color), Place())
        return place

    def moved(self, preset: str, color: str) -> None:
        """A session has come to that color, from elsewhere than this node's data path."""
        self.of(preset, color).moved += 1

    def trips(self, question: str) -> Trips:
        """The round trips with this question, made at its first use."""
        return self._trips.setdefault(question, Trips())

    def as_dict(self) -> dict[str, Any]:
        """`places` by preset and color, `store` by question; JSON-able, and made to be added up."""
        places: dict[str, dict[str, Any]] = {}
        for (preset, color), place in self._places.items():
            places.setdefault(preset, {})[color] = asdict(place)
        return {"places": places, "store": {name: asdict(trips) for name, trips in self._trips.items()}}


class Counted:
    """The same store, with each round trip counted and timed."""

    def __init__(self, pins: NodePins, counts: PinCounts, clock: Callable[[], float]) -> None:
        def counted(name: str, ask: Ask[P, T]) -> Ask[P, T]:
            return _counted(counts.trips(name), ask, clock)

        self.resolve = counted("resolve", pins.resolve)
        self.learn = counted("learn", pins.learn)
        self.refresh = counted("refresh", pins.refresh)
        self.end = counted("end", pins.end)
        self.place = counted("place", pins.place)
        self.migrate = counted("migrate", pins.migrate)
        self.applied = counted("applied", pins.applied)
        self.idle = counted("idle", pins.idle)
        self.watch = pins.watch


def _counted(trips: Trips, ask: Ask[P, T], clock: Callable[[], float]) -> Ask[P, T]:
    async def asked(*args: P.args, **named: P.kwargs) -> T:
        began = clock()
        trips.calls += 1
        try:
            return await ask(*args, **named)
        except StoreUnavailable:
            trips.failed += 1
            raise
        finally:
            trips.seconds += clock() - began

    return asked
