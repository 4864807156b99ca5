"""After a 101: bytes pass both ways as they are, until both sides have said that they are done.

Either side may close its half first (FIN); the other half goes on. A slow reader pauses the other side's socket, so
the tunnel holds at most one high-water mark and one read in each direction. A reader that takes nothing at all for
`write_stall_timeout` is given up, as it is everywhere; silence is no reason to end a tunnel.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import TYPE_CHECKING

from bgproxy.http1.websocket import FrameTracker, close_frame
from bgproxy.proxy.upstream import TCP_CLOSED, tcp_state, untaken

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange

NEVER = float("inf")


class TunnelEnd:
    """The protocol on one of the two sockets: what it reads, the other one writes."""

    peer: TunnelEnd
    received = 0
    ended = False  # its FIN has come and was passed on
    lost = False
    held = False  # not read from, because the other side does not take as much
    stall_deadline = NEVER  # monotonic seconds; set while bytes wait for it
    stalled_at = 0  # bytes that waited when it was last looked at

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, frames: FrameTracker | None) -> None:
        self.transport = transport
        self.frames = frames  # of what is read here
        self._tunnel = tunnel

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._tunnel.ending:
            return  # the other side was told that there is no more
        if self.frames is not None:
            self.frames.feed(data)
        self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.peer.ended:
            self._tunnel.close()
        elif not self._tunnel.ending:
            self.peer.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._tunnel.end_lost(self, error)

    def pause_writing(self) -> None:
        self._watch(monotonic())
        self.peer.hold()

    def resume_writing(self) -> None:
        self.stall_deadline = NEVER
        peer = self.peer
        if peer.held:
            peer.held = False
            if not peer.ended:
                peer.transport.resume_reading()

    def hold(self) -> None:
        """Read no more from here until the other side has taken what it has."""
        self.held = True
        self.transport.pause_reading()

    def part(self, last_words: bytes) -> None:
        """Say the last words here, and read on without passing it on, until that side has closed, too."""
        if self.lost:
            return
        if not self.peer.ended:  # to where a FIN was passed on, nothing more can be said
            self.transport.write(last_words)
            self.transport.write_eof()
        if self.held and not self.ended:
            self.transport.resume_reading()
        self.held = False

    def close(self) -> None:
        """Write what is left, then close."""
        if not self.lost:
            self._watch(monotonic())
            self.transport.close()

    def look(self, now: float) -> None:
        """The sweep: does it take nothing any more, or has it gone unseen?"""
        if self.lost:
            return
        if self.stall_deadline <= now:
            if untaken(self.transport) >= self.stalled_at:
                self.transport.abort()
            else:
                self._watch(now)
        elif (self.ended or self.held) and tcp_state(self.transport) == TCP_CLOSED:
            self.transport.abort()  # a reset, which shows by itself only where something is read

    def _watch(self, now: float) -> None:
        timeout = self._tunnel.stall_timeout
        self.stall_deadline = now + timeout if timeout else NEVER
        self.stalled_at = untaken(self.transport)


class Tunnel:
    """A client and an agent that talk past us; counted as one request in flight until both ends are closed."""

    def __init__(self, exchange: Exchange, websocket: bool) -> None:
        assert exchange.connection is not None
        self._plane = exchange.client.plane
        self.exchange = exchange
        self._connection = exchange.connection
        self._reason = ""
        self.ending = False  # both sides were told, and have a moment to close
        self._parted = NEVER  # monotonic seconds at which that moment is over
        self.stall_timeout = self._plane.timeouts.write_stall_timeout
        self.client = TunnelEnd(self, exchange.client.transport, FrameTracker() if websocket else None)
        self.agent = TunnelEnd(self, self._connection.transport, FrameTracker() if websocket else None)
        self.client.peer = self.agent
        self.agent.peer = self.client

    def __repr__(self) -> str:
        return f"<Tunnel {self.exchange.group.color} {self._reason or 'open'}>"

    def open(self, head: bytes, rest: bytes) -> None:
        """Tell the client (`head`: the 101), and take both sockets over. `rest`: what the agent sent behind its 101."""
        client = self.exchange.client
        client.transport.write(head)
        early = client.let_go()
        self._connection.resume_reading()
        self._plane.tunnels.add(self)
        self.exchange.group.slot.websockets += 1
        self.client.transport.set_protocol(self.client)  # type: ignore[arg-type]
        self.agent.transport.set_protocol(self.agent)  # type: ignore[arg-type]
        if client.stalled:
            self.client.pause_writing()
        if early:
            self.client.data_received(early)
        if rest:
            self.agent.data_received(rest)
        if client.half_closed:
            self.client.eof_received()

    def look(self, now: float) -> None:
        """The sweep, for both ends."""
        if self._parted <= now:
            self._parted = NEVER
            self.close()
        self.client.look(now)
        self.agent.look(now)

    def close(self) -> None:
        """Both sides are done."""
        self.client.close()
        self.agent.close()

    def end_lost(self, end: TunnelEnd, error: Exception | None) -> None:
        """One socket is gone: what was read from it still reaches the other, then that one closes too."""
        if not self._reason:
            self._reason = "complete" if error is None else ("client_gone" if end is self.client else "agent_closed")
        if end is self.agent:
            self._connection.exchange = None
            self._connection.connection_lost(error)  # the pool has a place free
        if not end.peer.lost:
            if error is None:
                end.peer.close()
            else:
                end.peer.transport.abort()
            return
        self._plane.tunnels.discard(self)
        self.exchange.group.slot.websockets -= 1
        if self._reason == "agent_closed":
            self.exchange.group.slot.broken_late += 1
        self.exchange.tunnel_closed(self.client.received, self.agent.received, self._reason)

    def end(self, code: int, reason: str) -> bool:
        """Close a WebSocket before its time, between two frames, to both sides; False: not now.

        `code` and `reason`: see RFC 6455 §7.4. Both have `linger_timeout` for their part of the closing handshake
        (§7.1.1): a socket that is closed at once answers that with a reset, which may overtake what was said.
        """
        if self.ending or self.client.frames is None or self.agent.frames is None:
            return False
        if not self.agent.frames.at_boundary or not self.client.frames.at_boundary:
            return False
        self.ending = True
        self._reason = "deadline"
        self._parted = monotonic() + self._plane.timeouts.linger_timeout
        self.client.part(close_frame(code, reason))
        self.agent.part(close_frame(code, reason, os.urandom(4)))
        return True

    def abort(self, reason: str = "") -> None:
        """Tear it down. `reason`: for the access log, where it is not what either side did."""
        self._reason = self._reason or reason
        for end in (self.client, self.agent):
            if not end.lost:
                end.transport.abort()
