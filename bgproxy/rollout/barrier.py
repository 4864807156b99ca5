"""The flip over many nodes: all hold new admissions, then the pointer moves, then they let go.

Prepare: a state in which the flip is pending. Each node that applies it holds, and says so in the store. Commit: the
store moves the pointer in one step, and only where every registered node has said so. So there is no moment at which
one node admits to the new color and another to the old. A node that is silent makes the flip be given up and is named,
but for one that has fenced itself by then: it reads the state before it admits again.

A node holds from the moment on in which the bell tells of such a state, before it reads it: then one call both reads
and says so. What was said must stay true, so it goes on holding until a reading has told it by which state it does.

Whoever prepared it may die at any point: each node looks after what it holds for, and finishes the flip, or gives it
up when its time is over. The store lets only one of them, and the idempotency key tells the others what came of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from bgproxy import tasks
from bgproxy.errors import BadInput, FlipAbandoned, FlipOpen, KeyReused, Problem, Refused, StoreUnavailable
from bgproxy.rollout.door import Door, Doorkeeper
from bgproxy.rollout.nearby import Nearby
from bgproxy.rollout.promises import Promises
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move, Strategy
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.holds import Pause, Pending
from bgproxy.store.base import Held, Store, Waiting
from bgproxy.store.heal import BY
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import UNDECIDED, Mirror
from bgproxy.store.once import Once

_FIRST_PAUSE = 0.02  # seconds between two looks whether all hold, where no bell tells it
_LONGEST_PAUSE = 0.04
_PATIENCE = 0.15  # seconds after which others look after a flip that is still open
_UNKNOWN = (
    "the store had lost its data, and nodes that it does not know of may serve until they have registered again: flip "
    "again in a few seconds"
)
_USED_UP = "the idempotency key of this flip was used for something else meanwhile: flip again under a new one"
_DISBELIEF = 1.0  # seconds for which such a bell is not believed, after one that was not true
_BELL = "a bell"  # why new admissions wait here before the state by which they do has been read
_AGAIN = 0.2  # seconds between their looks


@dataclass(frozen=True, slots=True)
class FlipOptions:
    """How the pointer moves."""

    strategy: Strategy = "auto"  # the barrier, where there is more than one node
    hold_timeout: float = 1.0  # seconds in which every node must hold, or the flip is given up


class Barrier:
    """See the module. One per node: it asks for flips, and answers for this node in those of others."""

    def __init__(
        self,
        ledger: Ledger,
        mirror: Mirror,
        store: Store,
        node: str,
        options: FlipOptions,
        door: Door,
        *,
        fenced: Callable[[Sequence[str], bool], Awaitable[Mapping[str, int]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`node`: this node's id, `door`: its own. `fenced`: which of these nodes are known to have stopped admitting
        by themselves, with the serials of their last beats (True: it is worth a look at them); None: nodes do not
        fence themselves."""
        self.options = options
        self.is_only = not store.shared  # there can be no other node
        self._ledger = ledger
        self._mirror = mirror
        self._store = store
        self._node = node
        self._keeper = Doorkeeper(door, mirror)
        self.promises = Promises(ledger, mirror, self._keeper, patience=lambda: self.options.hold_timeout, sleep=sleep)
        self.nearby: Nearby | None = None  # the short way, which is tried first
        self._fenced = fenced or _nobody
        self._clock = clock
        self._sleep = sleep
        self._wall = wall
        self._seen: dict[int, float] = {}  # when a flip or pause that stands was first seen, by its revision
        self._own: set[int] = set()  # flips that a task of this node is about to make
        self._said = 0  # the revision of a state that is about to be applied, by which it has said that it holds
        self._believed_from = -inf  # when a bell may make this node hold before it has read the state
        self._bells = 0  # how often it was rung to hold
        self._tasks: set[asyncio.Task[None]] = set()
        mirror.rung_to_hold = self._rung

    def __repr__(self) -> str:
        return f"<Barrier of {self._node}, {len(self._seen)} open>"

    # What a state asks of this node

    def apply(self, state: FleetState) -> None:
        """A newer state. Call it after what admits has been told."""
        self.promises.apply(state)
        standing = [hold for hold in (state.pending, state.pause) if hold is not None]
        new = [hold for hold in standing if hold.revision not in self._seen]
        now = self._clock()
        self._seen = {hold.revision: self._seen.get(hold.revision, now) for hold in standing}
        if standing and self._keeper.is_shut and state.revision != self._said:
            # Whoever commits is not awaited by itself: the store is told only where another may have to do it.
            commits = state.pending is not None and state.pending.node == self._node
            self._spawn(self._say_so(state.revision, _PATIENCE / 3 if commits else 0.0), "barrier.say")
        for hold in new:
            watch = self._watch_flip(hold) if isinstance(hold, Pending) else self._watch_pause(hold)
            self._spawn(watch, "barrier.watch")

    async def stop(self) -> None:
        """What is open is left to the other nodes."""
        await tasks.stop(*self._tasks)
        await self.promises.stop()

    async def _rung(self, revision: int) -> None:
        """Hold, then read by which state, and say so with that. Whether it was said is not known where that fails.

        Who may ring must not be able to keep everybody out: after a bell that told of no such state, it is read first.
        """
        if self._clock() < self._believed_from:
            await self._mirror.look()
            return
        self._bells += 1
        self._keeper.shut(_BELL)
        was_read = await self._mirror.look(partial(self._say_and_read, revision))
        self._said = 0
        if was_read:
            self._keeper.settle(_BELL)
            if not self._keeper.is_shut:
                self._believed_from = self._clock() + _DISBELIEF
        else:
            self._spawn(self._hold_until_read(self._bells, revision), "barrier.read")

    async def _say_and_read(self, revision: int) -> FleetState | None:
        assert self._mirror.state is not None, "only what is newer than one rings"
        pointer = self._mirror.state.pointer
        state, registered = await self._store.hold_and_read(self._node, revision, pointer)
        if registered:
            self._said = revision
        return state

    async def _hold_until_read(self, bells: int, revision: int) -> None:
        """Where the store has lost that state, until who knows what came of it may have written that back."""
        read_at = inf
        while bells == self._bells:  # else what came later looks after it
            if await self._mirror.look():
                read_at = min(read_at, self._clock())
                is_told = self._mirror.state is not None and self._mirror.state.revision >= revision
                if bells == self._bells and (is_told or self._clock() >= read_at + UNDECIDED):
                    self._keeper.settle(_BELL)
                    return
            await self._sleep(_AGAIN)

    async def _say_so(self, revision: int, after: float) -> None:
        """Tell the store, so many seconds later, that this node holds, until it has heard it or it does not matter."""
        if after:
            await self._sleep(after)
        while self._mirror.state is not None and self._mirror.state.revision == revision:
            with suppress(StoreUnavailable):
                await self._store.hold(self._node, revision)
                return
            await self._sleep(_AGAIN)

    async def _watch_flip(self, pending: Pending) -> None:
        """Its coordinator may be dead, or away."""
        await self._sleep(_PATIENCE * random.uniform(1, 2))
        while self._stands(pending):
            if pending.revision not in self._own:
                with suppress(Problem):
                    await self._finish(pending, _AGAIN, patience=_AGAIN)
                    return
            await self._sleep(_AGAIN * random.uniform(1, 2))

    async def _watch_pause(self, pause: Pause) -> None:
        await self._sleep(pause.max_hold)
        while self._mirror.state is not None and self._mirror.state.pause == pause:
            with suppress(Problem):
                await self._ledger.make(
                    lambda state: barrier.resume(state, actor=BY, reason="max_hold is over", revision=pause.revision)
                )
                return
            await self._sleep(_AGAIN * random.uniform(1, 2))

    def _stands(self, pending: Pending) -> bool:
        state = self._mirror.state
        return state is not None and state.pending == pending

    # What is asked of it

    async def move(self, move: Move, once: Once | None = None, exclude: Collection[str] = ()) -> Outcome:
        """Move the pointer. `exclude`: nodes that are left behind. Raises what the rules raise, `FlipAbandoned`, and
        `BadInput` for a node to be left behind that there is not."""
        if self.nearby is not None and not exclude:
            outcome = await self.nearby.move(move, once)
            if outcome is not None:
                return outcome
        await self._known(exclude)
        # A key of our own, where there is none: it tells what came of a flip that another node has finished.
        asked = once or Once("", "", os.urandom(32).hex())
        prepared = Once(asked.name, asked.request, asked.key, is_kept=False)
        self._mirror.rung_again.clear()
        try:
            outcome = await self._ledger.make(
                lambda state: barrier.prepare(
                    state,
                    move,
                    at=self._wall(),
                    exclude=sorted(exclude),
                    hold_timeout=self.options.hold_timeout,
                    key=asked.key,
                    request=asked.request,
                    node=self._node,
                ),
                once=prepared,
            )
        except FlipOpen:
            if (pending := self._twin_of(asked)) is None:
                raise
            return await self._finish(pending)
        if not outcome.changed or outcome.replay is not None:
            return outcome
        assert outcome.state.pending is not None, "it has just been prepared"
        await self._bell(_FIRST_PAUSE)
        return await self._finish(outcome.state.pending)

    async def pause(self, max_hold: float, *, actor: str, reason: str) -> Outcome:
        """Let every node hold new admissions; returns when all do, and raises `FlipAbandoned` where they do not."""
        outcome = await self._ledger.make(
            lambda state: barrier.pause(state, max_hold=max_hold, actor=actor, reason=reason)
        )
        paused = outcome.state.pause
        assert paused is not None, "it has just been made"
        until = self._clock() + self.options.hold_timeout
        pause = _FIRST_PAUSE
        while silent := await self._asleep(paused.revision):
            if self._clock() >= until:
                names = ", ".join(silent)
                await self.resume(actor=BY, reason=f"not every node held new admissions: {names}")
                raise FlipAbandoned(f"nothing is paused: {_silent(silent)}", nodes=list(silent))
            await self._bell(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return outcome

    async def resume(self, *, actor: str, reason: str) -> Outcome:
        """Let new admissions go on; not changed where they do."""
        return await self._ledger.make(lambda state: barrier.resume(state, actor=actor, reason=reason))

    async def _asleep(self, revision: int) -> Sequence[str]:
        left = await self._store.asleep(Held(revision, frozenset((self._node,))))
        fenced = await self._fenced(left, False) if left else {}
        return [node for node in left if node not in fenced]

    async def _known(self, exclude: Collection[str]) -> None:
        if not exclude:
            return
        nodes = {node.id for node in await self._store.nodes()}
        if strangers := sorted(set(exclude) - nodes):
            raise BadInput(
                f"exclude: there is no node {strangers[0][:64]!r}; registered are {', '.join(sorted(nodes))}"
            )

    def _twin_of(self, asked: Once) -> Pending | None:
        """The open flip, where the same was asked for under the same key."""
        state = self._mirror.state
        pending = state.pending if state is not None else None
        if pending is None or pending.key != asked.key:
            return None
        if pending.request != asked.request:
            raise KeyReused(f"the idempotency key {asked.name!r} was used for another request: use a new one")
        return pending

    async def _finish(self, pending: Pending, pause: float = _FIRST_PAUSE, patience: float = 0.0) -> Outcome:
        """Make the flip as soon as every node holds, or give it up when its time (and `patience`) is over."""
        until = self._seen.get(pending.revision, self._clock()) + pending.hold_timeout + patience
        fenced: Mapping[str, int] = {}
        silent = tuple[str, ...]()
        self._own.add(pending.revision)
        try:
            while True:
                while seconds := self._mirror.unsettled:  # the others, whose lines stood, need not wait
                    await self._sleep(seconds)
                try:
                    outcome = await self._complete(pending, fenced)
                    # What its key tells may have come of another asking: then nobody can make this one.
                    return await self._give_up(pending, _USED_UP) if self._stands(pending) else outcome
                except KeyReused:
                    return await self._give_up(pending, _USED_UP)
                except Waiting as waiting:
                    silent = waiting.nodes
                    if not silent:
                        return await self._give_up(pending, _UNKNOWN)
                    is_late = self._clock() >= until
                    fenced = await self._fenced(silent, is_late)
                    if fenced.keys() >= set(silent):
                        continue
                    if is_late:
                        return await self._give_up(pending, _silent(silent), silent)
                except FlipAbandoned:
                    if silent:
                        raise self._abandoned(_silent(silent), silent) from None
                    raise
                except Refused as no:
                    return await self._give_up(pending, no.detail)
                await self._bell(pause)
                pause = max(pause, min(pause * 2, _LONGEST_PAUSE))
        finally:
            self._own.discard(pending.revision)

    async def _complete(self, pending: Pending, fenced: Mapping[str, int]) -> Outcome:
        without = frozenset(pending.exclude)
        left = without | fenced.keys()
        # This node holds from the moment on at which it held the prepared state: it need not be heard.
        held = Held(pending.revision, without | {self._node} if self._keeper.is_shut else without, fenced)

        def decide(state: FleetState) -> Change:
            change = barrier.complete(state, pending.revision, at=self._wall(), left_behind=left)
            if change is None:
                raise FlipAbandoned(
                    f"the {pending.verb} to {pending.to} was given up by another node: look at the audit"
                )
            return change

        return await self._ledger.make(decide, once=Once("", pending.request, pending.key), held=held)

    async def _give_up(self, pending: Pending, why: str, silent: Sequence[str] = ()) -> Outcome:
        """Raises `FlipAbandoned`; what came of the flip, where another node has finished it in this very moment."""
        outcome = await self._ledger.make(
            lambda state: barrier.abandon(state, pending.revision, actor=BY, why=why, silent=silent)
        )
        if not outcome.changed:
            done = await self._ledger.recall(Once("", pending.request, pending.key))
            if done is not None:
                return done
        raise self._abandoned(why, silent)

    def _abandoned(self, why: str, silent: Sequence[str]) -> FlipAbandoned:
        active = self._mirror.state.pointer.active if self._mirror.state is not None else "the old color"
        return FlipAbandoned(f"{active} stays active: {why}", nodes=list(silent))

    async def _bell(self, seconds: float) -> bool:
        """Wait until the store has rung once more, as when the last node holds; or so long, for that may be lost.
        Answers whether it has.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._mirror.rung_again.wait()
        has_rung = self._mirror.rung_again.is_set()
        self._mirror.rung_again.clear()
        return has_rung

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = tasks.spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _silent(nodes: Sequence[str]) -> str:
    names = ", ".join(nodes[:8]) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")
    return (
        f"{len(nodes)} of the nodes did not say in time that they hold new admissions: {names}; see `bgproxy nodes`. "
        "If one is gone for good, `bgproxy nodes forget` it; `--exclude` leaves it behind, on record"
    )


async def _nobody(_nodes: Sequence[str], _look: bool) -> Mapping[str, int]:
    return {}
