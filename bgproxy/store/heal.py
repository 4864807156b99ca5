"""Writes back what a store has lost, and what an operator decides where two histories stand.

Each change is made on exactly what was found (`rules/restore.py`): whoever is late finds something else, and looks
again. So of several nodes the one that holds most is the last, and whoever holds less finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from bgproxy.errors import Refused, StoreUnavailable
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.restore import Contradiction, Verdict, decided, restored
from bgproxy.store.base import AuditEntry, Conflict, Store
from bgproxy.store.mirror import UNDECIDED, Mirror
from bgproxy.store.once import Once

BY: Final = "bgproxy"
"""The actor of what nobody asked for."""

_TRIES = 8  # others who were faster, one after the other


class Healer:
    """Of one node: the mirror says what it holds, and what is wrong."""

    def __init__(self, store: Store, mirror: Mirror) -> None:
        self._store = store
        self._mirror = mirror

    async def heal(self, actor: str, reason: str) -> tuple[FleetState, AuditEntry | None]:
        """Write back what this node holds where the store has lost it; what stands then, without an entry where there
        was nothing to do.

        Raises `Split` and `StoreForeign` where only an operator can put it right, and `StoreUnavailable`.
        """
        for _ in range(_TRIES):
            standing = await self._mirror.refresh()
            held, contradiction = self._mirror.state, self._mirror.contradiction
            assert held is not None, "nothing is written back where nothing is held"
            if standing is None:
                contradiction = Contradiction(Verdict.BEHIND, held, None)
            if contradiction is None:
                return held, None
            if patience(self._mirror):
                raise StoreUnavailable(
                    "the store has lost a flip that was being made: whoever knows what came of it writes that back "
                    "first; try again in a moment"
                )
            with suppress(Conflict):
                return await self._commit(restored(contradiction, actor=actor, reason=reason))
        raise overtaken(_TRIES)

    async def decide(
        self, move: Move, once: Once | None, clock: Callable[[], float]
    ) -> tuple[FleetState, AuditEntry] | None:
        """Let a forced flip decide a split; None where there is none. Raises what `rules.restore.decided` raises, and
        `AlreadyDone`."""
        for _ in range(_TRIES):
            await self._mirror.refresh()
            split = self._mirror.contradiction
            if split is None or split.verdict is not Verdict.SPLIT:
                return None
            change = decided(split, move.to, actor=move.actor, reason=move.reason, at=clock(), if_epoch=move.if_epoch)
            with suppress(Conflict):
                return await self._commit(change, once)
        raise overtaken(_TRIES)

    async def _commit(self, change: Change, once: Once | None = None) -> tuple[FleetState, AuditEntry]:
        state, entry = await self._store.commit(change, create=change.base is None, once=once)
        self._mirror.learn(state)
        return state, entry


def patience(mirror: Mirror) -> float:
    """Seconds until this node may write back what it holds.

    One that holds new admissions for a flip may not have heard that it was made. Would it write back, and so give the
    flip up, before those who have, it would admit to the old color while they admit to the new one.
    """
    contradiction, state = mirror.contradiction, mirror.state
    if contradiction is None or contradiction.verdict is not Verdict.BEHIND or state is None or state.pending is None:
        return 0.0
    return max(0.0, UNDECIDED - mirror.at_odds_for)


def overtaken(tries: int) -> Refused:
    """What is raised by who always came too late."""
    return Refused(f"{tries} other changes came first, one after the other: look at the status and try again")
