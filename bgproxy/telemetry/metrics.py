"""Counters of one process: plain integers in slots, turned into anything else only when asked.

The data path adds to the slot of its route, color and release; it pays one attribute add per fact and formats nothing.
`snapshot()` is JSON-able; `merge()` adds the snapshots of several processes, so that any worker can speak for its host.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from bgproxy.rules import window

# Known to the compiler as these files' own, so that the data path looks nothing up.
BOUNDS: Final[tuple[float, ...]] = window.BOUNDS
_BOUNDS: Final = len(BOUNDS)
_PARTS: Final = 16  # `window.PARTS`; a test says so
_LOWER: Final[tuple[float, ...]] = (0.0, *BOUNDS[:-1])
_PER_SECOND: Final[tuple[float, ...]] = tuple([_PARTS / (high - low) for low, high in zip(_LOWER, BOUNDS, strict=True)])


KEPT_RELEASES = 16
"""Releases whose series are told on after they have left their color: enough to look back upon a day's deployments."""


class Histogram:
    """Counts of durations: in buckets by upper bound, the last one without; each cut into parts, see `rules/window`."""

    def __init__(self) -> None:
        self.parts = [0] * (_BOUNDS * _PARTS + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bucket = 0
        while bucket < _BOUNDS and seconds > BOUNDS[bucket]:
            bucket += 1
        part = bucket * _PARTS
        if bucket < _BOUNDS:
            inner = int((seconds - _LOWER[bucket]) * _PER_SECOND[bucket])
            part += inner if inner < _PARTS else _PARTS - 1  # a bound belongs to the bucket that it ends
        self.parts[part] += 1
        self.sum += seconds

    @property
    def buckets(self) -> list[int]:
        """The counts by bucket."""
        return [sum(self.parts[at : at + _PARTS]) for at in range(0, len(self.parts), _PARTS)]

    def as_dict(self) -> dict[str, Any]:
        return {"buckets": self.buckets, "sum": self.sum}


class Slot:
    """What happened to the requests of one route on one release of one color. `classes[0]`: no answer was begun."""

    def __init__(self, route: str, color: str, release: str) -> None:
        self.route = route
        self.color = color
        self.release = release
        self.classes = [0] * 6
        self.own = [0] * 6  # of these, by status too: answers that the proxy gave for no fault of the agent's
        self.broken_late = 0  # answers of the agent that were no errors as they began, and that it broke off
        self.latency = Histogram()
        self.ttfb = Histogram()
        self.in_flight = 0
        self.streams = 0
        self.websockets = 0
        self.retries = 0
        self.broken_client = 0
        self.broken_agent = 0
        self.broken_proxy = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Slot {self.route} {self.color}@{self.release} {self.in_flight} in flight>"

    def as_dict(self) -> dict[str, Any]:
        return {
            "route": self.route,
            "color": self.color,
            "release": self.release,
            "classes": list(self.classes),
            "latency": self.latency.as_dict(),
            "ttfb": self.ttfb.as_dict(),
            **{name: getattr(self, name) for name in _COUNTS},
        }


_GAUGES = ("in_flight", "streams", "websockets")
_COUNTS = (*_GAUGES, "retries", "broken_client", "broken_agent", "broken_proxy", "bytes_in", "bytes_out")


class Metrics:
    """All counters of one process."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, str, str], Slot] = {}
        self._gone: dict[str, None] = {}  # releases that stand on no color any more, those that left first in front
        self.refused: dict[str, int] = {}
        self.dropped_fields = 0  # of requests, for the `_` in their names
        self.connections_total = 0
        self.connections = 0
        self.held = 0  # requests that waited for a flip or a pause
        self.carried: dict[str, Any] | None = None

    def slot(self, route: str, color: str, release: str) -> Slot:
        """The slot of these three, made at its first use."""
        key = (route, color, release)
        if (slot := self._slots.get(key)) is None:
            slot = self._slots[key] = Slot(route, color, release)
        return slot

    def slots(self) -> list[Slot]:
        """All of them."""
        return [*self._slots.values()]

    def stand(self, releases: Collection[str]) -> None:
        """These releases (labels) stand on a color now. Of the others the last `KEPT_RELEASES` are told on.

        Of older ones all series are given up, but where something is still in flight. Nothing is added up in their
        stead: for whoever computes rates from totals it would look like traffic.
        """
        carried = self.carried["series"] if self.carried else []
        for release in [*(one["release"] for one in carried), *(slot.release for slot in self._slots.values())]:
            self._gone.setdefault(release)
        for release in releases:
            self._gone.pop(release, None)
        for release in [*self._gone][: max(0, len(self._gone) - KEPT_RELEASES)]:
            self._give_up(release)

    def _give_up(self, release: str) -> None:
        keys = [key for key, slot in self._slots.items() if slot.release == release]
        if any(self._slots[key].in_flight for key in keys):
            return
        for key in keys:
            del self._slots[key]
        del self._gone[release]
        if self.carried:
            series = [one for one in self.carried["series"] if one["release"] != release]
            self.carried = {**self.carried, "series": series}

    def refuse(self, code: str) -> None:
        """Count one answer that the proxy gave itself, by its problem code."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def by_color(self, name: str) -> dict[str, int]:
        """The sum of one gauge (`in_flight`, `streams`, `websockets`) per color."""
        total: dict[str, int] = {}
        for slot in self._slots.values():
            total[slot.color] = total.get(slot.color, 0) + getattr(slot, name)
        return total

    def snapshot(
        self, upstreams: list[dict[str, Any]] | None = None, sessions: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Everything, JSON-able, with what a predecessor in this worker's place had counted (`carried`).

        `sessions`: numbers in dictionaries of any depth; all of them are counters, but those under `gauges`.
        """
        own: dict[str, Any] = {
            "bounds": list(BOUNDS),
            "series": [slot.as_dict() for slot in self._slots.values()],
            "counters": {
                "connections": self.connections_total,
                "refused": dict(self.refused),
                "dropped_fields": self.dropped_fields,
                "held": self.held,
            },
            "gauges": {"connections": self.connections},
            "upstreams": upstreams or [],
            "sessions": sessions or {},
        }
        return merge([self.carried, own]) if self.carried else own  # in this order: see `stand`

    def carry(self, snapshot: dict[str, Any]) -> int:
        """Go on from a dead predecessor's last snapshot: its counters; what it held then counts as broken by us.

        Returns how much that was.
        """
        carried = counters_of(snapshot)
        for old, series in zip(snapshot["series"], carried["series"], strict=True):
            series["broken_proxy"] = series.get("broken_proxy", 0) + old["in_flight"]
        self.carried = carried
        return sum(int(old["in_flight"]) for old in snapshot["series"])


def counters_of(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without its gauges, for a worker that is not there to hold anything.

    Raises `ValueError` for one whose histograms have other bounds, as of another version: they would not add up.
    """
    if snapshot["bounds"] != list(BOUNDS):
        raise ValueError("its histograms have other bounds")
    nothing = dict.fromkeys(_GAUGES, 0)
    series = [one | nothing for one in snapshot["series"]]
    sessions = {name: value for name, value in snapshot.get("sessions", {}).items() if name != "gauges"}
    return {**snapshot, "series": series, "gauges": {"connections": 0}, "upstreams": [], "sessions": sessions}


def merge(snapshots: list[dict[str, Any]]) -> dict[str, Any]:
    """Add snapshots up: series by route, color and release, upstreams by color and URL."""
    series: dict[tuple[str, str, str], dict[str, Any]] = {}
    upstreams: dict[tuple[str, str], dict[str, Any]] = {}
    total: dict[str, Any] = {
        "bounds": list(BOUNDS),
        "counters": {"connections": 0, "refused": {}, "dropped_fields": 0, "held": 0},
        "gauges": {"connections": 0},
        "sessions": {},
    }
    for snapshot in snapshots:
        for one in snapshot["series"]:
            key = (one["route"], one["color"], one["release"])
            series[key] = _add(series[key], one) if key in series else one
        for one in snapshot["upstreams"]:
            spot = (one["color"], one["url"])
            upstreams[spot] = _add(upstreams[spot], one) if spot in upstreams else one
        total["counters"] = _add(total["counters"], snapshot["counters"])
        total["gauges"] = _add(total["gauges"], snapshot["gauges"])
        total["sessions"] = _add(total["sessions"], snapshot.get("sessions", {}))  # of an older version: none
    return {**total, "series": list(series.values()), "upstreams": list(upstreams.values())}


def _add(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Numbers add, lists add place by place, `healthy` holds only where all say so, other texts stay as first seen."""
    result = dict(one)
    for name, value in other.items():
        mine = result.get(name)
        if mine is None or mine == "":
            result[name] = value
        elif isinstance(value, bool):
            result[name] = mine and value
        elif isinstance(value, int | float):
            result[name] = mine + value
        elif isinstance(value, list):
            result[name] = [a + b for a, b in zip(mine, value, strict=True)]
        elif isinstance(value, dict):
            result[name] = _add(mine, value)
    return result
