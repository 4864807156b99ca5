"""This node's windows: what each release answered, second by second, and since something began to be watched.

Made of differences of what the data path counts anyway, so a request pays nothing for it. The seconds are kept for as
long as a baseline may reach back; what is watched is added up from its beginning, so that what was told last of a node
that died is all that it had counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from bgproxy.rules.watch import LONGEST_BASELINE, Watch
from bgproxy.rules.window import Times, Window, window_from
from bgproxy.telemetry.metrics import Histogram, Metrics, Slot

Key = tuple[str, str]
"""A color and a release's label."""


class _Counted:
    """What a slot held when it was last looked at."""

    def __init__(self) -> None:
        self.answers = self.errors = 0
        self.latency = Histogram().parts
        self.first_byte = Histogram().parts


class Windows:
    """See the module. `tick` is to be called about once a second."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._counted: dict[Slot, _Counted] = {}
        self._seconds: deque[tuple[float, dict[Key, Window]]] = deque()  # each with its end
        self._serial = 0
        self._flipped = clock()
        self.watch = Watch()
        self._since: dict[Key, Window] = {}
        self._before: dict[Key, Window] = {}

    def tick(self) -> None:
        """End the second that is under way."""
        now = self._clock()
        found: dict[Key, Window] = {}
        slots = self._metrics.slots()
        for slot in slots:
            counted = self._counted.get(slot)
            if counted is None:
                counted = self._counted[slot] = _Counted()
            if (window := _difference(slot, counted)) is not None:
                key = slot.color, slot.release
                found[key] = found[key].plus(window) if key in found else window
        if len(self._counted) > len(slots):
            self._counted = {slot: self._counted[slot] for slot in slots}
        if found:
            self._seconds.append((now, found))
            if self.watch.name:
                self._since = summed([self._since, found])
        while self._seconds and self._seconds[0][0] <= now - LONGEST_BASELINE:
            self._seconds.popleft()

    def flipped(self) -> None:
        """The pointer has moved right now."""
        self.tick()
        self._flipped = self._clock()

    def begin(self, watch: Watch) -> None:
        """From now on, or from the last flip on, this is watched; what came just before that is its baseline. One
        without a name: nothing."""
        self.tick()
        self.watch = watch
        start = self._flipped if watch.since_flip else self._clock()
        kept = self._seconds if watch.name else ()
        self._since = summed(found for end, found in kept if end > start)
        self._before = summed(found for end, found in kept if start - watch.baseline < end <= start)

    def report(self) -> Report:
        """Of what is watched, as of the last tick."""
        self._serial += 1
        return Report(self._serial, self._since, self._before)


@dataclass(frozen=True, slots=True)
class Report:
    """What a node tells of what is watched. `since`: it began there; `before`: in the baseline that ended with that."""

    serial: int
    since: Mapping[Key, Window] = field(default_factory=dict)
    before: Mapping[Key, Window] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"serial": self.serial, "since": _listed(self.since), "before": _listed(self.before)}


def report_from(document: Any) -> Report:
    """The report of a document. Raises `KeyError`, `TypeError` or `ValueError`."""
    return Report(int(document["serial"]), _read(document["since"]), _read(document["before"]))


def summed(many: Iterable[Mapping[Key, Window]]) -> dict[Key, Window]:
    """All of them together, per release."""
    found: dict[Key, Window] = {}
    for one in many:
        for key, window in one.items():
            found[key] = found[key].plus(window) if key in found else window
    return found


def _listed(windows: Mapping[Key, Window]) -> list[dict[str, Any]]:
    return [{"color": color, "release": label, **one.document()} for (color, label), one in windows.items()]


def _read(listed: Any) -> dict[Key, Window]:
    return {(str(one["color"]), str(one["release"])): window_from(one) for one in listed}


def _difference(slot: Slot, before: _Counted) -> Window | None:
    """What came to the slot since, noted as counted; None where nothing has."""
    answers = sum(slot.classes) - slot.classes[0] - sum(slot.own)
    errors = slot.classes[5] - slot.own[5] + slot.broken_late
    latency = _grown(before.latency, slot.latency.parts)
    first_byte = _grown(before.first_byte, slot.ttfb.parts)
    came = answers - before.answers, errors - before.errors
    if came == (0, 0) and not latency:
        return None
    before.answers, before.errors = answers, errors
    before.latency, before.first_byte = [*slot.latency.parts], [*slot.ttfb.parts]
    return Window(*came, Times(latency), Times(first_byte))


def _grown(before: list[int], now: list[int]) -> dict[int, int]:
    """By part how many more there are."""
    if before == now:
        return {}
    return {part: mine - other for part, (mine, other) in enumerate(zip(now, before, strict=True)) if mine != other}
