"""The fleet's whole state, and every decision that changes it.

Each decision takes a state and answers with a `Change` (the next state and what goes on record), with None where
nothing is to do, or raises the reason why not. Nothing here writes, waits or knows the time: the ledger commits a
change, and decides anew on the newer state when somebody else was faster. Times come in from the caller and are
replaced by the store's own when a change is committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bgproxy.errors import BadInput, FlipOpen, NotReady, Refused, StaleEpoch, UnknownColor
from bgproxy.rules.holds import Pause, Pending
from bgproxy.rules.obstacles import obstacles, removed
from bgproxy.rules.pin import Order
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import ENDED, POINTER_EVENTS, UNTRIED, Event, Phase, Release, checked
from bgproxy.rules.run import Run

_COLOR = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class FleetState:
    """Everything that one pointer governs. `revision` grows by one at each change, the pointer's or not.

    `colors` are in the order of the configuration; a color without a release has no entry in `releases`. `orders` are
    the moves of single sessions by hand, by their pins' ids. One stands until the pointer moves, its release is gone,
    or another takes its place; once it is carried out it says nothing any more. `run`: the release that is being
    brought out by a plan, or the last one that was. `pending` and `pause`: why new admissions are held.
    """

    revision: int
    pointer: Pointer
    releases: Mapping[str, Release]
    colors: tuple[str, ...]
    orders: Mapping[bytes, Order] = field(default_factory=dict)
    run: Run | None = None
    pending: Pending | None = None
    pause: Pause | None = None

    @property
    def is_held(self) -> bool:
        """Whether new admissions wait."""
        return self.pending is not None or self.pause is not None

    @property
    def active(self) -> Release | None:
        """The release that takes new traffic; None while the active color is empty."""
        return self.releases.get(self.pointer.active)


@dataclass(frozen=True, slots=True)
class Change:
    """A decided step, not yet made: the state after it (revision one higher) and what goes on the audit record.

    `base`: what it was decided on. It is made where that revision stands with that pointer, and nowhere else.

    `moved` and `touched` name what this change wrote, so that the store puts its own time on exactly that. `deadlines`:
    by color the seconds from that time to the deadline that is set. `ended`: to the flip of which epoch how many ended
    sessions are put by this change. `left`: the color whose sessions a higher epoch leaves where the pointer's color is
    the same. `whole`: the state takes the place of all that stands, whatever that is.
    """

    state: FleetState
    verb: str  # flip, rollback, stage, phase, drain, retire, bootstrap, configure, session, release, restore
    facts: Mapping[str, object]
    actor: str
    reason: str
    moved: bool = False
    touched: frozenset[str] = frozenset()
    deadlines: Mapping[str, float] = field(default_factory=dict)
    ended: tuple[int, int] = (0, 0)
    whole: bool = False
    left: str = ""
    base: FleetState | None = None

    def fits(self, standing: FleetState | None) -> bool:
        """Whether what stands is what this was decided on."""
        if standing is None or self.base is None:
            return standing is not None and standing.revision == self.state.revision - 1
        return (standing.revision, standing.pointer) == (self.base.revision, self.base.pointer)

    def stamped(self, now: float) -> FleetState:
        """The state with `now` (unix seconds by the store's clock) on all that this change wrote."""
        releases = {c: replace(r, at=now) if c in self.touched else r for c, r in self.state.releases.items()}
        for color, seconds in self.deadlines.items():
            releases[color] = replace(releases[color], deadline=round(now + seconds, 6))  # as every store writes it
        pointer = replace(self.state.pointer, at=now) if self.moved else self.state.pointer
        return replace(self.state, pointer=pointer, releases=releases)


def bootstrap(
    colors: Iterable[str], active: str, releases: Mapping[str, Release], actor: str, at: float, reason: str = ""
) -> Change:
    """The first state of a fleet: epoch 1, the active color's release ACTIVE, the others in the phase they come with.

    Raises `BadInput` for a color name that cannot be one or a release without upstreams, `UnknownColor` for an
    active color, or a release on a color, that is not among `colors`.
    """
    names = color_names(colors)
    for color in (active, *releases):
        known(names, color)
    placed = {color: replace(checked(release), at=at) for color, release in releases.items()}
    if active in placed:
        placed[active] = replace(placed[active], phase=Phase.ACTIVE)
    pointer = Pointer(active=active, previous=None, epoch=1, actor=actor, reason=reason, at=at)
    state = FleetState(revision=1, pointer=pointer, releases=placed, colors=names)
    facts = {"to": active, "releases": {color: release.label for color, release in placed.items()}}
    return Change(state, "bootstrap", facts, actor, reason, moved=True, touched=frozenset(placed))


def flip(
    state: FleetState,
    to: str,
    *,
    actor: str,
    reason: str,
    at: float,
    if_epoch: int | None = None,
    force: bool = False,
    bake: bool = False,
    problem: str | None = None,
) -> Change | None:
    """Move the pointer to `to`; None where it is there already.

    `problem` is why the target cannot serve now, as the caller found it (no healthy upstream). `force` overrides it,
    an empty color and a phase that is not READY, STANDBY or DRAINED, and each of these goes on record.
    Without `bake` the target is settled by the same change.
    Raises `UnknownColor`, `StaleEpoch` (looked at before anything else of the state), `FlipOpen`, `NotReady`.
    """
    known(state.colors, to)
    fresh(state, if_epoch)
    settled(state)
    if state.pointer.active == to:
        return None
    forced = _overridden(state, to, problem, force)
    return _move(state, to, "flip", Event.LEAVE, bake, forced, actor, reason, at)


def rollback(
    state: FleetState,
    *,
    actor: str,
    reason: str,
    at: float,
    if_epoch: int | None = None,
    force: bool = False,
    problem: str | None = None,
) -> Change:
    """Move the pointer back to the color that it came from; nothing is asked of the release being left.

    Refused where there is no previous color, or where it holds by now something that never was active: that would be
    a flip to a new release, not a rollback. A `problem` of the target refuses too: traffic is never rolled back in
    silence onto a release that is down. `force` overrides the last two. Raises as `flip` does.
    """
    fresh(state, if_epoch)
    settled(state)
    to = state.pointer.previous
    if to is None:
        raise Refused("there is nothing to roll back to: the pointer has not moved yet; flip to a color instead")
    target = state.releases.get(to)
    if target is not None and target.phase in UNTRIED and not force:
        raise Refused(
            f"{to} holds {target.label} by now, which has never been active: "
            f"flip to {to} if that is what you want; force overrides"
        )
    forced = _overridden(state, to, problem, force)
    return _move(state, to, "rollback", Event.ROLL_BACK, False, forced, actor, reason, at)


def stage(
    state: FleetState,
    color: str,
    release: Release,
    *,
    actor: str,
    reason: str,
    at: float,
    if_epoch: int | None = None,
    force: bool = False,
) -> Change | None:
    """Put a release on an idle color, as STAGED; None where exactly this one is already waiting there.

    Refused on the active color, forced or not: flip away first. Refused where the color's release may still hold
    sessions (STANDBY, ROLLED_BACK; a canary's) unless forced. Raises `UnknownColor`, `BadInput`, `StaleEpoch` and
    `Refused`.
    """
    known(state.colors, color)
    fresh(state, if_epoch)
    given = checked(release)
    new = Release(given.label, given.upstreams, given.routes, given.metadata, origin=given.origin, at=at)
    if state.pointer.active == color:
        raise Refused(f"{color} is active: stage on another color and flip to it, or flip away from {color} first")
    old = state.releases.get(color)
    if old is not None and old.phase in UNTRIED and old.same_content(new):
        return None
    if state.pending is not None and state.pending.to == color:
        settled(state)
    forced: list[str] = []
    if old is not None and state.run is not None and state.run.decides(color):
        if not force:
            raise Refused(f"{old.label} on {color} is being released ({state.run.id}): abort that; force overrides")
        forced.append(f"{state.run.id} was releasing {old.label}")
    if old is not None and old.phase not in UNTRIED | ENDED:
        if not force:
            raise Refused(
                f"{color} still holds {old.label}, which is {old.phase} and may have live sessions: wait until it is "
                "drained; force overrides"
            )
        forced.append(f"{color} held {old.label}, {old.phase}")
    for obstacle, remedy in obstacles(state.releases, color, new.label):
        if not force:
            raise Refused(f"{obstacle}: {remedy}; force overrides")
        forced.append(obstacle)
    new = new.following(old)
    facts = recorded(state, {color: new}, color=color, release=new.label, upstreams=list(new.upstreams), forced=forced)
    return changed(state, {color: new}, "stage", facts, actor, reason)


def step(
    state: FleetState,
    color: str,
    label: str,
    event: Event,
    *,
    actor: str,
    reason: str,
    at: float,
    evidence: Mapping[str, object] | None = None,
) -> Change | None:
    """Advance one release's phase for what has been found out about it.

    None where that news is late: the phase has no such step any more, or another label stands on the color. The
    events that belong to the pointer cannot be had here (`ValueError`): phase and pointer move in one change or not.
    """
    if event in POINTER_EVENTS:
        raise ValueError(f"{event} moves the pointer: use flip or rollback")
    known(state.colors, color)
    release = state.releases.get(color)
    if release is None or release.label != label:
        return None
    if event is Event.VALIDATE and release.phase is Phase.READY:
        return None  # who looked at its connections was overtaken; only a plan validates it again (`running.begin`)
    try:
        after = replace(release.after(event), at=at)
    except Refused:
        return None
    facts = recorded(state, {color: after}, color=color, release=label, event=str(event), evidence=dict(evidence or {}))
    return changed(state, {color: after}, "phase", facts, actor, reason)


def _move(
    state: FleetState,
    to: str,
    verb: str,
    leaving: Event,
    bake: bool,
    forced: list[str],
    actor: str,
    reason: str,
    at: float,
) -> Change:
    """The change that moves the pointer and both colors' phases, in one."""
    origin = state.pointer.active
    new: dict[str, Release] = {}
    target = state.releases.get(to)
    if (left := state.releases.get(origin)) is not None:
        rolled_back = state.pointer.epoch + 1 if leaving is Event.ROLL_BACK else left.rolled_back
        departed = replace(left.after(leaving), at=at, rolled_back=rolled_back, left=state.pointer.epoch + 1)
        parting = state.run.parting if state.run is not None and state.run.decides(to) else {}
        new[origin] = departed.turned(target.relieving() if target is not None else None, parting)
    if target is not None:
        arrived = target.after(_arrival(target, bool(forced)))
        if arrived.phase is Phase.BAKING and not bake:
            arrived = arrived.after(Event.SETTLE)
        # Its sessions that were not told yet that they are over simply go on.
        new[to] = replace(arrived.turned(), at=at)
    facts: dict[str, object] = {"from": origin, "to": to, **recorded(state, new, forced=forced)}
    if target is not None:
        facts["release"] = target.label
    moved = replace(state, pointer=state.pointer.moved(to, actor, reason, at))
    return replace(changed(moved, new, verb, facts, actor, reason, moved=True), base=state)


def _arrival(release: Release, forced: bool) -> Event:
    """By which event the pointer comes; only a forced flip may come against the table's plain `activate`."""
    if not forced or release.phase in (Phase.READY, Phase.STANDBY, Phase.DRAINED):
        return Event.ACTIVATE
    return Event.FORCE_ACTIVATE


def _overridden(state: FleetState, to: str, problem: str | None, force: bool) -> list[str]:
    """Why the target is not fit, each reason one text; raises `NotReady` with them unless forced."""
    release = state.releases.get(to)
    reasons = []
    if release is None:
        reasons.append(f"{to} has no release: stage one")
    elif release.phase is Phase.RETIRED:
        gone = ""
        if release.label in release.outdated:
            gone = f", and {removed(release, release.label)} what it needs: there is no rollback past it"
        raise NotReady(f"{to} holds {release.label}, which is retired{gone}: stage a release there")
    elif release.phase not in (Phase.READY, Phase.STANDBY, Phase.DRAINED):
        reasons.append(f"{to} holds {release.label}, which is {release.phase}")
    elif release.is_taken_down:
        reasons.append(f"{to} holds {release.label}, which is being taken down")
    if problem:
        reasons.append(problem)
    if reasons and not force:
        raise NotReady("; ".join(reasons) + "; force overrides and is on record")
    return reasons


def fresh(state: FleetState, if_epoch: int | None) -> None:
    """Raises `StaleEpoch` where the caller's epoch is not the one that stands."""
    epoch, active = state.pointer.epoch, state.pointer.active
    if if_epoch is not None and if_epoch != epoch:
        raise StaleEpoch(
            f"if_epoch is {if_epoch}, but the epoch is {epoch}, active: {active}", epoch=epoch, active=active
        )


def settled(state: FleetState) -> None:
    """Raises `FlipOpen` where a flip is under way."""
    pending = state.pending
    if pending is not None:
        by = f" by {pending.actor}" if pending.actor else ""
        raise FlipOpen(
            f"a {pending.verb} to {pending.to}{by} is under way: it is made or given up within "
            f"{pending.hold_timeout:g} s, try again then",
            flip={"verb": pending.verb, "to": pending.to, "epoch": pending.epoch, "actor": pending.actor},
        )


def known(colors: tuple[str, ...], color: str) -> None:
    """Raises `UnknownColor` for one that the fleet has not."""
    if color not in colors:
        raise UnknownColor(f"there is no color {color[:64]!r}; this fleet has {', '.join(colors)}")


def color_names(colors: Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(colors))
    for name in names:
        if not _COLOR.fullmatch(name):
            raise BadInput(f"color {name[:64]!r} cannot be used: 1 to 32 of a-z, 0-9, - and _, such as blue")
    if not names:
        raise BadInput("a fleet has at least one color")
    return names


def recorded(state: FleetState, new: Mapping[str, Release], **facts: object) -> dict[str, object]:
    """What goes on record: the phases that change, and of `facts` those that say something."""
    phases = {}
    for color, release in new.items():
        old = state.releases.get(color)
        if old is None or old.phase is not release.phase:
            phases[color] = [None if old is None else str(old.phase), str(release.phase)]
    return {name: value for name, value in {**facts, "phases": phases}.items() if value}


def changed(
    state: FleetState,
    new: Mapping[str, Release],
    verb: str,
    facts: Mapping[str, object],
    actor: str,
    reason: str,
    *,
    moved: bool = False,
) -> Change:
    """The change that puts these releases in place. `moved`: the pointer has, so no order for a session counts."""
    releases, orders = state.releases, state.orders
    if new:
        releases = {**releases, **{color: one.dated(releases.get(color)) for color, one in new.items()}}
        stand = {(color, release.label) for color, release in releases.items() if not release.ended}
        orders = {key: order for key, order in orders.items() if order.goal in stand}
    if moved:
        orders = {}
    after = replace(state, revision=state.revision + 1, releases=releases, orders=orders)
    return Change(after, verb, facts, actor, reason, moved=moved, touched=frozenset(new), base=state)
