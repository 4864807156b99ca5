"""The report's plots, as numbers and texts that the page draws: bars side by side, and lines over time. No markup here.

Units: SVG's user units, on a canvas of `WIDTH`; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

WIDTH: Final = 720
_ROW: Final = 22
_LEFT: Final = 130  # for the names
_RIGHT: Final = 110  # for the values
_HEIGHT: Final = 150  # of a plot over time
_PER_SECOND: Final = ("p50", "p95", "p99", "first_byte")
_NOT_COMPARED: Final = frozenset({"answers", "errors", "samples"})


def bars(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Each figure of the new release beside the old one's, on a scale of its own."""
    new, old = comparison["new"], comparison["old"]
    names = [name for name in dict.fromkeys((*new, *old)) if name not in _NOT_COMPARED]
    rows: list[dict[str, Any]] = []
    y = 0
    for name in names:
        most = max(abs(side.get(name, 0)) for side in (new, old)) or 1
        for which, side in (("old", old), ("new", new)):
            if name in side:
                long = (WIDTH - _LEFT - _RIGHT) * abs(side[name]) / most
                rows.append({"name": f"{name} {which}", "which": which, "y": y, "x": _LEFT, "long": round(long, 1)})
                rows[-1]["value"] = told(name, side[name])
                y += _ROW
        y += _ROW // 3
    return {"width": WIDTH, "height": max(y, 1), "rows": rows, "row": _ROW}


def told(name: str, value: float) -> str:
    """A figure with its unit."""
    if name in _PER_SECOND:
        return f"{value * 1000:.4g} ms"
    if name.endswith("_rate"):
        return f"{value * 100:.4g} %"
    return f"{value:.6g}"


def lines(series: Mapping[str, Sequence[Sequence[float]]]) -> Iterator[dict[str, Any]]:
    """Answers per second, share of errors and p95 of both releases after the flip, by "old" and "new". A point: seconds
    since the flip; since the point before the answers, the errors, and the p95 in seconds."""
    shown = {which: points for which, points in series.items() if len(points) > 1}
    if not shown:
        return
    paces = {which: [*_paces(points)] for which, points in shown.items()}
    yield _plot("answers per second", paces, "{:.4g}/s")
    shares = {which: [(p[0], p[2] / p[1] if p[1] else 0.0) for p in points] for which, points in shown.items()}
    yield _plot("errors, share", shares, "{:.2%}")
    yield _plot("p95", {which: [(p[0], p[3]) for p in points] for which, points in shown.items()}, "{:.4g} s")


def _paces(points: Sequence[Sequence[float]]) -> Iterator[tuple[float, float]]:
    before = 0.0
    for at, answers, *_ in points:
        yield at, answers / max(1e-9, at - before)
        before = at


def _plot(name: str, sides: Mapping[str, Sequence[tuple[float, float]]], form: str) -> dict[str, Any]:
    """Both releases on one scale."""
    last = max(points[-1][0] for points in sides.values()) or 1.0
    most = max(y for points in sides.values() for _, y in points)
    across, down = WIDTH - 20, _HEIGHT - 30
    drawn = []
    for which, points in sides.items():
        places = [(10 + across * x / last, _HEIGHT - 15 - down * (y / most if most else 0.0)) for x, y in points]
        drawn.append({"which": which, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})
    size = {"width": WIDTH, "height": _HEIGHT}
    return {"name": name, "drawn": drawn, "most": form.format(most), "last": f"{last:.0f} s", **size}
