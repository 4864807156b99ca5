"""A release's run: which steps of its plan are done, with their verdicts, who leads it, and what became of it.

It stands in the fleet's state, so whoever leads it may die at any point: another node goes on with the first step that
is not done. How it changes: `running.py`.

    migrate:expand …                first of all, so that all that is tried is tried on the schema that it will have
    ready, parity, gate:NAME …, approval:NAME, mirror
                                    VALIDATING; the last one that passes makes the release READY, one that does not
                                    REJECTED, and the run is over with nothing flipped
    before:STEP:HOOK, after:STEP:HOOK
                                    the first may stop it as a gate does, before a flip with the release READY; the
                                    others change nothing
    canary                          a share of new sessions begins there (`canary.py`); else as a gate, but a release
                                    that had them is ROLLED_BACK, and REJECTED once it is drained
    flip                            BAKING where the plan has a bake, else ACTIVE
    bake                            ACTIVE, or the rollback that was made
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import Gate, ManualGate, Plan

Kind = Literal["release", "validate", "bake"]
Outcome = Literal["", "settled", "validated", "stopped", "aborted", "rolled_back"]

READY: Final = "ready"
PARITY: Final = "parity"
GATE: Final = "gate:"
APPROVAL: Final = "approval:"
"""A gate that somebody has to pass by hand."""
BEFORE: Final = "before:"
AFTER: Final = "after:"
GATES: Final = "gates"
MIRROR: Final = "mirror"
END: Final = "end"
CANARY: Final = "canary"
FLIP: Final = "flip"
BAKE: Final = "bake"
MIGRATE: Final = "migrate"
EXPAND: Final = "migrate:expand"
REVERT: Final = "migrate:revert"
EXPAND_AGAIN: Final = "migrate:expand-again"
PARTING: Final = ("decommission", "migrate")
"""The parts of a plan that outlive its run."""


@dataclass(frozen=True, slots=True)
class Step:
    """One that is done. `at`: unix seconds by the store's clock; `took`: seconds."""

    name: str
    verdict: Verdict
    why: str
    at: float
    took: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `outcome` is empty while it is open; `at`: when it last changed, unix seconds by the store's clock.

    `plan`: as it was written; gone once the run is over, as the record has it. `todo`: the names of all steps, in their
    order; `done` is how far it came. `epoch`: the pointer's when it began. `leader`: a node's id. `approvals`: by the
    name of a gate, who gave it. `trouble`: why it stands where it must not stay. `tell`: what is still to be done after
    the end: the revert, the names of hooks that are to be told.
    """

    id: str
    kind: Kind
    color: str
    label: str
    plan: Mapping[str, object]
    todo: tuple[str, ...]
    actor: str
    reason: str
    epoch: int
    leader: str
    began: float
    at: float
    done: tuple[Step, ...] = ()
    approvals: Mapping[str, str] = field(default_factory=dict)
    tell: tuple[str, ...] = ()
    trouble: str = ""
    outcome: Outcome = ""
    why: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there is something left to do."""
        return not self.outcome

    @property
    def next(self) -> str:
        """The first step that is not done; empty where all are."""
        return self.todo[len(self.done)] if len(self.done) < len(self.todo) else ""

    @property
    def since(self) -> float:
        """When the step that is next began, whoever leads it now: unix seconds by the store's clock."""
        return self.done[-1].at if self.done else self.began

    @property
    def has_flipped(self) -> bool:
        """Whether it has moved the pointer, or began after somebody had."""
        return self.kind == "bake" or any(step.name == FLIP and step.verdict is Verdict.PASS for step in self.done)

    @property
    def parting(self) -> Mapping[str, object]:
        """Of its plan what is to be done once the release that it replaces is drained."""
        return {name: self.plan[name] for name in PARTING if name in self.plan}

    @property
    def has_expanded(self) -> bool:
        """Whether the schema is expanded, or may be: a step towards it is done in part, or under way."""
        names = [step.name for step in self.done if step.name.startswith(MIGRATE)]
        if self.next.startswith(MIGRATE) and not self._is_stopped:
            names.append(self.next)
        last = names[-1] if names else ""
        return last.startswith(EXPAND) or (last == REVERT and not self._is_reverted)

    @property
    def _is_stopped(self) -> bool:
        """Whether its last step says no: what would be next is not under way."""
        return (
            bool(self.done) and not self.done[-1].name.startswith(AFTER) and self.done[-1].verdict is not Verdict.PASS
        )

    @property
    def _is_reverted(self) -> bool:
        return any(step.name == REVERT and step.verdict is Verdict.PASS for step in self.done)

    @property
    def has_failed(self) -> bool:
        """Whether its release was found to be bad after the flip, so that it has to be rolled back."""
        return any(step.name == BAKE and step.verdict is not Verdict.PASS for step in self.done)

    @property
    def has_had_sessions(self) -> bool:
        """Whether sessions of clients may have begun on its release before the flip."""
        return (self.next == CANARY and not self._is_stopped) or any(step.name == CANARY for step in self.done)

    def decides(self, color: str) -> bool:
        """Whether it says what becomes of the release on a color: then nobody else calls that ready, or replaces it."""
        return self.is_open and self.color == color and not self.has_flipped


def step_of(gate: Gate) -> str:
    """The name of a gate's step."""
    return (APPROVAL if isinstance(gate, ManualGate) else GATE) + gate.name


def steps(plan: Plan, kind: Kind) -> tuple[str, ...]:
    """The names of a plan's steps, in their order."""
    groups: list[tuple[str, tuple[str, ...]]] = []
    if plan.migrate is not None and plan.migrate.expand is not None:
        groups.append((MIGRATE, (EXPAND, REVERT, EXPAND_AGAIN) if plan.migrate.rehearse else (EXPAND,)))
    groups += [(READY, (READY,)), (PARITY, (PARITY,))]
    groups.append((GATES, tuple(map(step_of, plan.gates))))
    if kind == "release":
        groups += [(MIRROR, (MIRROR,))] if plan.mirror is not None else []
        groups += [(CANARY, (CANARY,))] if plan.canary is not None else []
        groups.append((FLIP, (FLIP,)))
        groups += [(BAKE, (BAKE,))] if plan.bake is not None else []
    found: list[str] = []
    for place, names in groups:
        found += [f"{BEFORE}{place}:{hook.name}" for hook in plan.hooks if hook.when == "before" and place in hook.at]
        found += names
        found += [f"{AFTER}{place}:{hook.name}" for hook in plan.hooks if hook.when == "after" and place in hook.at]
    return tuple(found)


def after_the_end(name: str) -> str:
    """The step of what is to be done after the end, of its name in `Run.tell`."""
    return name if name == REVERT else f"{AFTER}{END}:{name}"


def told_of_the_end(plan: Plan) -> tuple[str, ...]:
    """The names of the hooks that are told of what a run comes to."""
    return tuple(hook.name for hook in plan.hooks if hook.when == "after" and END in hook.at)
