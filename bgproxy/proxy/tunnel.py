"""After a 101: bytes pass both ways as they are, until both sides have said that they are done.

Either side may close its half first (FIN); the other half goes on. A slow reader pauses the other side's socket, so
the tunnel holds at most one high-water mark and one read in each direction.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from bgproxy.http1.websocket import FrameTracker, close_frame

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange
    from bgproxy.proxy.plane import DataPlane

GOING_AWAY = 1001  # RFC 6455 §7.4.1


class TunnelEnd:
    """The protocol on one of the two sockets: what it reads, the other one writes."""

    peer: TunnelEnd

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, frames: FrameTracker | None) -> None:
        self.transport = transport
        self.frames = frames  # of what is read here
        self.received = 0
        self.ended = False
        self._tunnel = tunnel

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.frames is not None:
            self.frames.feed(data)
        self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.peer.ended:
            self._tunnel.close()
        elif self.peer.transport.can_write_eof():
            self.peer.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._tunnel.lost(self, error)

    def pause_writing(self) -> None:
        self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()


class Tunnel:
    """A client and an agent that talk past us; counted as one request in flight until both ends are closed."""

    def __init__(
        self,
        plane: DataPlane,
        exchange: Exchange,
        client: asyncio.Transport,
        agent: asyncio.Transport,
        websocket: bool,
    ) -> None:
        self._plane = plane
        self._exchange = exchange
        self._open = True
        self.client = TunnelEnd(self, client, FrameTracker() if websocket else None)
        self.agent = TunnelEnd(self, agent, FrameTracker() if websocket else None)
        self.client.peer = self.agent
        self.agent.peer = self.client

    def __repr__(self) -> str:
        return f"<Tunnel {self._exchange.group.color} {'open' if self._open else 'closed'}>"

    def open(self, early: bytes, rest: bytes, stalled: bool) -> None:
        """Take both sockets over. `early`: what the client sent behind its head; `rest`: the agent behind its 101."""
        self._plane.tunnels.add(self)
        self._exchange.group.slot.websockets += 1
        self.client.transport.set_protocol(self.client)  # type: ignore[arg-type]
        self.agent.transport.set_protocol(self.agent)  # type: ignore[arg-type]
        if stalled:
            self.agent.transport.pause_reading()
        if early:
            self.client.data_received(early)
        if rest:
            self.agent.data_received(rest)

    def close(self) -> None:
        """Both sides are done: write what is left, then close."""
        self.client.transport.close()
        self.agent.transport.close()

    def lost(self, end: TunnelEnd, error: Exception | None) -> None:
        """One socket is gone: what was read from it still reaches the other, then that one closes too."""
        if error is None:
            end.peer.transport.close()
        else:
            end.peer.transport.abort()
        if self._open:
            self._open = False
            self._plane.tunnels.discard(self)
            self._exchange.group.slot.websockets -= 1
            reason = "complete" if error is None else ("client_gone" if end is self.client else "agent_closed")
            self._exchange.tunnel_closed(self.client.received, self.agent.received, reason)

    def end(self) -> bool:
        """Shutting down: close a WebSocket between two frames with 1001, to both sides; False: not now."""
        if self.client.frames is None or self.agent.frames is None:
            return False
        if not self.agent.frames.at_boundary or not self.client.frames.at_boundary:
            return False
        self.client.transport.write(close_frame(GOING_AWAY, "the proxy is shutting down"))
        self.agent.transport.write(close_frame(GOING_AWAY, "the proxy is shutting down", os.urandom(4)))
        self.close()
        return True

    def abort(self) -> None:
        self.client.transport.abort()
        self.agent.transport.abort()
