"""What a plan has others do: programs that are run and addresses that are called, at which steps, and to what end.

Options only, as in `plan.py`; durations are seconds. The plan that an operator writes has the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Action:
    """A program that is run, or an address that is called, with the event as JSON."""

    command: tuple[str, ...] = ()  # the program by its absolute path, and its arguments; or
    url: str = ""  # an address, told by POST
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    secret: str = ""  # signs what is sent (HMAC-SHA256)
    timeout: float = 30.0
    attempts: int = 3  # of a call

    @property
    def what(self) -> str:
        """What is run or called; empty: nothing is."""
        return self.url or " ".join(self.command)


@dataclass(frozen=True, slots=True)
class Hook(Action):
    """One that is told of steps; before them it may veto, after them it is informed."""

    name: str = ""
    when: Literal["before", "after"] = "after"
    # The end: whatever it came to.
    at: tuple[Literal["migrate", "ready", "parity", "gates", "mirror", "canary", "flip", "bake", "end"], ...] = ()


@dataclass(frozen=True, slots=True)
class Decommission(Action):
    """How the old release is taken down: the action scales it to zero, or says no; without one it only is RETIRED."""

    rollback_window: float = 600.0  # since traffic left it; before that it stays, drained or not
    automatic: bool = False  # else `bgproxy retire`

    def said(self) -> str:
        """In words."""
        when = "by itself" if self.automatic else "by `bgproxy retire`"
        return (
            f"the old release, once drained and {self.rollback_window:g} s old, {when}: {self.what or 'nothing is run'}"
        )


@dataclass(frozen=True, slots=True)
class Migrate:
    """What a database needs so that both releases can work on it, then the new one alone. Each may be done twice."""

    expand: Action | None = None  # before anything else: adds what the new release needs, and the old one can bear
    revert: Action | None = None  # takes that back, where the run stops before its flip
    contract: Action | None = None  # once the old release is RETIRED: takes away what only that one needs
    rehearse: bool = False  # expand, revert, expand again

    def lines(self) -> Iterator[str]:
        """In words, in its order."""
        if self.expand is not None:
            again = ", reverted and expanded again" if self.rehearse else ""
            yield f"migrate: the schema is expanded{again}: {self.expand.what}"
        if self.revert is not None:
            yield f"revert: where it stops before the flip: {self.revert.what}"
        if self.contract is not None:
            yield f"contract: once the old release is retired: {self.contract.what}; after this no rollback"
