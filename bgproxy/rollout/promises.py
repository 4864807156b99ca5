"""The word of a node that it admits nothing new by a revision of the fleet's state: given to who is about to commit.

Whoever asks has the word of every other node and then commits, on exactly that revision. So the word has to be kept
until a later revision is applied: then that commit was made, or never will be. Who asked may say that nothing came of
it. Where it says nothing, as it is dead, stopped or without the store, this node makes a later revision itself, which
changes nothing else: of that and the commit the store lets only one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bgproxy import tasks
from bgproxy.errors import Problem, Split, StoreForeign
from bgproxy.rollout.door import Doorkeeper
from bgproxy.rules import barrier
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.holds import Pending
from bgproxy.store.heal import BY
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror

_BELL = 0.05  # seconds in which a bell comes that is on its way
_GONE = "a flip that is gone"  # why new admissions wait behind an outage
_AGAIN = 0.2  # seconds between two tries to make a later revision


class Promise:
    """That nothing new is admitted by `revision`."""

    def __init__(self, revision: int, epoch: int) -> None:
        self.revision = revision
        self.epoch = epoch  # by which this node routed then
        self.is_left = asyncio.Event()  # nobody will say any more what came of it

    def __repr__(self) -> str:
        return f"<Promise on revision {self.revision}>"


class Promises:
    """Those that this node has given. `patience`: seconds in which whoever asked says what came of it."""

    def __init__(
        self,
        ledger: Ledger,
        mirror: Mirror,
        keeper: Doorkeeper,
        *,
        patience: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._mirror = mirror
        self._keeper = keeper
        self._patience = patience
        self._sleep = sleep
        self._given: dict[Promise, asyncio.Task[None]] = {}
        self._pending: Pending | None = None  # the flip for which this node holds by the state that it has applied
        self._gone: Pending | None = None  # one that is not there any more
        self._waiting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Promises {[*self._given]}>"

    def give(self, revision: int) -> Promise | None:
        """Admit nothing new by that revision from now on; None where this node knows better than whoever asks, or may
        not get to know what came of it."""
        state, mirror = self._mirror.state, self._mirror
        if state is None or state.revision > revision or mirror.contradiction is not None or mirror.unsettled:
            return None
        promise = Promise(revision, state.pointer.epoch)
        self._keeper.shut(promise)
        self._given[promise] = tasks.spawn(self._outlast(promise), "promises.outlast")
        return promise

    def end(self, promise: Promise, *, nothing_came: bool) -> None:
        """Whoever asked says that nothing came of it, or says nothing any more."""
        if nothing_came:
            self._settle(promise)
        else:
            promise.is_left.set()

    def apply(self, state: FleetState) -> None:
        """A newer state. Call it after what admits has been told.

        Right behind an outage it may be what a failover has left, written anew: only a newer pointer counts then.
        """
        for promise in [promise for promise in self._given if promise.revision < state.revision]:
            if state.pointer.epoch > promise.epoch or not self._mirror.unsettled:
                self._settle(promise)
        self._keep_to_flip(state)

    def _keep_to_flip(self, state: FleetState) -> None:
        """Likewise a flip for which this node held: where it is not there any more it may have been made, and lost."""
        gone, self._pending = self._pending or self._gone, state.pending
        if gone is None or state.pending is not None:
            return
        if state.pointer.epoch < gone.epoch and self._mirror.unsettled:
            self._keeper.shut(_GONE)
            if self._waiting is None or self._waiting.done():
                self._waiting = tasks.spawn(self._outwait_flip(), "promises.settle")
            self._gone = gone
        elif self._gone is not None:
            self._forget_flip()

    async def _outwait_flip(self) -> None:
        await self._settled()
        self._forget_flip()

    def _forget_flip(self) -> None:
        self._gone = None
        self._keeper.settle(_GONE)

    async def stop(self) -> None:
        """What is open stays so: nothing new is admitted here any more."""
        await tasks.stop(*self._given.values(), self._waiting)

    async def _settled(self) -> None:
        while seconds := self._mirror.unsettled:
            await self._sleep(seconds)

    def _settle(self, promise: Promise) -> None:
        task = self._given.pop(promise, None)
        if task is not None:
            task.cancel()
            self._keeper.settle(promise)

    async def _outlast(self, promise: Promise) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience()):
                await promise.is_left.wait()
        await self._sleep(_BELL)
        while True:
            await self._settled()  # it may have been made, and lost: who knows of it comes first
            try:
                outcome = await self._ledger.make(lambda state: barrier.forestall(state, promise.revision, actor=BY))
                if outcome.state.revision > promise.revision and not self._mirror.unsettled:
                    self._settle(promise)
            except (Split, StoreForeign):  # another history, in which that commit cannot be made
                self._settle(promise)
            except Problem:
                pass
            await self._sleep(_AGAIN * random.uniform(1, 2))
