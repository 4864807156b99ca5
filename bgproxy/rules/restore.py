"""What to make of a store that says something else than what a node holds, and how it is put right.

A store may lose what it has confirmed: its primary was lost before a replica had the newest change, it was emptied, or
an older copy was put back. Those who hold what it lost write it back. The higher epoch wins; of one pointer the higher
revision. Two different pointers of one epoch are a *split*: only an operator knows which of them is meant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from bgproxy.errors import Split, StoreForeign
from bgproxy.rules import fleet
from bgproxy.rules.fleet import Change, FleetState


class Verdict(Enum):
    """On what was found in the store, by a node that holds something."""

    SAME = "same"
    NEWER = "newer"  # it replaces what is held
    CHANGED = "changed"  # another content under the same revision and pointer: the store's counts
    BEHIND = "behind"  # it has lost what is held, all of it maybe
    PASSED = "passed"  # its epoch is higher, but its revision is not: it has to be written anew, above
    SPLIT = "split"
    FOREIGN = "foreign"  # it is no state of this fleet


def judge(held: FleetState, found: FleetState | None) -> Verdict:
    """What was found (None: nothing at all), seen from what is held."""
    if found is None:
        return Verdict.BEHIND
    if set(held.colors).isdisjoint(found.colors):  # a fleet's colors are added to, never taken away
        return Verdict.FOREIGN
    if found.pointer.epoch != held.pointer.epoch:
        if found.pointer.epoch < held.pointer.epoch:
            return Verdict.BEHIND
        return Verdict.NEWER if found.revision > held.revision else Verdict.PASSED
    if found.pointer != held.pointer and not _is_made_again(held, found):
        return Verdict.SPLIT
    if found.revision != held.revision:
        return Verdict.NEWER if found.revision > held.revision else Verdict.BEHIND
    return Verdict.SAME if _content(found) == _content(held) else Verdict.CHANGED


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A store that is at odds with what is held, which stands."""

    verdict: Verdict
    held: FleetState
    found: FleetState | None

    @property
    def heals(self) -> bool:
        """Whether it is put right without an operator."""
        return self.verdict in (Verdict.BEHIND, Verdict.PASSED)

    @property
    def text(self) -> str:
        """For people: both sides, and what is done or to be done."""
        if self.found is None:
            return (
                f"the store holds no state any more: it was emptied or replaced. Held is {_told(self.held)}, which "
                "stays and is written back"
            )
        both = f"the store says {_told(self.found)}; held is {_told(self.held)}, which stays"
        if self.verdict is Verdict.BEHIND:
            why = "restored from an older copy, or lost its newest changes in a failover"
            return f"{both} and is written back. The store was {why}"
        if self.verdict is Verdict.PASSED:
            return f"{both} until the store's, whose epoch is higher, is written anew above it"
        if self.verdict is Verdict.FOREIGN:
            whose = f"with the colors {', '.join(self.found.colors)} its data are another fleet's and are left alone"
            return f"{both}: {whose}. {self.remedy}"
        return f"{both}. They have one epoch and different pointers: nothing is overwritten. {self.remedy}"

    @property
    def remedy(self) -> str:
        """What an operator may do; nothing where it heals by itself."""
        if self.verdict is Verdict.FOREIGN:
            return "Name this fleet otherwise, use another database, or remove those data"
        if self.verdict is not Verdict.SPLIT or self.found is None:
            return ""
        colors = dict.fromkeys((self.held.pointer.active, self.found.pointer.active))
        return f"Decide: {' or '.join(f'`bgproxy flip {color} --force`' for color in colors)}"

    def document(self) -> dict[str, Any]:
        """Both sides as plain values."""
        return {
            "kind": self.verdict.value,
            "held": _side(self.held),
            "found": None if self.found is None else _side(self.found),
            "remedy": self.remedy,
        }


