"""The only door through which a pointer or a phase changes.

Each verb reads the store, lets the rules decide, and commits on exactly the state that was decided on. Who loses a
race reads and decides anew. What was committed is applied to this process's mirror before the call returns: the node
that flips has flipped. A store that is away makes each verb fail fast, with nothing half-done. What a store has lost is
written back before anything is decided on it.

What is done to a session by hand goes through here too. To move it is an order, which counts from the change on that
puts it on record; the nodes carry it out between two turns. To forget it, or a node, is put on record first and done
second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bgproxy.errors import KeyReused, Problem, Refused, StoreBroken, StoreUnavailable, UnknownNode
from bgproxy.rules import by_hand, configured, deadline, fleet
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.pin import Order, Pin
from bgproxy.rules.release import Event, Release
from bgproxy.store.base import AuditEntry, Conflict, Held, NodeReport, Store
from bgproxy.store.heal import BY, Healer, overtaken
from bgproxy.store.mirror import Mirror
from bgproxy.store.node_record import last_words
from bgproxy.store.once import AlreadyDone, Done, Once
from bgproxy.store.pinning import unknown_session

_TRIES = 8  # lost races in a row; each loss means that somebody else's change went through

T = TypeVar("T")
Decision = Callable[[FleetState], Change | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a verb: the state that stands, and its record where something changed.

    `replay`: what came of the same asking before, under the same idempotency key; then nothing was done now.
    """

    state: FleetState
    changed: bool
    entry: AuditEntry | None
    replay: Done | None = None


