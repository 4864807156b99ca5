"""One release out of the whole audit: its timeline, runs, gates, flips, approvals and what it cost, as one document.

Pure: entries go in one by one, the oldest first; nothing is asked. What an entry says is taken as it stands there: the
audit is what others wrote, agents among them, so nothing here relies on its form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

Entry = Mapping[str, Any]

_MOVES: Final = ("flip", "rollback")
_BEGINS: Final = ("stage", "bootstrap", "configure")
_AIMED: Final = ("release", "releases", "color", "from", "to", "phases")
"""Members that say whom an entry is about; one without any of them is about the fleet, such as an outage."""


class Record:
    """What is known of the release of that label; see `document`."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._holds: dict[str, str] = {}  # by color the label that stands there, as far as it is known
        self._own: list[Entry] = []
        self._pending: list[Entry] = []  # about the fleet, since the newest own entry
        self.known: dict[str, None] = {}  # all labels that are on record, in their order
        self._has_begun = False

    def take(self, entry: Entry) -> None:
        """The next entry of the audit."""
        facts = _table(entry.get("facts"))
        verb = str(entry.get("verb"))
        about = self._is_about(verb, facts)
        self._learn(verb, facts)
        about = about or self._is_about(verb, facts)
        if about:
            self._has_begun = self._has_begun or verb in _BEGINS or (verb == "release" and facts.get("step") == "begin")
            self._own += [*self._pending, entry] if self._own else [entry]
            self._pending = []
        elif self._own and self._stands and not any(name in facts for name in _AIMED):
            self._pending.append(entry)

    def _is_about(self, verb: str, facts: Mapping[str, Any]) -> bool:
        if facts.get("release") == self._label or self._label in _table(facts.get("releases")).values():
            return True
        if verb in _MOVES:
            return self._label in (self._holds.get(str(facts.get("from"))), self._holds.get(str(facts.get("to"))))
        if "release" in facts:
            return False
        colors = [*_table(facts.get("phases")), facts.get("color")]
        return any(self._holds.get(str(color)) == self._label for color in colors)

    def _learn(self, verb: str, facts: Mapping[str, Any]) -> None:
        placed = {str(color): str(label) for color, label in _table(facts.get("releases")).items()}
        if isinstance(label := facts.get("release"), str):
            color = facts.get("to") if verb in _MOVES else facts.get("color")
            placed |= {color: label} if isinstance(color, str) else {}
        self._holds |= placed
        self.known |= dict.fromkeys(placed.values())

    @property
    def _stands(self) -> bool:
        return self._label in self._holds.values()

    @property
    def is_known(self) -> bool:
        """Whether anything is on record of it."""
        return bool(self._own)

    def epochs(self) -> list[int]:
        """Of the flips and rollbacks by which it got traffic, or lost it."""
        return [
            entry["epoch"] for entry in self._own if entry.get("verb") in _MOVES and isinstance(entry["epoch"], int)
        ]

    def document(self, chain: Mapping[str, Any], ledgers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """All of it as plain JSON values. `chain`: what verifying the audit found; `ledgers`: of flips, by epoch."""
        runs = self._runs()
        steps = [step for run in runs for step in run["steps"]]
        return {
            "release": self._label,
            "runs": runs,
            "comparisons": [one for step in steps if (one := _comparison(step)) is not None],
            "approvals": [*self._approvals()],
            "flips": [{**flip, "ledger": ledgers.get(flip["epoch"])} for flip in self._flips()],
            "double_running": [*self._freed()],
            "begins": self._begins(chain),
            "chain": {**chain, "own": [_link(entry) for entry in (self._own[0], self._own[-1])]},
            "timeline": [dict(entry) for entry in self._own],
        }

    def _begins(self, chain: Mapping[str, Any]) -> dict[str, Any]:
        """Whether its beginning is on record, or retention has taken it."""
        first = chain.get("first")
        cut = isinstance(first, int) and first > 1
        if self._has_begun:
            said = "its beginning is on record"
        elif cut:
            said = f"its beginning is not on record any more: retention has taken all entries before number {first}"
        else:
            said = "its beginning is not on record"
        return {"known": self._has_begun, "oldest_entry": first, "said": said}

    def _runs(self) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for entry in self._own:
            facts = _table(entry.get("facts"))
            if entry.get("verb") != "release" or not isinstance(name := facts.get("run"), str):
                continue
            run = found.setdefault(name, _begun(name, entry))
            step = str(facts.get("step"))
            if step == "begin":
                run |= {"kind": facts.get("kind"), "plan": facts.get("plan"), "begun": True}
            elif "verdict" in facts:
                told = {member: facts.get(member) for member in ("verdict", "why", "took", "evidence")}
                run["steps"].append({"name": step, "run": name, "at": entry.get("at"), **told})
            if facts.get("outcome"):
                run |= {"outcome": facts["outcome"], "why": entry.get("reason"), "ended": entry.get("at")}
        return [*found.values()]

    def _approvals(self) -> Iterator[dict[str, Any]]:
        for entry in self._own:
            facts = _table(entry.get("facts"))
            step = str(facts.get("step"))
            if entry.get("verb") == "release" and step.startswith("approve "):
                gate = step.removeprefix("approve ")
                yield {"gate": gate, "run": facts.get("run"), **_who(entry)}

    def _flips(self) -> Iterator[dict[str, Any]]:
        for entry in self._own:
            facts = _table(entry.get("facts"))
            if entry.get("verb") in _MOVES:
                moved = {name: facts.get(name) for name in ("from", "to", "release", "forced")}
                yield {"verb": entry.get("verb"), "epoch": entry.get("epoch"), **moved, **_who(entry)}

    def _freed(self) -> Iterator[dict[str, Any]]:
        for entry in self._own:
            facts = _table(entry.get("facts"))
            if freed := _table(facts.get("freed")):
                yield {"retired": facts.get("release"), "at": entry.get("at"), **freed}


def _begun(name: str, entry: Entry) -> dict[str, Any]:
    """A run as its first entry that is on record tells of it."""
    facts = _table(entry.get("facts"))
    what: dict[str, Any] = {
        "id": name,
        "kind": None,
        "color": facts.get("color"),
        "plan": None,
        "begun": False,
        "steps": [],
    }
    return {**what, **_who(entry), "outcome": None, "why": "", "ended": None}


def _comparison(step: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures of both releases that a step has measured, as a load gate and the bake do."""
    evidence = _table(step.get("evidence"))
    new, old = _figures(evidence.get("new")), _figures(evidence.get("old"))
    if not new and not old:
        return None
    series = {side: _points(_table(evidence.get("series")).get(side)) for side in ("old", "new")}
    about = {name: step.get(name) for name in ("name", "run", "at", "verdict")}
    return {**about, "new": new, "old": old, "series": series}


def _figures(found: object) -> dict[str, float]:
    return {str(name): value for name, value in _table(found).items() if _is_number(value)}


def _points(found: object) -> list[list[float]]:
    return [[*point] for point in found if _is_point(point)] if isinstance(found, list) else []


def _is_point(point: object) -> bool:
    return isinstance(point, list) and len(point) == 4 and all(map(_is_number, point))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _who(entry: Entry) -> dict[str, Any]:
    return {"actor": entry.get("actor"), "reason": entry.get("reason"), "at": entry.get("at")}


def _link(entry: Entry) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("id", "seq", "hash")}


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
