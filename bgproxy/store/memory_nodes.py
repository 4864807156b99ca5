"""The registered nodes of a store that lives in one process: this worker, and its predecessors in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from bgproxy.rules.fleet import Change, FleetState
from bgproxy.store.base import DEAD_TTL, Held, NodeReport, StoreOptions, Waiting
from bgproxy.store.node_record import cannot_join, has_died


class NodeTable:
    """See `Store.beat`, `Store.nodes`, `Store.leave`, `Store.hold` and `Store.asleep`."""

    def __init__(self, options: StoreOptions, clock: Callable[[], float] = time.monotonic) -> None:
        """Times by `clock`."""
        self._fleet = options.fleet
        self._ttl = options.node_ttl
        self._roll_call = options.roll_call
        self._clock = clock
        self._missing_until = -inf  # nodes may be missing from the list
        self._heard: dict[str, tuple[NodeReport, float]] = {}
        self._held: dict[str, int] = {}  # revisions
        self._dead: dict[str, float] = {}  # until when they are known to be

    def beat(self, node: NodeReport) -> bool:
        """It is there; whether it was registered. Raises `CannotJoin`."""
        known = node.id in self._heard
        if not known:
            if self._clock() < self._dead.get(node.id, -inf):
                raise has_died(node.id)
            speaks = (node.schema, node.protocol)
            foreign = [other for other in self.reports() if other.live and (other.schema, other.protocol) != speaks]
            if foreign:
                raise cannot_join(self._fleet, node, foreign)
        self._heard[node.id] = (node, self._clock())
        return known

    def reports(self) -> list[NodeReport]:
        """All of them by id, with their ages."""
        now = self._clock()
        aged = ((node, now - heard) for _, (node, heard) in sorted(self._heard.items()))
        return [replace(node, age=age, live=age <= self._ttl) for node, age in aged]

    def ids(self) -> list[str]:
        """Of all of them, sorted; with "?" while others may be missing."""
        return [*sorted(self._heard), *(["?"] if self._is_calling() else [])]

    def wrote(self, change: Change) -> None:
        """Written whole, as the store had lost something, it says that some may be missing from now on."""
        if change.whole:
            self._missing_until = self._clock() + self._roll_call

    def _is_calling(self) -> bool:
        return self._clock() < self._missing_until

    def leave(self, node_id: str, serial: int | None, dead: bool) -> bool:
        """It is registered no more, if `serial` is its last beat's or None; whether it was."""
        if dead:
            now = self._clock()
            self._dead = {**{one: until for one, until in self._dead.items() if now < until}, node_id: now + DEAD_TTL}
        if node_id not in self._heard or serial not in (None, self._heard[node_id][0].serial):
            return False
        del self._heard[node_id]
        self._held.pop(node_id, None)
        return True

    def hold(self, node_id: str, revision: int) -> int:
        """See `Store.hold`."""
        self._held[node_id] = revision
        return len(self._heard)

    def is_last(self, node_id: str, revision: int, state: FleetState | None) -> bool:
        """Whether it was awaited, and now no other is."""
        pending = state.pending if state is not None else None
        spared = pending.not_awaited if pending is not None else frozenset[str]()
        return node_id not in spared and not self.asleep(Held(revision, spared))

    def asleep(self, held: Held) -> list[str]:
        """See `Store.asleep`."""
        late = (node for node in self._heard if self._held.get(node, 0) < held.revision)
        return sorted(node for node in late if node not in held.without)

    def must_hold(self, held: Held | None) -> None:
        """Raises `Waiting` where a commit that asks for that has to wait."""
        if held is None:
            return
        late = [node for node in self.asleep(held) if held.fenced.get(node) != self._heard[node][0].serial]
        if late or self._is_calling():
            raise Waiting(late)
