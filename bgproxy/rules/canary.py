"""A share of new sessions that begin on the release that is being brought out, before the pointer moves.

It is read off the run that stands in the state, so it begins and ends with that run's step, for every node and for the
store's scripts alike. Which sessions it takes follows from their keys: every node and every store says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Final

from bgproxy.rules.fleet import FleetState
from bgproxy.rules.plan import Match
from bgproxy.rules.release import UNTRIED
from bgproxy.rules.run import CANARY

LISTED: Final = "*"
"""The wish of a session that its request's fields put on the list: the canary's color, while there is one."""

_WHOLE: Final = 2**32


@dataclass(frozen=True, slots=True)
class Canary:
    """One that is on. `share` from 0 to 1; `epoch`: the pointer's beside which it stands; `since`: unix seconds."""

    color: str
    release: str
    share: float
    epoch: int
    since: float
    match: tuple[Match, ...] = ()

    @property
    def below(self) -> int:
        """The share as a number out of 2³²."""
        return floor(self.share * _WHOLE)

    def takes(self, key: bytes, wish: str) -> bool:
        """Whether a new session of that key (its digest: it is as good as drawn) begins there."""
        return wish == LISTED or (not wish and int.from_bytes(key[:4], "big") < self.below)

    def document(self) -> dict[str, object]:
        """What the script that pins sessions reads."""
        return {"color": self.color, "release": self.release, "below": self.below, "epoch": self.epoch}


def canary(state: FleetState) -> Canary | None:
    """The canary that is on by that state; None where none is."""
    run, pointer = state.run, state.pointer
    if run is None or not run.is_open or run.next != CANARY or run.epoch != pointer.epoch:
        return None
    release = state.releases.get(run.color)
    if release is None or release.label != run.label or release.phase not in UNTRIED or run.color == pointer.active:
        return None
    share, match = _written(run.plan.get(CANARY))
    return Canary(run.color, run.label, share, pointer.epoch, run.since, match)


def _written(section: object) -> tuple[float, tuple[Match, ...]]:
    """Share and list as the run's plan is written, which was checked before it began."""
    if not isinstance(section, Mapping):
        return 0.0, ()
    listed = section.get("match", ())
    share = section.get("share", 0.0)
    found = [Match(**{**one, "values": _texts(one.get("values", ()))}) for one in listed]
    return min(1.0, max(0.0, float(share))), tuple(found)


def _texts(values: object) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(map(str, values))  # type: ignore[call-overload]
