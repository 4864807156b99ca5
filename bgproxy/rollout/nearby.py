"""A flip in one commit, where every node is of this host: the others give their word directly that they hold.

That is a barrier without its *prepare*: nothing stands in the store until the pointer moves, and the commit is made
only where no node is registered whose word is not there. Where one of another host is, or one here does not answer,
nothing has come of it, and the flip goes its general way (`barrier.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final

from bgproxy.errors import BgproxyError, Problem, StoreUnavailable
from bgproxy.rollout.promises import Promises
from bgproxy.rollout.siblings import Asking, Siblings
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.store.base import Held, Store, Waiting
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import Mirror
from bgproxy.store.neighbours import LOOK_INTERVAL
from bgproxy.store.once import Once

_PATIENCE = 0.1  # seconds in which the others give their word, and in which the store answers
_NEVER: Final = 2**53 - 1  # a revision that no state will have


class Nearby:
    """See the module. `listed`: how many nodes were registered when that was last looked at."""

    def __init__(
        self,
        ledger: Ledger,
        mirror: Mirror,
        store: Store,
        node: str,
        promises: Promises,
        siblings: Siblings,
        listed: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._mirror = mirror
        self._store = store
        self._node = node
        self._promises = promises
        self._siblings = siblings
        self._listed = listed
        self._not_before = -inf  # another node is registered; by then that has been looked at
        self._clock = clock
        self._wall = wall

    def __repr__(self) -> str:
        return f"<Nearby of {self._node}>"

    async def move(self, move: Move, once: Once | None = None) -> Outcome | None:
        """Move the pointer; None where it did not come about so. Raises what the ledger raises."""
        state, doors = self._mirror.state, self._siblings.doors()
        if state is None or state.is_held or self._mirror.contradiction or self._listed() > 1 + len(doors):
            return None
        if self._clock() < self._not_before:
            return None
        try:
            return await self._moved(self._siblings.ask(doors, state.revision), state, move, once)
        except Waiting:
            self._not_before = self._clock() + LOOK_INTERVAL
            return None

    async def _moved(self, asking: Asking, state: FleetState, move: Move, once: Once | None) -> Outcome | None:
        own, may_come = self._promises.give(state.revision), False
        try:
            change = _decided(move, state, self._wall())
            if own is None or change is None or not await self._is_store_there():
                return None
            nodes = await asking.held(_PATIENCE)
            if nodes is None or self._mirror.unsettled:
                return None
            may_come = True
            outcome = await self._ledger.make(partial(_only, state, change), once=once, held=self._words(nodes))
            may_come = outcome.replay is None
            return outcome
        except BgproxyError as error:
            may_come = isinstance(error, StoreUnavailable)
            if isinstance(error, _Overtaken):
                return None
            raise
        finally:
            asking.end(nothing_came=not may_come)
            if own is not None:
                self._promises.end(own, nothing_came=not may_come)

    async def _is_store_there(self) -> bool:
        """They hold until it tells what came of the commit: so nothing is begun that it would not answer."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._store.now()
                return True
        return False

    def _words(self, others: Collection[str]) -> Held:
        """What asks of a commit that no node but these is registered."""
        return Held(_NEVER, frozenset((self._node, *others)))


class _Overtaken(Problem):
    """Another state stands than that for which the others have given their word."""


def _decided(move: Move, state: FleetState, at: float) -> Change | None:
    """None where there is nothing to do, or it is refused by what this node knows: it is to be told of what stands."""
    with suppress(Problem):
        return move.decided(state, at)
    return None


def _only(base: FleetState, change: Change, state: FleetState) -> Change:
    """What was decided on one state, and is not decided anew."""
    if state is not base:
        raise _Overtaken(f"revision {state.revision} stands by now")
    return change
