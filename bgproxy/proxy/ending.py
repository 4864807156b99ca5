"""How what is in flight is ended before its time: at the end of a shutdown's grace, and at a drain's deadline.

Decides what each of them is told, in the words of its protocol: an event stream ends between two events, a WebSocket is
closed between two frames, who waits for an answer gets one of ours. What offers no such boundary is looked at again.
Past `end_grace` a deadline cuts it, which is counted; an answer that has begun is let finish until then. A shutdown has
its own time, and `DataPlane.stop`.

Promises that only what is on the ended release is touched, and that saying the same again changes nothing.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from bgproxy.proxy.replies import RpcError
from bgproxy.proxy.wait import NEVER
from bgproxy.rules.fleet import FleetState
from bgproxy.sessions.jsonrpc import request_id

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange
    from bgproxy.proxy.plane import DataPlane
    from bgproxy.proxy.tunnel import Tunnel
    from bgproxy.proxy.turn import Turn

log = logging.getLogger(__name__)


class Ending(NamedTuple):
    """What is said to whom."""

    code: str  # to who waits for an answer, and has no session to be told about (proxy/replies.py)
    detail: str
    close: int  # to both sides of a WebSocket (RFC 6455 §7.4, and the registry of close codes)
    reason: str
    of_sessions: bool  # the sessions are over, too


SHUTDOWN = Ending(
    "shutting_down", "the agent did not answer within the grace time", 1001, "the proxy is shutting down", False
)
DEADLINE = Ending(
    "release_ended", "an operator has ended what was left on it", 1012, "the release was ended; connect again", True
)


def end_exchange(exchange: Exchange, ending: Ending) -> bool:
    """End one request and its answer; False: it offers no boundary now."""
    told = exchange.turn if ending.of_sessions and _lives_here(exchange) else None
    if exchange.answer is None:
        if told is not None:
            told.end_pin()
            tell_end(exchange, told)
        else:
            exchange.refuse(ending.code, ending.detail)
        return True
    if not exchange.end_stream():
        return False
    # A browser takes a GET up again by itself, and gives up for good at any status but 200 (HTML §9.2.2): the stream's
    # end is all that it is told. A protocol with an answer of its own for that is asked for it.
    if told is not None and exchange.request.method == b"GET" and told.sighting.ending()[0] == "problem":
        told.end_pin()
    return True


def tell_end(exchange: Exchange, turn: Turn) -> None:
    """Say, in the protocol's own words, that a session is over. With its id the next request begins a new one."""
    form, error = turn.sighting.ending()
    request = request_id(turn.said) if form == "jsonrpc" else None
    rpc = RpcError(error, request) if request is not None else None
    code = "session_not_found" if form == "not_found" else "session_ended"
    exchange.refuse(code, "an operator has ended it; begin a new one", rpc)


def end_tunnel(tunnel: Tunnel, ending: Ending) -> bool:
    """End one tunnel; False: it offers no boundary now. That it is closed tells its client that the session is over."""
    turn = tunnel.exchange.turn
    told = turn if ending.of_sessions and _lives_here(tunnel.exchange) else None
    if not tunnel.end(ending.close, ending.reason):
        return False
    if told is not None:
        told.end_pin()
    return True


def _lives_here(exchange: Exchange) -> bool:
    """Whether an exchange has a session that lives where it is served, for all that is known: one that has meanwhile
    begun anew elsewhere, or was moved there, does not end with what it has left behind."""
    turn, pins = exchange.turn, exchange.client.plane.pins
    if turn is None or turn.pin is None or pins is None:
        return False
    pin = pins.get((turn.pin.id,))
    return pin is not None and (pin.color, pin.release) == (exchange.group.color, exchange.group.release)


class Endings:
    """What is in flight on releases whose sessions an operator's deadline has ended."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._until: dict[tuple[str, str], float] = {}  # color and label: monotonic seconds at which the rest is cut
        self._left_by: dict[tuple[str, str], int] = {}  # the epoch by which traffic left those that still stand
        self._left = False  # at the last look something offered no boundary

    def apply(self, state: FleetState) -> None:
        """A newer state of the fleet is in force, so that nothing more begins on what it has ended."""
        grace = self._plane.timeouts.end_grace
        until = monotonic() + grace if grace else NEVER
        self._until = {
            (color, label): self._until.get((color, label), until)
            for color, release in state.releases.items()
            for label in ((release.label, *release.ended_before) if release.ended else release.ended_before)
        }
        self._left_by = {(color, release.label): release.left for color, release in state.releases.items()}
        self._left = bool(self._until)
        self.look(monotonic())

    def look(self, now: float) -> None:
        """End what can be ended now, and cut what has had its time."""
        if not self._left:
            return
        self._left = False
        plane = self._plane
        for tunnel in list(plane.tunnels):
            until = self._until_of(tunnel.exchange)
            if until is None or tunnel.ending or end_tunnel(tunnel, DEADLINE):
                continue
            if now < until:
                self._left = True
            else:
                self._count_cut(tunnel.exchange)
                tunnel.abort(DEADLINE.code)
        for client in list(plane.connections):
            exchange = client.exchange
            until = self._until_of(exchange) if exchange is not None else None
            if exchange is None or until is None or end_exchange(exchange, DEADLINE):
                continue
            if now < until:
                self._left = True
            else:
                self._count_cut(exchange)
                exchange.refuse(DEADLINE.code, DEADLINE.detail)

    def _until_of(self, exchange: Exchange) -> float | None:
        """Until when a boundary is waited for; None where the exchange is not on an ended release.

        One whose session is still asked for is on no release yet: it is told where it goes, or that it has ended.
        """
        turn = exchange.turn
        if turn is not None and (turn.reading or turn.parked):
            return None
        return self._until.get((exchange.group.color, exchange.group.release))

    def _count_cut(self, exchange: Exchange) -> None:
        group = exchange.group
        group.slot.broken_proxy += 1
        self._plane.cut(1, self._left_by.get((group.color, group.release), 0))
        log.warning("cut at the deadline of %s on %s: %r offered no boundary", group.release, group.color, exchange)