def restored(contradiction: Contradiction, *, actor: str, reason: str) -> Change:
    """The change that puts the store right; to be made on exactly what was found. Raises `Split`, `StoreForeign`.

    A flip that was pending is given up: who holds for it may not know of it any more.
    """
    held, found = contradiction.held, contradiction.found
    if not contradiction.heals:
        raise refusal(contradiction)
    wins = found if contradiction.verdict is Verdict.PASSED and found is not None else held
    loses = held if wins is found else found
    facts: dict[str, object] = {"found": None if found is None else _place(found), "restored": _place(wins)}
    return replace(_written(wins, loses, "restore", facts, actor, reason), base=found)


def decided(
    contradiction: Contradiction, to: str, *, actor: str, reason: str, at: float, if_epoch: int | None = None
) -> Change:
    """An operator's word on a split: the state whose pointer is on `to` goes on, under a higher epoch than both.

    Where both are, or neither, the store's: whichever node is asked, the same comes of it. To be made on exactly what
    was found. Raises `StaleEpoch`, `UnknownColor`, `NotReady`.
    """
    held, found = contradiction.held, contradiction.found
    fleet.fresh(held, if_epoch)
    assert contradiction.verdict is Verdict.SPLIT, "nothing else is to be decided"
    assert found is not None, "a split has two sides"
    wins, loses = (held, found) if held.pointer.active == to != found.pointer.active else (found, held)
    facts: dict[str, object] = {"to": to, "held": _side(held), "found": _side(found), "forced": ["a split"]}
    wins = replace(wins, pending=None)
    moved, touched = wins.pointer, frozenset[str]()
    if moved.active == to:
        moved = replace(moved, epoch=moved.epoch + 1, actor=actor, reason=reason, at=at)
        wins = replace(wins, pointer=moved, orders={})
    else:
        flip = fleet.flip(wins, to, actor=actor, reason=reason, at=at, force=True)
        assert flip is not None, "the pointer is elsewhere"
        wins, touched, facts = flip.state, flip.touched, {**flip.facts, **facts}
    change = _written(wins, loses, "flip", facts, actor, reason)
    return replace(change, moved=True, touched=touched, base=found)


def refusal(contradiction: Contradiction) -> Split | StoreForeign:
    """What is raised where only an operator can put it right."""
    if contradiction.verdict is Verdict.FOREIGN:
        return StoreForeign(contradiction.text)
    document = contradiction.document()
    return Split(contradiction.text, held=document["held"], found=document["found"])


def _written(
    wins: FleetState, loses: FleetState | None, verb: str, facts: dict[str, object], actor: str, reason: str
) -> Change:
    """Written whole, above both."""
    others = () if loses is None else loses.colors
    revision = max(wins.revision, loses.revision if loses is not None else 0) + 1
    state = replace(wins, revision=revision, colors=tuple(dict.fromkeys((*wins.colors, *others))), pending=None)
    dropped = {
        color: f"{release.label}, {release.phase}"
        for color, release in (loses.releases if loses is not None else {}).items()
        if (kept := wins.releases.get(color)) is None or kept.label != release.label
    }
    return Change(state, verb, {**facts, **({"dropped": dropped} if dropped else {})}, actor, reason, whole=True)


def _content(state: FleetState) -> FleetState:
    """Without deadlines, whose last digit a store may round otherwise; setting one is seen by its release's time."""
    return replace(state, releases={c: replace(release, deadline=0.0) for c, release in state.releases.items()})


def _is_made_again(held: FleetState, found: FleetState) -> bool:
    """Whether the two pointers are of one flip: a failover has lost that it was made, and it was finished once more."""
    labels = [{color: one.label for color, one in state.releases.items()} for state in (held, found)]
    return replace(found.pointer, at=held.pointer.at) == held.pointer and labels[0] == labels[1]


def _place(state: FleetState) -> dict[str, object]:
    return {"revision": state.revision, "epoch": state.pointer.epoch, "active": state.pointer.active}


def _side(state: FleetState) -> dict[str, object]:
    pointer = state.pointer
    who = {"previous": pointer.previous, "actor": pointer.actor, "reason": pointer.reason, "at": pointer.at}
    return {**_place(state), **who}


def _told(state: FleetState) -> str:
    pointer = state.pointer
    return f"revision {state.revision}, epoch {pointer.epoch}, active {pointer.active} ({pointer.actor})"
