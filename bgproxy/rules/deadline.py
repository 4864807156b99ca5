"""A drain's deadline: when the sessions that still live on a release which traffic has left are over.

Decides purely, as `fleet` does: an operator sets or cancels a deadline, and once it has passed the sessions are ended,
in one change for all of them. Nothing is cut by it: a session is told so with its next request. Only the store's clock
counts, so the moment is the same for every node; one that looks late ends them late, none can end them early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from bgproxy.errors import BadInput, Refused
from bgproxy.rules.fleet import Change, FleetState, changed, known, recorded
from bgproxy.rules.release import LEAVING, Release

LONGEST: Final = 30 * 86_400.0
"""Seconds from now to a deadline at most: one that is farther away is a slip of the hand."""


def set_deadline(
    state: FleetState, color: str, seconds: float | None, *, actor: str, reason: str, at: float
) -> Change | None:
    """End what still lives on a color's release `seconds` from now; None cancels.

    The deadline counts from the store's time of this change. Nothing to do (None) where one is cancelled that there
    is not. Raises `UnknownColor`, `BadInput`, and `Refused` where nothing drains or the sessions are ended already.
    """
    known(state.colors, color)
    if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds <= LONGEST):
        raise BadInput(f"deadline: {seconds:g} cannot be used: 0 to {LONGEST:g} seconds from now, or null to cancel")
    release = _draining(state, color)
    if release.ended:
        raise Refused(
            f"the sessions of {release.label} on {color} were ended already: what is in flight there ends by itself"
        )
    if seconds is None and not release.deadline:
        return None
    # To the millisecond, so that both stores write the same moment.
    away = {} if seconds is None else {color: round(seconds, 3)}
    after = replace(release, deadline=at + away[color] if away else 0.0, at=at)
    facts = {"color": color, "release": release.label, "deadline": away.get(color)}
    return replace(changed(state, {color: after}, "drain", facts, actor, reason), deadlines=away)


def _draining(state: FleetState, color: str) -> Release:
    release = state.releases.get(color)
    if state.pointer.active == color:
        raise Refused(f"{color} is active, so nothing drains there: flip to another color first")
    if release is None:
        raise Refused(f"{color} has no release, so nothing drains there")
    if release.phase not in LEAVING:
        raise Refused(f"nothing drains on {color}: {release.label} is {release.phase}")
    return release


def end_sessions(
    state: FleetState,
    color: str,
    label: str,
    *,
    actor: str,
    reason: str,
    at: float,
    evidence: Mapping[str, object],
) -> Change | None:
    """The deadline of a color's release has passed: its sessions are over. `at`: the store's time, in unix seconds.

    `evidence` goes on record; its `sessions`, how many lived there, are put to the flip that left the release.
    None where that is late: another label stands there, traffic has come back, the deadline was cancelled or is still
    to come, or the sessions are ended already. Raises `UnknownColor`.
    """
    known(state.colors, color)
    release = state.releases.get(color)
    if release is None or release.label != label or state.pointer.active == color or release.phase not in LEAVING:
        return None
    if release.ended or not release.deadline or release.deadline > at:
        return None
    after = replace(release, ended=True, at=at)
    facts = recorded(state, {color: after}, color=color, release=label, ended=True, evidence=dict(evidence))
    sessions = evidence.get("sessions")
    change = changed(state, {color: after}, "drain", facts, actor, reason)
    return replace(change, ended=(release.left, sessions if isinstance(sessions, int) else 0))
