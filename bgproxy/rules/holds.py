"""What makes all nodes hold new admissions: a flip that was begun, and a pause. Decides nothing.

Both stand in the fleet's state, so whoever applies that state holds, and whoever reads it later holds too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """A flip that was prepared, to be committed once every node holds, or given up.

    `revision`: of the state that first had it; by this it is told from every other. `hold_timeout`: seconds until it
    is given up, by the clock of whoever waits. `exclude`: ids of nodes that are left behind knowingly. `key` and
    `request`: the idempotency key's digest under which it is committed, and that of what was asked. `node`: the id of
    who is to commit it, which others do in its stead.
    """

    revision: int
    verb: str  # flip, rollback
    to: str
    epoch: int  # of the pointer that it makes
    actor: str
    reason: str
    force: bool
    bake: bool
    problem: str  # of the target, overridden by `force`; empty: none
    exclude: tuple[str, ...]
    hold_timeout: float
    key: str
    request: str
    node: str = ""

    @property
    def not_awaited(self) -> frozenset[str]:
        """Nodes that need not say to whoever commits it that they hold: it knows of itself, and leaves those behind."""
        return frozenset((self.node, *self.exclude))


@dataclass(frozen=True, slots=True)
class Pause:
    """New admissions wait until an operator resumes them, at most `max_hold` seconds by the clock of each node."""

    revision: int
    actor: str
    reason: str
    max_hold: float
