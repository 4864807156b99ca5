"""What the admin plane asks of the others: the switch that acts, the peers that tell, and the pieces to read from.

It decides nothing about colors itself: every change goes through the switch, every fact comes from the mirror, the
store or the workers of this host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bgproxy.admin.options import AdminOptions
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.barrier import Strategy
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.release import Release
from bgproxy.rules.run import Kind
from bgproxy.store.base import NodeReport, Store
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import Once


class Switch(Protocol):
    """Moves the pointer and stages releases, with every check that belongs to it. Raises `Problem`s only."""

    async def recall(self, once: Once) -> Outcome | None:
        """What came of the same change under the same idempotency key; None where it is not known."""
        ...

    async def flip(
        self,
        to: str,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None,
        force: bool,
        once: Once | None,
        strategy: Strategy | None,
        exclude: Collection[str],
    ) -> Outcome:
        """Make `to` the active color. Not changed where it is that already."""
        ...

    async def rollback(
        self,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None,
        force: bool,
        once: Once | None,
        strategy: Strategy | None,
        exclude: Collection[str],
    ) -> Outcome:
        """Make the previous color the active one again."""
        ...

    async def pause(self, max_hold: float, *, actor: str, reason: str) -> FleetState:
        """Let every node hold new requests, at most `max_hold` seconds; returns when all do."""
        ...

    async def resume(self, *, actor: str, reason: str) -> Outcome:
        """Let new requests go on. Not changed where they do."""
        ...

    async def stage(
        self,
        color: str,
        release: Release,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None,
        force: bool,
        once: Once | None,
    ) -> Outcome:
        """Put a release on a color that is not active."""
        ...


class Runs(Protocol):
    """Runs releases by their plans. Raises `Problem`s only."""

    async def begin(
        self,
        color: str,
        release: Release | None,
        written: Mapping[str, Any] | None,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None,
        force: bool,
        once: Once | None,
        kind: Kind,
    ) -> Outcome:
        """Begin to run a plan, or the configured one; on the release that waits there where that is None, which is
        not flipped to then. `kind`: a bake watches what is active."""
        ...

    async def approve(self, gate: str, *, actor: str, reason: str) -> Outcome:
        """Say yes to what waits for it; an empty gate: to what waits now."""
        ...

    async def abort(self, *, actor: str, reason: str) -> Outcome:
        """End the run, with nothing flipped or rolled back."""
        ...


class Retirer(Protocol):
    """Takes releases down. Raises `Problem`s only."""

    async def order(self, color: str, *, actor: str, reason: str, force: bool, when_drained: bool) -> Outcome:
        """Order that what a color holds is taken down. Not changed where that is done, or ordered."""
        ...

    async def cancel(self, color: str, *, actor: str, reason: str) -> Outcome:
        """Take such an order back. Not changed where there is none."""
        ...


class Peers(Protocol):
    """The workers of this host."""

    async def snapshots(self) -> list[dict[str, Any]]:
        """One WorkerSnapshot per living worker, this one included:

        `{"node": NodeReport as a dict, "metrics": Metrics.snapshot(), "store": {"state": "up"|"down", "kind", "age",
        "alarm": how it contradicts what is held, or "", "fenced": bool}, "started": unix seconds}`. Never raises; a
        worker that does not answer is left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class AdminDeps:
    """Everything that the admin plane is introduced to."""

    options: AdminOptions
    fleet: str
    ledger: Ledger
    mirror: Mirror
    store: Store
    switch: Switch
    runs: Runs
    retirer: Retirer
    peers: Peers
    ready: Callable[[], tuple[bool, dict[str, Any]]]  # facts beside the yes or no stand in the answer of /readyz
    version: str
    has_moved: Callable[[str, str], None]  # told of a session that an operator's order has moved: its preset, its color
    fenced: Callable[[NodeReport], bool]  # whether another node is known to admit nothing new since this report
    runtime_dir: str = ""  # of this host's workers, where its operators find their supervisor
    reserved: tuple[
        str, ...
    ] = ()  # what no upstream may be, beside `options.listen`: the proxy's doors, the store's URL

    def state(self) -> FleetState:
        """What this process holds as the fleet's state. Raises StoreUnavailable while it has never heard any."""
        if self.mirror.state is None:
            raise StoreUnavailable("this proxy has not heard from the store yet, so it knows no pointer")
        return self.mirror.state