class Ledger:
    """All verbs raise the rules' refusals, and `StoreUnavailable` (or one of its kinds) within `timeout` seconds."""

    def __init__(self, store: Store, mirror: Mirror, clock: Callable[[], float], *, timeout: float = 2.0) -> None:
        """`clock`: unix seconds; the store replaces it by its own when it commits."""
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._timeout = timeout
        self._healer = Healer(store, mirror)

    async def move(self, move: Move, *, once: Once | None = None, held: Held | None = None) -> Outcome:
        """Move the pointer, in one step. `once`: under which idempotency key; raises `KeyReused` where that was
        another request's. `held`: which nodes must hold new admissions; raises `Waiting` where they do not."""
        return await self.make(lambda state: move.decided(state, self._clock()), once=once, held=held)

    async def flip(
        self,
        to: str,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None = None,
        force: bool = False,
        bake: bool = False,
        problem: str | None = None,
        once: Once | None = None,
    ) -> Outcome:
        """See `rules.fleet.flip`, and `move`."""
        return await self.move(Move("flip", to, actor, reason, if_epoch, force, bake, problem), once=once)

    async def rollback(
        self,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None = None,
        force: bool = False,
        problem: str | None = None,
        once: Once | None = None,
    ) -> Outcome:
        """See `rules.fleet.rollback`, and `move`."""
        return await self.move(Move("rollback", "", actor, reason, if_epoch, force, problem=problem), once=once)

    async def stage(
        self,
        color: str,
        release: Release,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None = None,
        force: bool = False,
        once: Once | None = None,
    ) -> Outcome:
        """See `rules.fleet.stage`, and `move` here."""
        return await self.make(
            lambda state: fleet.stage(
                state, color, release, actor=actor, reason=reason, at=self._clock(), if_epoch=if_epoch, force=force
            ),
            once=once,
        )

    async def recall(self, once: Once) -> Outcome | None:
        """What came of the same asking before; None where the key is not known. Raises `KeyReused`."""
        return await self._bounded(self._recall(once))

    async def step(
        self,
        color: str,
        label: str,
        event: Event,
        *,
        actor: str,
        reason: str,
        evidence: Mapping[str, object] | None = None,
    ) -> Outcome:
        """See `rules.fleet.step`."""
        return await self.make(
            lambda state: fleet.step(
                state, color, label, event, actor=actor, reason=reason, at=self._clock(), evidence=evidence
            )
        )

    async def set_deadline(self, color: str, seconds: float | None, *, actor: str, reason: str) -> Outcome:
        """See `rules.deadline.set_deadline`."""
        return await self.make(
            lambda state: deadline.set_deadline(state, color, seconds, actor=actor, reason=reason, at=self._clock())
        )

    async def end_sessions(
        self, color: str, label: str, *, actor: str, reason: str, at: float, evidence: Mapping[str, object]
    ) -> Outcome:
        """See `rules.deadline.end_sessions`; `at` is the store's time, and no other clock's."""
        return await self.make(
            lambda state: deadline.end_sessions(
                state, color, label, actor=actor, reason=reason, at=at, evidence=evidence
            )
        )

    async def recognise(self, colors: Iterable[str]) -> None:
        """Before this process joins: raises `StoreForeign` where another fleet's data stand in the store."""
        state = await self._store.read()
        if state is not None:
            configured.recognise(state, colors)

    async def reconfigure(
        self, colors: Iterable[str], releases: Mapping[str, Release], *, actor: str, reason: str
    ) -> Outcome:
        """See `rules.configured.reconfigure`."""
        names = tuple(colors)
        return await self.make(
            lambda state: configured.reconfigure(state, names, releases, actor=actor, reason=reason, at=self._clock())
        )

    async def bootstrap(
        self,
        colors: Iterable[str],
        active: str,
        releases: Mapping[str, Release],
        *,
        actor: str,
        reason: str = "",
    ) -> Outcome:
        """Write the first state where the store has none; `changed` is False where it has one, which then stands.

        A process that knows a last state (it was running, or `Mirror.load` found one) writes that instead of the
        configuration's: a store that came back empty must not move the pointer.
        """
        return await self._bounded(self._bootstrap(tuple(colors), active, releases, actor, reason))

    async def move_session(self, key: bytes, to: str, *, actor: str, reason: str) -> tuple[Pin, Outcome]:
        """Order that a session lives on the release on a color; its pin as it stands before that is carried out.

        `key`: the digest of any of its keys. Not changed where it lives there already, or where that was ordered.
        Raises `UnknownSession`, and what `rules.by_hand.move_session` raises.
        """
        return await self._bounded(self._move_session(key, to, actor, reason))

    async def forget_session(self, key: bytes, *, actor: str, reason: str) -> tuple[Pin, Outcome]:
        """Forget a session: its next request begins a new one. The pin as it was. Raises `UnknownSession`."""
        return await self._bounded(self._forget_session(key, actor, reason))

    async def forget_node(self, node_id: str, *, actor: str, reason: str, force: bool = False) -> NodeReport:
        """Take a node off the list; what it said last. Raises `UnknownNode`, and `Refused` for one that is live."""
        return await self._bounded(self._forget_node(node_id, actor, reason, force))

    async def record_forgotten(self, node: NodeReport, *, actor: str, reason: str) -> Outcome:
        """Put on record that a node has been taken off the list."""
        return await self.make(
            lambda state: by_hand.forget_node(state, node.id, last_words(node), live=False, actor=actor, reason=reason)
        )

    async def restore(self, *, actor: str, reason: str) -> Outcome:
        """See `Healer.heal`; not changed where the store has lost nothing."""
        return await self._bounded(self._heal(actor, reason))

    async def decide_split(self, move: Move, *, once: Once | None = None) -> Outcome | None:
        """See `Healer.decide`; None where there is no split."""
        if self._mirror.contradiction is None:
            return None
        try:
            made = await self._bounded(self._healer.decide(move, once, self._clock))
        except AlreadyDone as twin:
            assert once is not None, "only a key can be known"
            return await self._bounded(self._replay(once, twin.done))
        return None if made is None else Outcome(made[0], changed=True, entry=made[1])

    async def audit(self, *, limit: int, before: str | None = None) -> list[AuditEntry]:
        """See `Store.audit`."""
        return await self._bounded(self._store.audit(limit=limit, before=before))

    async def _move_session(self, key: bytes, to: str, actor: str, reason: str) -> tuple[Pin, Outcome]:
        pin, over = await self._pin(key), await self._orders_that_are_over()
        outcome = await self._settle(
            lambda state: by_hand.move_session(state, pin, to, actor=actor, reason=reason, over=over)
        )
        return pin, outcome

    async def _orders_that_are_over(self) -> list[Order]:
        """Carried out, or of a session that has ended. Looked at only where room is needed."""
        orders = [*self._mirror.state.orders.values()] if self._mirror.state is not None else []
        if len(orders) < by_hand.MOST_ORDERS:
            return []
        pins = await asyncio.gather(*(self._store.pins.find(order.pin) for order in orders))
        return [order for order, pin in zip(orders, pins, strict=True) if pin is None or not order.moves(pin)]

    async def _forget_session(self, key: bytes, actor: str, reason: str) -> tuple[Pin, Outcome]:
        pin = await self._pin(key)
        outcome = await self._settle(lambda state: by_hand.forget_session(state, pin, actor=actor, reason=reason))
        try:
            await self._store.pins.end([pin.id])
        except StoreUnavailable as error:
            raise type(error)(
                f"{error.detail}; that the session is to be forgotten is on record, but it may live still: look, and "
                "forget it again"
            ) from error
        return pin, outcome

    async def _forget_node(self, node_id: str, actor: str, reason: str, force: bool) -> NodeReport:
        node = next((one for one in await self._store.nodes() if one.id == node_id), None)
        if node is None:
            raise UnknownNode(f"no node {node_id[:128]!r} is registered: it has left, or was signed off or forgotten")
        said = last_words(node)
        await self._settle(
            lambda state: by_hand.forget_node(
                state, node_id, said, live=node.live, actor=actor, reason=reason, force=force
            )
        )
        recorded = f"that node {node_id} is to be forgotten is on record"
        try:
            gone = await self._store.leave(node_id, None if force else node.serial)
        except StoreUnavailable as error:
            raise type(error)(f"{error.detail}; {recorded}, but it may be there still: forget it again") from error
        if not gone:
            raise Refused(f"it has beaten since it was looked at, or left by itself: look again; {recorded}")
        return node

    async def _pin(self, key: bytes) -> Pin:
        pin = await self._store.pins.find(key)
        if pin is None:
            raise unknown_session(key)
        return pin

    async def _bootstrap(
        self, colors: tuple[str, ...], active: str, releases: Mapping[str, Release], actor: str, reason: str
    ) -> Outcome:
        known = self._mirror.state
        standing = await self._mirror.refresh()
        if standing is not None:
            return Outcome(self._mirror.state or standing, changed=False, entry=None)
        if known is not None:
            return await self._heal(actor, reason)
        change = fleet.bootstrap(colors, active, releases, actor, self._clock(), reason)
        try:
            return await self._commit(change, create=True)
        except Conflict as lost:
            if lost.current is None:
                raise StoreUnavailable("the store lost its state while a fleet began on it: try again") from lost
            self._mirror.learn(lost.current)
            return Outcome(lost.current, changed=False, entry=None)

    async def make(self, decide: Decision, *, once: Once | None = None, held: Held | None = None) -> Outcome:
        """Any other change that the rules decide on; not changed where they find nothing to do. See `move`."""
        return await self._bounded(self._settle(decide, once, held))

    async def _settle(self, decide: Decision, once: Once | None = None, held: Held | None = None) -> Outcome:
        outcome = await self._at_once(decide, once, held)
        for _ in range(_TRIES if outcome is None else 0):
            base = await self._base()
            # Asked after the state was read: whoever was faster under this key is in the one, the other, or in our way.
            if once is not None and (known := await self._recall(once)) is not None:
                return known
            change = decide(base)
            if change is None:
                return await self._unchanged(base, once)
            outcome = await self._tried(change, once, held)
            if outcome is not None:
                break
        if outcome is None:
            raise overtaken(_TRIES)
        return outcome

    async def _at_once(self, decide: Decision, once: Once | None, held: Held | None) -> Outcome | None:
        """Decide on what this node holds: as long as bells come in that is mostly what stands, and the commit finds
        out. None where it is not, or where anything but a change comes of it: that is to be told of what stands."""
        state = self._mirror.state
        if state is None or not self._mirror.subscribed or self._mirror.contradiction is not None:
            return None
        try:
            change = decide(state)
        except Problem:
            return None
        return None if change is None else await self._tried(change, once, held)

    async def _tried(self, change: Change, once: Once | None, held: Held | None) -> Outcome | None:
        """None: somebody else was faster. Raises `Waiting`."""
        try:
            return await self._commit(change, once=once, held=held)
        except Conflict:
            return None
        except AlreadyDone as twin:
            assert once is not None, "only a key can be known"
            return await self._replay(once, twin.done)

    async def _recall(self, once: Once) -> Outcome | None:
        done = await self._store.recall(once.key)
        return None if done is None else await self._replay(once, done)

    async def _replay(self, once: Once, done: Done) -> Outcome:
        """The first outcome; this node has applied it, and whatever came since, as if it had done it."""
        if done.request != once.request:
            raise KeyReused(f"the idempotency key {once.name!r} was used for another request: use a new one")
        await self._mirror.refresh()
        return Outcome(self._held(), done.changed, entry=None, replay=done)

    async def _unchanged(self, base: FleetState, once: Once | None) -> Outcome:
        """Nothing to do; under a key that is an outcome like another, so that a late retry does nothing either."""
        if once is not None:
            ours = Done.of(once.request, base, changed=False)
            first = await self._store.keep(once.key, ours)
            if first.members() != ours.members():
                return await self._replay(once, first)
        return Outcome(base, changed=False, entry=None)

    async def _base(self) -> FleetState:
        """The state to decide on: what stands, once this node holds nothing that the store has lost."""
        standing, held = await self._mirror.refresh(), self._held()
        if standing is None or self._mirror.contradiction is not None:
            return (await self._heal(BY, "the store was behind when a change was asked for")).state
        return held

    def _held(self) -> FleetState:
        if self._mirror.state is None:
            raise StoreBroken("the store holds no state of this fleet yet: start a proxy with its configuration")
        return self._mirror.state

    async def _heal(self, actor: str, reason: str) -> Outcome:
        state, entry = await self._healer.heal(actor, reason)
        return Outcome(state, changed=entry is not None, entry=entry)

    async def _commit(
        self, change: Change, *, create: bool = False, once: Once | None = None, held: Held | None = None
    ) -> Outcome:
        state, entry = await self._store.commit(change, create=create, once=once, held=held)
        self._mirror.learn(state)
        return Outcome(state, changed=True, entry=entry)

    async def _bounded(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await work
        except TimeoutError:
            raise StoreUnavailable(
                f"the store took longer than {self._timeout:g} s; whether the change was made is not known: "
                "look at the status when the store is back"
            ) from None
