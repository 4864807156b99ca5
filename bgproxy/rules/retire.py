"""How a drained release is taken down: ordered, carried out by one node, RETIRED with what that freed on record.

Decides purely, as `fleet` does. The order stands in the state, so whoever carries it out may die: another takes it
over, and what the order runs is run again. Until it has begun a flip back is as good as ever, and makes it void; while
it is carried out a flip there is refused, as nobody knows what still runs there. `at` is the store's time throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from bgproxy.errors import Refused
from bgproxy.rules.fleet import Change, FleetState, changed, known, recorded
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.release import Event, Phase, Release, Retirement

_LEFT: Final = frozenset({Phase.STANDBY, Phase.DRAINED})
"""It has served, and serves no more: what may be taken down once it is empty."""

CONTRACT: Final = "migrate:contract"
"""The step behind a retirement, where the plan that brought the successor has it."""

FIRST_PAUSE: Final = 60.0
LONGEST_PAUSE: Final = 3600.0
"""Seconds until what failed is tried again: doubled at each failure, to the longest."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What running two releases costs: replicas that stand idle, from `since` on (unix seconds, store's clock).

    First those of the new release, from its staging to the flip, then those of the old one, until it is RETIRED; of
    releases that were flipped back and forth all that was idle. `replica_seconds`: addresses times seconds.
    """

    since: float
    replicas: int  # idle now
    replica_seconds: float
    successor: str  # by which it was relieved; empty: it waits itself

    @property
    def replica_hours(self) -> float:
        return self.replica_seconds / 3600

    def document(self) -> dict[str, object]:
        """As it is told and put on record."""
        told: dict[str, object] = {"since": self.since, "replicas": self.replicas}
        return {**told, "replica_hours": round(self.replica_hours, 6), "successor": self.successor or None}


def cost(release: Release, at: float) -> Cost | None:
    """What a release that stands idle has cost so far; None for one that does not."""
    since, relief = release.idle_since, release.relief
    if not since:
        return None
    idle = release.replicas * max(0.0, at - since)
    if relief is None:
        return Cost(since, release.replicas, idle, "")
    waited = relief.spent + relief.replicas * max(0.0, since - relief.since) if relief.since else 0.0
    return Cost(relief.began or since, release.replicas, waited + idle, relief.label)


def order(
    state: FleetState,
    color: str,
    *,
    window: float,
    actor: str,
    reason: str,
    at: float,
    force: bool = False,
    when_drained: bool = False,
    again: bool = False,
) -> Change | None:
    """Order that a color's release is taken down; None where it is RETIRED, or that was ordered and is still to come.

    `window`: the rollback window, seconds; `force` does not wait for it, and ends the sessions that still live there.
    `when_drained`: it stands until the release is drained and the window over; else that is refused (`Refused`) while
    it is not so. `again`: what fails is tried again. Raises `UnknownColor`.
    """
    known(state.colors, color)
    release = _retirable(state, color)
    if release is None:
        return None
    standing, is_gone = release.retirement, release.phase is Phase.RETIRED
    if standing is not None and not standing.is_over and (standing.leader or standing.forced or not force):
        return None
    due = 0.0 if is_gone else release.idle_since + window
    if not (force or when_drained or is_gone):
        _ripe(release, color, due, window, at)
    when = 0.0 if force else due
    order = Retirement(actor, reason, when, forced=force, again=again or when_drained, contract=is_gone)
    after = replace(release, retirement=order, at=at)
    facts = {"color": color, "release": release.label, "order": True}
    facts |= {"forced": True} if force else {"due": round(due, 3)}
    facts |= {"contract": True, "after_this": no_return(release)} if release.owes_contract else {}
    ending = force and release.phase is Phase.STANDBY and not release.ended
    change = changed(state, {color: after}, "retire", facts, actor, reason)
    return replace(change, deadlines={color: 0.0}) if ending else change


def _retirable(state: FleetState, color: str) -> Release | None:
    """The release that may be taken down, or owes a contract step; None where all is done. Raises `Refused` with the
    reason why not."""
    release = state.releases.get(color)
    if state.pointer.active == color:
        raise Refused(f"{color} is active and is never retired: flip to another color first")
    if release is None:
        raise Refused(f"{color} has no release, so there is nothing to retire")
    if release.phase is Phase.RETIRED:
        return release if release.owes_contract else None
    if release.phase not in _LEFT:
        raise Refused(
            f"{color} holds {release.label}, which is {release.phase}: only what has served and is drained is retired; "
            "stage another release over it"
        )
    if (run := _watched(state)) is not None:
        raise Refused(f"{run} is not over yet, and may roll back to {release.label}: wait for its end, or abort it")
    return release


def _watched(state: FleetState) -> str | None:
    """The id of the run that has flipped and is still open: where it came from must stay."""
    run = state.run
    return run.id if run is not None and run.is_open and run.has_flipped else None


def _ripe(release: Release, color: str, due: float, window: float, at: float) -> None:
    if release.phase is not Phase.DRAINED:
        raise Refused(
            f"{color} holds {release.label}, which is not drained: `bgproxy drain {color}` says what holds it; "
            "--when-drained retires it then, --force ends the sessions that still live there"
        )
    if at < due:
        raise Refused(
            f"the rollback window of {release.label} on {color} is open for {due - at:.0f} s yet, of {window:g} s: "
            "until then it stays one flip away; --when-drained retires it then, --force at once"
        )


def cancel(state: FleetState, color: str, *, actor: str, reason: str, at: float) -> Change | None:
    """Take an order back; None where there is none. Raises `UnknownColor`, and `Refused` once it is carried out."""
    known(state.colors, color)
    release = state.releases.get(color)
    if release is None or release.retirement is None:
        return None
    if release.retirement.leader:
        raise Refused(f"{release.label} on {color} is being taken down: it is too late to take that back")
    facts = {"color": color, "release": release.label, "cancelled": True}
    return changed(state, {color: replace(release, retirement=None, at=at)}, "retire", facts, actor, reason)


def is_due(state: FleetState, color: str, at: float) -> bool:
    """Whether the order to retire what a color holds may be carried out now."""
    release = state.releases.get(color)
    standing = release.retirement if release is not None else None
    if release is None or standing is None or standing.is_over or state.pointer.active == color:
        return False
    return release.phase is _phase(standing) and standing.due <= at and _watched(state) is None


def lead(state: FleetState, color: str, label: str, before: str, leader: str, *, at: float) -> Change | None:
    """Carry an order out from now on, in place of `before` (a node's id; empty: nobody does); None where that is late.

    An empty `leader` lets another node go on.
    """
    release = _ordered(state, color, label, before)
    if release is None or release.retirement is None or (not before and not is_due(state, color, at)):
        return None
    after = replace(release, retirement=replace(release.retirement, leader=leader), at=at)
    facts: dict[str, object] = {"color": color, "release": label, "leader": leader}
    facts |= {"before": before} if before else {}
    return changed(state, {color: after}, "retire", facts, release.retirement.actor, release.retirement.reason)


def finish(
    state: FleetState, color: str, label: str, leader: str, finding: Finding, *, at: float, contract: bool = False
) -> Change | None:
    """Put on record what came of an order: the release is RETIRED, or stays DRAINED. None where that is late.

    `contract`: it was found out at the contract step. One node leads both, and may not know that the first is done.
    """
    release = _ordered(state, color, label, leader)
    if release is None or (standing := release.retirement) is None or standing.contract != contract:
        return None
    finding = finding.bounded()
    said: dict[str, object] = {"verdict": str(finding.verdict), "why": finding.why, "evidence": dict(finding.evidence)}
    said |= {"step": CONTRACT} if standing.contract else {}
    if finding.verdict is Verdict.PASS:
        return _put(state, color, *_done(release, standing, said, at), standing)
    pause = min(FIRST_PAUSE * 2**standing.tries, LONGEST_PAUSE)
    failed = replace(standing, leader="", tries=standing.tries + 1, why=finding.why, due=round(at + pause, 3))
    return _put(state, color, replace(release, retirement=failed, at=at), {**said, "again": standing.again}, standing)


def _done(
    release: Release, standing: Retirement, said: Mapping[str, object], at: float
) -> tuple[Release, Mapping[str, object]]:
    """The release once its hook, or the contract step behind that, has passed; and what goes on record."""
    if standing.contract:
        left = {name: part for name, part in release.parting.items() if name != "migrate"}
        return replace(release, retirement=None, parting=left, at=at), said
    after, facts = replace(release.after(Event.RETIRE), retirement=None, at=at), {**said, "freed": _freed(release, at)}
    if not release.owes_contract:
        return after, facts
    # From here on it may be gone, whatever comes of the step: so there is no way back from this change on.
    by = release.relief.label if release.relief is not None else "its successor"
    order = replace(standing, contract=True, tries=0, why="")
    after = replace(after, retirement=order, outdated={**release.outdated, release.label: by})
    return after, {**facts, "next": CONTRACT, "after_this": no_return(release)}


def no_return(release: Release) -> str:
    """What is said before a contract step is done; empty where none is."""
    if not release.owes_contract:
        return ""
    by = release.relief.label if release.relief is not None else "its successor"
    return f"{by}'s contract step removes what {release.label} needs: after this no rollback to it, nor staging it anew"


def _freed(release: Release, at: float) -> Mapping[str, object]:
    """What is not run twice any more. The evidence of `phase` entries has the same place for theirs."""
    spent = cost(release, at)
    return spent.document() if spent is not None else {}


def _put(state: FleetState, color: str, after: Release, facts: Mapping[str, object], by: Retirement) -> Change:
    told = {**recorded(state, {color: after}, color=color, release=after.label, forced=by.forced), **facts}
    return changed(state, {color: after}, "retire", told, by.actor, by.reason)


def _ordered(state: FleetState, color: str, label: str, leader: str) -> Release | None:
    """The release of that label, ripe for its order, which that node carries out; else None."""
    release = state.releases.get(color)
    if release is None or release.label != label or release.retirement is None or state.pointer.active == color:
        return None
    fits = release.phase is _phase(release.retirement) and release.retirement.leader == leader
    return release if fits else None


def _phase(order: Retirement) -> Phase:
    """In which phase a release must be for its order to be carried out."""
    return Phase.RETIRED if order.contract else Phase.DRAINED
