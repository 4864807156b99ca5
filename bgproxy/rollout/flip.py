"""The flip, seen from the node that is asked for it: is the target fit, are its connections warm, then the ledger.

Readiness is looked at now, not remembered: the connections that a flip warms are the proof that the agents take them.
Nothing is asked of the color that is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bgproxy.rollout.validate import Validator
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
    ) -> None:
        """`probe`: warms a color and says why it cannot take traffic, or nothing; `spread`: returns when the other
        workers of this host have applied what was committed, so that none of them answers late for the old color."""
        self._ledger = ledger
        self._mirror = mirror
        self._probe = probe
        self._validator = validator
        self._spread = spread

    async def recall(self, once: Once) -> Outcome | None:
        """What came of a change under the same idempotency key; as after the change, all workers here know it."""
        outcome = await self._ledger.recall(once)
        return None if outcome is None else await self._told(outcome)

    async def flip(
        self, to: str, *, actor: str, reason: str, if_epoch: int | None, force: bool, once: Once | None = None
    ) -> Outcome:
        """Make `to` the active color."""
        problem = await self._prepare(to)
        return await self._told(
            await self._ledger.flip(
                to, actor=actor, reason=reason, if_epoch=if_epoch, force=force, problem=problem or None, once=once
            )
        )

    async def rollback(
        self, *, actor: str, reason: str, if_epoch: int | None, force: bool, once: Once | None = None
    ) -> Outcome:
        """Make the previous color the active one again: never onto a release that is down, unless forced."""
        state = self._mirror.state
        previous = state.pointer.previous if state is not None else None
        problem = await self._prepare(previous) if previous is not None else ""
        return await self._told(
            await self._ledger.rollback(
                actor=actor, reason=reason, if_epoch=if_epoch, force=force, problem=problem or None, once=once
            )
        )

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
            await self._validator.admit(color)
        return problem
