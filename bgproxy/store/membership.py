"""This node's place among the others, from before it reads the state that it admits by until it admits no more.

Start order: badge, first beat, then whatever reads the state. Stop order: it leaves when nothing is admitted any more,
and takes its badge off when the store knows that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from bgproxy.errors import CannotJoin
from bgproxy.store.badge import Badges
from bgproxy.store.base import NodeReport, Store, StoreOptions
from bgproxy.store.fence import Fence
from bgproxy.store.ledger import Ledger
from bgproxy.store.neighbours import Neighbours
from bgproxy.store.nodes import Heartbeat


class Membership:
    """See the module."""

    def __init__(
        self,
        node_id: str,
        store: Store,
        options: StoreOptions,
        fence: Fence,
        runtime_dir: Path,
        ledger: Ledger,
        report: Callable[[], NodeReport],
        catch_up: Callable[[], Awaitable[object]],
    ) -> None:
        """`report`: of this node, asked for at each beat; `catch_up` reads the state. See `Heartbeat`."""
        self._node_id = node_id
        self._badges = Badges(runtime_dir, options.fleet)
        self._heartbeat = Heartbeat(store, report, catch_up, fence=fence)
        forgotten = partial(ledger.record_forgotten, actor="bgproxy", reason="silent for node_forget_after")
        self._neighbours = Neighbours(
            store, self._badges, forgotten, node_ttl=options.node_ttl, forget_after=options.node_forget_after
        )

    @property
    def serial(self) -> int:
        """Of this node's last beat."""
        return self._heartbeat.serial

    async def join(self) -> None:
        """Register, and sign off who has died before. Raises what `Heartbeat.join` raises."""
        self._badges.wear(self._node_id)
        try:
            await self._heartbeat.join()
        except CannotJoin:  # one of another version, that has died here, may be in the way
            await self._neighbours.sign_off_dead(at_once=True)
            await self._heartbeat.join()
        await self._neighbours.sign_off_dead()

    def start(self) -> None:
        """Beat, and look at the others, in the background."""
        self._badges.wear(self._node_id)
        self._heartbeat.start()
        self._neighbours.start()
        self._neighbours.bury()

    def again(self) -> None:
        """See `Heartbeat.again`."""
        self._heartbeat.again()

    async def stop(self) -> None:
        """Leave."""
        await self._neighbours.stop()
        if await self._heartbeat.stop():
            self._badges.take_off()

    def listed(self) -> int:
        """How many nodes were registered when that was last looked at; 0 before."""
        return self._neighbours.listed

    def bury(self) -> None:
        """Another worker of this host has died."""
        self._neighbours.bury()

    def fenced(self, node: NodeReport) -> bool:
        """Whether another node, of which this is the last that is heard, is known to admit nothing new."""
        return self._neighbours.fenced(node.id, node.serial)

    async def fenced_among(self, nodes: Sequence[str], look: bool) -> dict[str, int]:
        """See `Neighbours.fenced_among`."""
        return await self._neighbours.fenced_among(nodes, look)
