"""What releases answered over time, in few points: for who reads the record of a release, not for who judges it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bgproxy.rules.window import Times, Window

MOST: Final = 60  # points of each release; together they take a quarter of what a step's evidence may weigh

Point = tuple[float, int, int, float]
"""Seconds since the beginning; since the point before: answers, errors, and their p95 in seconds (0: no answer)."""


class Series:
    """Points of several releases by their names, made of what had come of each by then."""

    def __init__(self, duration: float) -> None:
        """`duration`: seconds that are to be covered."""
        self._step = max(1.0, duration / MOST)
        self._last = 0.0
        self._before: dict[str, Window] = {}
        self._points: dict[str, list[Point]] = {}

    def take(self, elapsed: float, windows: Mapping[str, Window], *, last: bool = False) -> None:
        """What has come by now. It is a point once enough time has passed since the one before, or where it is the
        `last` one."""
        if elapsed <= self._last or (elapsed < self._last + self._step and not last):
            return
        self._last = elapsed
        for name, window in windows.items():
            before = self._before.get(name, Window())
            times = _minus(window.latency, before.latency)
            counts = window.answers - before.answers, window.errors - before.errors
            point = round(elapsed, 1), *counts, round(times.quantile(0.95), 6)
            self._points.setdefault(name, []).append(point)
        self._before = dict(windows)

    def document(self) -> dict[str, list[Point]]:
        """As evidence."""
        return {name: [*points] for name, points in self._points.items()}


def _minus(times: Times, before: Times) -> Times:
    more = {part: count - before.parts.get(part, 0) for part, count in times.parts.items()}
    return Times({part: count for part, count in more.items() if count > 0})
