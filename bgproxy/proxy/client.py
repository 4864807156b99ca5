"""One client's connection: it finds requests in the bytes, hands each to an exchange, and answers them in order.

Requests that come ahead of their turn wait as bytes, up to a limit, and reading pauses there. One deadline per
connection says what is waited for; a sweep over all connections looks at it, so no timer is made per request.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from bgproxy.http1.head import Malformed, RequestHead, why_never_whole
from bgproxy.proxy.exchange import Exchange
from bgproxy.proxy.forwarding import address_of
from bgproxy.proxy.hold import waited_too_long
from bgproxy.proxy.preview import wished
from bgproxy.proxy.replies import REPLIES, RpcError, reply, rpc_reply
from bgproxy.proxy.routing import Group
from bgproxy.proxy.turn import turn_of
from bgproxy.proxy.upstream import TCP_CLOSED, reset_when_closed, tcp_state, untaken
from bgproxy.proxy.wait import NEVER, Wait

if TYPE_CHECKING:
    from bgproxy.proxy.plane import DataPlane


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECTS = b"\r\nExpect: 100-continue\r\n"  # as the parser writes the one expectation that there is


class ClientConnection:
    """The protocol on a client's socket. No base class: attribute access on the data path is cheaper without one."""

    # Per request.
    exchange: Exchange | None = None
    probed = False
    # Per connection.
    transport: asyncio.Transport
    buffer = b""  # a head that is not whole yet, or requests ahead of their turn
    deadline = NEVER  # monotonic seconds
    wait: int = Wait.REQUEST
    stall_deadline = NEVER
    stalled = False  # holds back its agent, because the client does not read as fast
    stalled_at = 0  # bytes that waited for the client when it was last looked at
    lingering = False
    agent_left = 0  # bytes of its body that its agent had not taken when that was last looked at
    half_closed = False  # the client has sent its FIN: it may still read
    reading = True
    closed = False
    host: bytes | None = None  # of the last request, for which `suffix` was made
    suffix = b""

    def __init__(self, plane: DataPlane, *, preview: bool = False) -> None:
        """`preview`: it has come in by the preview's listener."""
        self.plane = plane
        self.preview = preview
        self.stream_idle = plane.timeouts.stream_idle_timeout

    def __repr__(self) -> str:
        return f"<ClientConnection {self.peer or 'unix'} waits for {Wait.IN_WORDS[self.wait]}>"

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        plane = self.plane
        self.peer = address_of(transport)
        self.trusted = plane.trusts(self.peer)
        transport.set_write_buffer_limits(high=plane.limits.high_water_bytes)
        plane.joined(self)
        self.expect(Wait.REQUEST, plane.keepalive_timeout, monotonic())

    # 1. bytes in

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.client_data(data)
        elif not self.lingering:
            self._take(self.buffer + data if self.buffer else data)

    def _take(self, data: bytes) -> None:
        """Begin an exchange if a whole head is there."""
        plane = self.plane
        end = data.find(b"\r\n\r\n")
        if data[:2] == b"\r\n":  # one empty line before a request is forgiven (RFC 9112 §2.2)
            data = data[2:]
            end = data.find(b"\r\n\r\n")
        if end < 0 or end > plane.max_head_bytes:
            self._partial(data)
            return
        self.buffer = b""
        try:
            request = plane.parser.request(data[: end + 4], self.trusted)
            asks = bool(request.preview_token or self.preview or plane.listed)
            wish = wished(plane, request, self.preview) if asks else ""
        except Malformed as error:
            self._refuse_connection(error.code, error.detail)
            return
        if request.dropped:
            plane.metrics.dropped_fields += request.dropped
        routing = plane.routing
        if routing is None:
            self._refuse_connection("no_pointer", "the store has not been reached yet")
            return
        group = routing.admit(request.host, request.target)
        if group is None:
            self._refuse_connection("no_route", "no route is configured for this host and path")
            return
        limit = plane.max_body_bytes
        if limit and request.length > limit:
            self._refuse_connection("body_too_large", f"the body is longer than {limit} bytes")
            return
        exchange = self.exchange = Exchange(self, request) if plane.tap is None else plane.tap.exchange(self, request)
        if wish:
            exchange.wish = wish
            group = routing.admit_again(group, wish)
        rest = data[end + 4 :]
        turn = turn_of(exchange, group.sessions, rest) if group.sessions is not None else None
        exchange.start(group, rest, monotonic(), turn)

    def _partial(self, data: bytes) -> None:
        """A head that is not whole yet: wait for the rest, unless it cannot become a good one."""
        if self.half_closed:
            self._close()  # the rest never comes
            return
        limits = self.plane.limits
        code, why = why_never_whole(data, limits.max_head_bytes, limits.max_target_bytes)
        if code:
            self._refuse_connection(code, why)
        else:
            if data and self.wait != Wait.HEAD:  # an empty line behind the last request begins no next one
                self.expect(Wait.HEAD, self.plane.timeouts.client_head_timeout, monotonic())
            self.buffer = data
            self.resume_reading()

    def stash(self, data: bytes) -> None:
        """Bytes of a next request, ahead of their turn; past the limit reading pauses, nothing is dropped."""
        self.buffer += data
        if self._full():
            self.pause_reading()

    def _full(self) -> bool:
        limits = self.plane.limits
        return len(self.buffer) > limits.max_head_bytes or self.buffer.count(b"\r\n\r\n") >= limits.max_pipelined

    def eof_received(self) -> bool:
        """FIN from the client: requests that came whole are still answered; half a request is given up."""
        exchange = self.exchange
        if exchange is None:  # whole ones may wait for their turn, which comes with the loop's next
            self.half_closed = bool(self.buffer) and self.wait == Wait.REQUEST
        else:
            self.half_closed = exchange.request_done
        return self.half_closed  # False: the transport closes, `connection_lost` follows

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        self.plane.left(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    # 2. what the exchange asks of its client

    def forwarded_head(self, request: RequestHead, group: Group) -> list[bytes]:
        """The head for the agent: the client's fields, then ours (RFC 9110 §7.6.3; X-Forwarded-* by custom)."""
        if request.host != self.host or self.trusted or not request.host:
            self.host = request.host
            self.suffix = self.plane.forwarding.fields(request, self.peer)
            if not request.host and group.upstreams:  # of HTTP/1.0; the agent's HTTP/1.1 needs it (RFC 9112 §3.2)
                self.suffix = b"Host: %b\r\n%b" % (group.upstreams[0].authority, self.suffix)
        if request.has_request_id:
            return [request.fields, self.suffix]
        request.made_id = self.plane.new_request_id()
        return [request.fields, b"X-Request-Id: %b\r\n" % request.made_id, self.suffix]

    def ask_for_body(self, request: RequestHead) -> None:
        """Tell a client that waits for 100-continue to send its body, in the agent's place (RFC 9110 §10.1.1)."""
        if EXPECTS in request.fields:
            request.fields = request.fields.replace(EXPECTS, b"\r\n")
            self.transport.write(CONTINUE)

    def keeps(self, request: RequestHead) -> bool:
        """Whether the connection may carry another request after this one."""
        return request.keep_alive and not self.must_close()

    def must_close(self) -> bool:
        """Whether the connection ends after the answer whatever the client wishes."""
        return (self.plane.draining or self.half_closed) and not self.buffer

    def refuse(self, code: str, detail: str, *, close: bool, rpc: RpcError | None = None) -> int:
        """Answer by ourselves, with a problem document or an error of JSON-RPC; returns the status."""
        exchange = self.exchange
        request = exchange.request if exchange is not None else None
        if request is not None:
            close = close or not self.keeps(request)
        self.plane.metrics.refuse(code)
        head_only = request is not None and request.method == b"HEAD"
        if rpc is not None and not head_only:
            self.transport.write(rpc_reply(rpc, code, detail, self.plane.date, close=close))
            return 200
        self.transport.write(reply(code, detail, self.plane.date, head_only=head_only, close=close))
        return REPLIES[code].status

    def exchange_done(self, keep: bool, request_done: bool, now: float) -> None:
        """The answer is complete: on to the next request, or to the end of the connection."""
        self.exchange = None
        self.probed = False
        if self.closed:
            return
        if not keep or (self.half_closed and not self.buffer):
            self._close_after(request_done)
            return
        self.expect(Wait.REQUEST, self.plane.keepalive_timeout, now)
        if self.stalled:
            self.pause_reading()  # who does not read gets no further answers; `resume_writing` goes on
        else:
            self._go_on()

    def _go_on(self) -> None:
        """To the next request: one that came ahead of its turn, or one to come. While too many wait, reading stays
        paused: a client that sends faster than it is answered would fill the proxy with them."""
        if self.buffer:
            # Not from here: a long row of pipelined requests must not become a deep stack.
            self.plane.loop.call_soon(self._next_in_line)
        else:
            self.resume_reading()

    def _next_in_line(self) -> None:
        if self.buffer and self._is_free():
            data, self.buffer = self.buffer, b""
            self._take(data)
            if not self._is_free() and not self._full():
                self.resume_reading()

    def _is_free(self) -> bool:
        """Whether a next request may begin."""
        return self.exchange is None and not self.closed and not self.lingering

    def _refuse_connection(self, code: str, detail: str) -> None:
        """Refuse a request before there is an exchange, and end the connection: what follows cannot be trusted."""
        self.refuse(code, detail, close=True)
        self._close_after(request_done=False)

    def _close_after(self, request_done: bool) -> None:
        """Close once everything is written. While the client may still be sending, its bytes are read and dropped for
        a while: closing at once would reset the connection and take the answer with it (RFC 9112 §9.6)."""
        whole = request_done and not self.buffer and self.reading
        self.buffer = b""
        if whole or self.half_closed:
            self._close()
            return
        self.lingering = True
        self.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.expect(Wait.LINGER, self.plane.timeouts.linger_timeout, monotonic())

    def give_up(self, close_can_be_seen: bool) -> None:
        """The answer broke off. A close shows it where the framing tells; a reset where nothing else would."""
        self.exchange = None
        if close_can_be_seen:
            self._close()
        else:
            reset_when_closed(self.transport)
            self.abort()

    def _close(self) -> None:
        """Write what is left, then close; a client that does not take it has as long as any slow reader."""
        self.closed = True
        self.expect(Wait.LINGER, self.plane.timeouts.write_stall_timeout, monotonic())
        self.transport.close()

    def close_if_idle(self) -> None:
        """Shutting down: a client between two requests is closed."""
        if self.exchange is None and not self.buffer and not self.closed and not self.lingering:
            self._close()

    def abort(self) -> None:
        self.closed = True
        self.transport.abort()

    def let_go(self) -> bytes:
        """A tunnel has the socket from here on; what the client has sent behind its request belongs to it too."""
        self.resume_reading()
        self.exchange = None
        self.plane.left(self)
        early, self.buffer = self.buffer, b""
        return early

    # 3. backpressure

    def pause_writing(self) -> None:
        """The client reads slowly: its agent waits."""
        self.stalled = True
        self.stalled_at = untaken(self.transport)
        if stall := self.plane.timeouts.write_stall_timeout:
            self.stall_deadline = monotonic() + stall
        if self.exchange is not None and self.exchange.connection is not None:
            self.exchange.connection.pause_reading()

    def resume_writing(self) -> None:
        self.stalled = False
        self.stall_deadline = NEVER
        if self.exchange is None:
            if not self.closed and not self.lingering:
                self._go_on()
        elif self.exchange.connection is not None and (
            self.exchange.answer is None or self.exchange.answer.held is None
        ):
            self.exchange.connection.resume_reading()

    def pause_reading(self) -> None:
        if self.reading and not self.closed:
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.reading and not self.closed:
            self.reading = True
            self.transport.resume_reading()

    # 4. deadlines

    def expect(self, wait: int, timeout: float, now: float) -> None:
        """What is waited for from now on, `timeout` seconds at most; 0: without an end."""
        self.wait = wait
        self.deadline = now + timeout if timeout else NEVER

    def expect_body(self, now: float) -> None:
        self.expect(Wait.BODY, self.plane.body_timeout, now)

    def expect_answer(self, now: float) -> None:
        self.expect(Wait.ANSWER, self.plane.answer_timeout, now)

    def expect_agent(self, now: float) -> None:
        """The agent takes no more of the body for now: it has as long as any slow reader has."""
        self.agent_left = self._agent_untaken()
        self.expect(Wait.AGENT, self.plane.timeouts.write_stall_timeout, now)

    def _agent_untaken(self) -> int:
        connection = self.exchange.connection if self.exchange is not None else None
        return untaken(connection.transport) if connection is not None else 0

    def expect_connection(self, now: float) -> None:
        self.expect(Wait.CONNECTION, self.plane.options.pool.wait_timeout, now)

    def answer_begun(self, now: float) -> None:
        self.expect(Wait.STREAM, self.stream_idle, now)

    def look(self, now: float) -> None:
        """The sweep: is something overdue, or has the client gone without a word?"""
        if self.deadline <= now:
            self.deadline = NEVER
            self._overdue()
        elif self.stall_deadline <= now:
            size = untaken(self.transport)
            if size >= self.stalled_at:
                self.abort()
            else:
                self.stalled_at = size
                self.stall_deadline = now + self.plane.timeouts.write_stall_timeout
        elif self.exchange is not None and (self.half_closed or not self.reading):
            self._probe(self.exchange)

    def _overdue(self) -> None:
        exchange = self.exchange
        if self.closed or self.lingering:
            self.abort()
        elif self.wait == Wait.HEAD:
            self._refuse_connection("request_timeout", "the head did not come in time")
        elif exchange is None:
            self._close()
        elif self.wait == Wait.BODY:
            exchange.refuse("request_timeout", "the body did not come in time")
        elif self.wait == Wait.CONNECTION:
            exchange.waited_too_long()
        elif self.wait == Wait.STORE and exchange.turn is not None:
            exchange.turn.refuse()
        elif self.wait == Wait.HOLD:
            waited_too_long(exchange)
        elif self.wait == Wait.AGENT and 0 < self._agent_untaken() < self.agent_left:
            exchange.agent_slow()
        else:
            exchange.answer_timeout()

    def _probe(self, exchange: Exchange) -> None:
        """A client that closed only its own side and one that is gone look alike, until something is written to them.

        One interim answer (any HTTP/1.1 client must take those, RFC 9110 §15.2), or one zero before a chunk's size,
        makes the kernel of a gone client answer with a reset, which the connection's state then shows. It also shows
        the reset of a client that is not read from at the moment.
        """
        is_placed = exchange.connection is not None or exchange.answer is not None
        if self.half_closed and not self.probed and (is_placed or self.wait == Wait.HOLD):
            self.probed = True
            if exchange.answer is not None:
                exchange.answer.probe()
            elif exchange.request.minor:
                self.transport.write(CONTINUE)
        elif tcp_state(self.transport) == TCP_CLOSED:
            self.abort()
