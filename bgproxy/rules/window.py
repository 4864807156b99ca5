"""What a release's answers were in a stretch of time: how many, how many errors, how long they took.

Times are counted in *parts*: each bucket of the metrics is cut into `PARTS` equal ones, so that a ratio of 1.5 between
two percentiles can be told, and a part knows its two edges. Windows add up: of several routes, seconds, nodes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

# Seconds. Agents answer between a millisecond (a cache) and ten minutes (deep thought).
BOUNDS: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)
PARTS: Final = 16  # of a bucket; the last one, without a bound, is one part
_LOWER: Final = (0.0, *BOUNDS)


def least(part: int) -> float:
    """The least time that falls into that part, in seconds."""
    bucket, inner = divmod(part, PARTS)
    if bucket >= len(BOUNDS):
        return BOUNDS[-1]
    return _LOWER[bucket] + (BOUNDS[bucket] - _LOWER[bucket]) * inner / PARTS


LEAST: Final = tuple(least(part) for part in range(len(BOUNDS) * PARTS + 1))


@dataclass(frozen=True, slots=True)
class Times:
    """Durations: how many fell into each part."""

    parts: Mapping[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def plus(self, other: Times) -> Times:
        """Both together."""
        return Times(_added(self.parts, other.parts))

    def above(self, seconds: float) -> int:
        """How many surely took longer than that: those of the part that it falls into are not counted."""
        first = bisect_right(LEAST, seconds)
        return sum(count for part, count in self.parts.items() if part >= first)

    def quantile(self, q: float) -> float:
        """About the time that a share `q` of all does not exceed: within its part by proportion; 0 where there is
        none."""
        wanted, seen = q * self.count, 0
        for part, count in sorted(self.parts.items()):
            if seen + count >= wanted and count:
                low, high = LEAST[part], upper(part)
                return low if high == inf else low + (high - low) * max(0.0, wanted - seen) / count
            seen += count
        return 0.0

    def ordered(self, rank: int) -> float:
        """At least as long as the one of that rank (from 1, the shortest first): its part's upper edge. Raises
        `ValueError` for one that is not there."""
        seen = 0
        for part, count in sorted(self.parts.items()):
            seen += count
            if seen >= rank:
                return upper(part)
        raise ValueError(f"there are {seen}, not {rank}")


def upper(part: int) -> float:
    """What every time in that part is below, or at; infinite for the last."""
    return LEAST[part + 1] if part + 1 < len(LEAST) else inf


@dataclass(frozen=True, slots=True)
class Window:
    """Answers, and of them errors: 5xx of the agent, none to be had from it, broken off by it.

    What a client broke off before it had an answer is none, what the proxy refused of its own is neither.
    `latency`: of every exchange, to its end; `first_byte`: to the answer's head.
    """

    answers: int = 0
    errors: int = 0
    latency: Times = field(default_factory=Times)
    first_byte: Times = field(default_factory=Times)

    def plus(self, other: Window) -> Window:
        """Both together."""
        return Window(
            self.answers + other.answers,
            self.errors + other.errors,
            self.latency.plus(other.latency),
            self.first_byte.plus(other.first_byte),
        )

    def document(self) -> dict[str, Any]:
        """As JSON: each histogram is a flat list of parts and counts."""
        return {
            "answers": self.answers,
            "errors": self.errors,
            "latency": _flat(self.latency.parts),
            "first_byte": _flat(self.first_byte.parts),
        }


def window_from(document: Any) -> Window:
    """The window of a document. Raises `KeyError`, `TypeError` or `ValueError`."""
    counts = int(document["answers"]), int(document["errors"])
    return Window(*counts, Times(_deep(document["latency"])), Times(_deep(document["first_byte"])))


def _added(mine: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    found = dict(mine)
    for part, count in other.items():
        found[part] = found.get(part, 0) + count
    return found


def _flat(parts: Mapping[int, int]) -> list[int]:
    return [number for pair in sorted(parts.items()) for number in pair]


def _deep(flat: Any) -> dict[int, int]:
    numbers = [int(number) for number in flat]
    found = dict(zip(numbers[::2], numbers[1::2], strict=True))
    if any(not 0 <= part < len(LEAST) or count < 0 for part, count in found.items()):
        raise ValueError("a histogram has a part that there is not")
    return found
