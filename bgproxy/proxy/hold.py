"""New admissions that wait: for a flip to be made, or for an operator to resume them. A bounded queue.

What is held has been counted, and nothing of it has been sent. Whoever finds the queue full, or has waited its longest,
gets an honest 503. Must not know why it holds, nor until when.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from bgproxy.proxy.wait import Wait
from bgproxy.store.pinning import FENCED, PAUSED

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange
    from bgproxy.proxy.plane import DataPlane
    from bgproxy.proxy.routing import Group
    from bgproxy.rules.fleet import FleetState

BATCH = 64  # exchanges let go in one turn of the loop


def admitted(exchange: Exchange, group: Group, now: float) -> Group | None:
    """The group, for an exchange that begins there; None: it is held, and `Exchange.placed` follows, or a refusal."""
    fenced = exchange.client.plane.fenced
    if fenced is not None and fenced():
        _refuse_fenced(exchange)
        return None
    hold = group.hold
    if hold is None:
        return group
    hold.take(exchange, now)
    return None


def hold_by(plane: DataPlane, state: FleetState) -> Hold | None:
    """Where new admissions wait by that state; what waits already stays where it is while any reason stands."""
    if not state.is_held:
        return plane.hold if plane.hold is not None and plane.hold.is_early else None
    age = plane.options.hold.max_age
    if state.pause is not None:
        age = max(age, state.pause.max_hold)
    if plane.hold is None:
        return Hold(plane, age)
    plane.hold.wait_for(age)
    return plane.hold


def waits_only(before: FleetState | None, state: FleetState) -> bool:
    """Whether a newer state has nothing new but what new admissions wait for; by identity, as this is a short cut."""
    return (
        before is not None
        and before is not state
        and before.pointer is state.pointer
        and before.releases is state.releases
        and before.orders is state.orders
        and before.run is state.run
        and before.colors == state.colors
    )


def wait_at(plane: DataPlane, hold: Hold | None) -> None:
    """New admissions wait there from now on; None: nowhere, and those that waited go on."""
    before, plane.hold = plane.hold, hold
    if plane.routing is not None:
        for group in plane.routing.groups.values():
            group.hold = hold
    if before is not None and hold is None:
        plane.loop.call_soon(before.release)  # whoever flipped is to be told first


class Door:
    """What lets new admissions in, as a flip sees it: by the states that are applied, or shut before one is."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    @property
    def is_shut(self) -> bool:
        """Nothing new is admitted."""
        return self._plane.hold is not None

    def shut(self) -> None:
        """Admit nothing new from now on, whatever is applied, until `settle`."""
        plane = self._plane
        hold = plane.hold if plane.hold is not None else Hold(plane, plane.options.hold.max_age)
        hold.is_early = True
        wait_at(plane, hold)

    def settle(self) -> None:
        """Go by the state again that was applied last."""
        plane, hold = self._plane, self._plane.hold
        if hold is None:
            return
        hold.is_early = False
        if plane.state is None or not plane.state.is_held:
            wait_at(plane, None)


class Hold:
    """See the module. `age`: seconds that one exchange waits at most."""

    def __init__(self, plane: DataPlane, age: float) -> None:
        self.age = age
        self.is_early = False  # it is not, or not known to be, by the state that was applied last
        self._plane = plane
        self._held: dict[Exchange, int] = {}  # what each may take, in bytes; the first that came is the first
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Hold {len(self._held)} exchanges, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._held)

    def wait_for(self, age: float) -> None:
        """A newer reason for which to wait: what waits already does so, too, where that is longer."""
        if age > self.age:
            now = monotonic()
            for exchange in self._held:
                if not exchange.over:
                    exchange.client.expect(Wait.HOLD, age, now)
        self.age = age

    def take(self, exchange: Exchange, now: float) -> None:
        """Hold an exchange, or refuse it."""
        size = len(exchange.request.fields) + exchange.bytes_in
        if not exchange.request_done:
            size += self._plane.limits.high_water_bytes  # to which it may grow, see `Sending.forward`
        if self._is_full(size):
            self._forget_those_gone()
        if self._is_full(size):
            exchange.refuse("hold_full", "too many requests wait for a flip or a pause to end")
            return
        self._held[exchange] = size
        self._bytes += size
        self._plane.metrics.held += 1
        exchange.client.expect(Wait.HOLD, self.age, now)

    def _is_full(self, size: int) -> bool:
        options = self._plane.options.hold
        return len(self._held) >= options.max_requests or self._bytes + size > options.max_bytes

    def _forget_those_gone(self) -> None:
        self._held = {exchange: size for exchange, size in self._held.items() if not exchange.over}
        self._bytes = sum(self._held.values())

    def release(self) -> None:
        """Let all go where the plane's routing leads now, a batch per turn of the loop: others want to go on too."""
        batch = list(self._held)[:BATCH]
        now = monotonic()
        for exchange in batch:
            self._bytes -= self._held.pop(exchange)
            if exchange.over:
                continue
            if exchange.turn is not None and exchange.turn.keys:
                exchange.go(now)
                continue
            # Meanwhile a next hold may have begun: then it waits there.
            group = admitted(exchange, self._plane.admitting(exchange), now)
            if group is not None:
                exchange.placed(group, now)
        if self._held:
            self._plane.loop.call_soon(self.release)


def refuse_session(exchange: Exchange, why: str) -> None:
    """Nothing is known of where its session lives; `why` as the pins have it."""
    if why == FENCED:
        _refuse_fenced(exchange)
    else:
        exchange.refuse("session_unavailable", "where this session lives cannot be found out at the moment")


def _refuse_fenced(exchange: Exchange) -> None:
    """This worker has been cut off from the store for so long that others may have flipped without it."""
    exchange.refuse("fenced", "this worker is cut off from the store, and may not know where new requests go")


def hold_new(exchange: Exchange) -> None:
    """The exchange would begin a session, which the store does not let in during a pause."""
    plane, turn = exchange.client.plane, exchange.turn
    assert turn is not None, "it has asked for its session"
    if plane.hold is not None:
        turn.has_caught_up = False
        plane.hold.take(exchange, monotonic())
    elif not turn.has_caught_up:  # this node has not heard of the pause yet, or it is over
        turn.has_caught_up = True
        plane.catch_up(partial(_ask_again, exchange))
    else:  # the store says what this node does not take over: they are at odds, and asking on would never end
        turn.refuse(PAUSED)


def _ask_again(exchange: Exchange) -> None:
    if not exchange.over:
        exchange.go(monotonic())


def waited_too_long(exchange: Exchange) -> None:
    """It has waited as long as it may."""
    exchange.refuse("held_too_long", "the flip or pause for which this request waited took too long")
