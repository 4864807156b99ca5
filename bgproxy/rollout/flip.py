"""The flip, seen from the node that is asked for it: is the target fit, are its connections warm, then the ledger.

Readiness is looked at now, not remembered: the connections that a flip warms are the proof that the agents take them.
Nothing is asked of the color that is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from bgproxy.errors import BadInput, StoreUnavailable
from bgproxy.rollout.barrier import Barrier
from bgproxy.rollout.validate import Validator
from bgproxy.rules.barrier import Move, Strategy
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Release
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import Once

Probe = Callable[[str], Awaitable[str]]


class Switch:
    """Moves the pointer and stages releases; raises the rules' refusals and the store's problems."""

    def __init__(
        self,
        ledger: Ledger,
        mirror: Mirror,
        probe: Probe,
        validator: Validator,
        spread: Callable[[], Awaitable[None]],
        barrier: Barrier,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`probe`: warms a color and says why it cannot take traffic, or nothing; `spread`: returns when the other
        workers of this host have applied what was committed, so that none of them answers late for the old color."""
        self._ledger = ledger
        self._mirror = mirror
        self._probe = probe
        self._validator = validator
        self._spread = spread
        self._barrier = barrier
        self._sleep = sleep

    async def recall(self, once: Once) -> Outcome | None:
        """What came of a change under the same idempotency key; as after the change, all workers here know it."""
        outcome = await self._ledger.recall(once)
        return None if outcome is None else await self._told(outcome)

    async def flip(
        self,
        to: str,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None,
        force: bool,
        bake: bool = False,
        once: Once | None = None,
        strategy: Strategy | None = None,
        exclude: Collection[str] = (),
    ) -> Outcome:
        """Make `to` the active color; a moment later where the store was away just now. `bake`: its release is watched,
        and not settled yet; `strategy`: in place of the configured one; `exclude`: see `Barrier.move`."""
        problem = await self._prepare(to)
        move = Move("flip", to, actor, reason, if_epoch, force, bake, problem or None)
        return await self._moved(move, once, strategy, exclude)

    async def rollback(
        self,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None,
        force: bool,
        once: Once | None = None,
        strategy: Strategy | None = None,
        exclude: Collection[str] = (),
    ) -> Outcome:
        """Make the previous color the active one again: never onto a release that is down, unless forced."""
        state = self._mirror.state
        previous = state.pointer.previous if state is not None else None
        problem = await self._prepare(previous) if previous is not None else ""
        move = Move("rollback", "", actor, reason, if_epoch, force, problem=problem or None)
        return await self._moved(move, once, strategy, exclude)

    async def pause(self, max_hold: float, *, actor: str, reason: str) -> FleetState:
        """Let every node hold new requests, at most `max_hold` seconds; the state when all do."""
        return (await self._barrier.pause(max_hold, actor=actor, reason=reason)).state

    async def resume(self, *, actor: str, reason: str) -> Outcome:
        """Let new requests go on; not changed where they do."""
        return await self._barrier.resume(actor=actor, reason=reason)

    async def _moved(
        self, move: Move, once: Once | None, strategy: Strategy | None, exclude: Collection[str]
    ) -> Outcome:
        """By the barrier, unless this node is alone or a swap is asked for.

        Nodes of two histories have no state in common by which they could hold: a flip that decides is a swap.
        """
        if move.force and move.verb == "flip" and (outcome := await self._ledger.decide_split(move, once=once)):
            return await self._told(outcome)
        barrier = self._barrier
        if not barrier.is_only:
            await self._settled()
        strategy = strategy or barrier.options.strategy
        if strategy == "auto" and barrier.is_only:
            strategy = "swap"
        if exclude and strategy == "swap":
            raise BadInput("exclude: a swap waits for no node, so there is none to leave out; say barrier, or neither")
        if strategy == "swap":
            return await self._told(await self._ledger.move(move, once=once))
        return await barrier.move(move, once, exclude)

    async def _settled(self) -> None:
        """Wait, where the store was away a moment ago, until those who know more than it does have told it."""
        if self._mirror.unsettled:
            await self._mirror.refresh()  # raises why it is away, where it is
            await self._sleep(self._mirror.unsettled)
            if self._mirror.unsettled:
                raise StoreUnavailable("the line to the store breaks again and again: flip again once it stands")

    async def stage(
        self,
        color: str,
        release: Release,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None,
        force: bool,
        once: Once | None = None,
    ) -> Outcome:
        """Put a release on an idle color; it becomes READY by itself once its upstreams answer."""
        outcome = await self._ledger.stage(
            color, release, actor=actor, reason=reason, if_epoch=if_epoch, force=force, once=once
        )
        self._validator.wake()
        return outcome

    async def _told(self, outcome: Outcome) -> Outcome:
        if outcome.changed:
            await self._spread()
        return outcome

    async def _prepare(self, color: str) -> str:
        """Warm the color; a release that has not been validated yet is validated on the way."""
        state = self._mirror.state
        if state is None or color == state.pointer.active or color not in state.releases:
            return ""
        problem = await self._probe(color)
        if not problem:
            await self._validator.admit(color, state.releases[color])
        return problem
