"""One request and its response, from the choice of an upstream to the last byte.

It is admitted by one routing table, counted before any byte moves, and relayed by direct callbacks: no task, no queue,
no copy per chunk. Everything that can happen to either side ends in exactly one of `_finish`, `_refuse`, `client_gone`
and `_break`, each of which gives the counts back.

The request's body stands in `upload.py`, the answer's relay in `answer.py`; the waiting and the retries here.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from bgproxy.http1.head import CHUNKED, IDEMPOTENT, Malformed, RequestHead, ResponseHead, why_hopeless
from bgproxy.proxy.answer import Answer
from bgproxy.proxy.pool import Upstream
from bgproxy.proxy.record import settle
from bgproxy.proxy.routing import Group
from bgproxy.proxy.tunnel import Tunnel
from bgproxy.proxy.upload import Upload
from bgproxy.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from bgproxy.proxy.client import ClientConnection


class Exchange:
    """See the module. Class-level values are defaults of what only some requests need."""

    # The way to the agent.
    connection: UpstreamConnection | None = None
    upstream: Upstream | None = None
    tried: tuple[Upstream, ...] = ()
    fresh = False  # only an unused connection will do: the last one was stale
    retries = 0
    over = False
    # The request's body.
    upload: Upload | None = None
    request_done = False
    bytes_in = 0
    replay: list[bytes] | None = None  # what was sent, while it may be sent once more
    replay_size = 0
    # The answer.
    answer: Answer | None = None
    head_part = b""  # the beginning of an answer's head
    interim = 0
    status = 0
    first_byte = 0.0
    bytes_out = 0
    end = "complete"

    def __init__(self, client: ClientConnection, request: RequestHead) -> None:
        self.client = client
        self.request = request

    def __repr__(self) -> str:
        return f"<Exchange {self.request.method!r} {self.request.target!r} {self.status or 'waiting'} {self.end}>"

    # 1. admit, claim, send

    def start(self, group: Group, rest: bytes, now: float) -> None:
        """Take the request on: `rest` is what has come behind its head."""
        request = self.request
        self.group = group
        self.started = now
        group.slot.in_flight += 1  # the claim, before any byte moves
        client = self.client
        self.pending = client.forwarded_head(request, group)
        if request.method in IDEMPOTENT:
            self.replay = []
        length = request.length
        come = len(rest)
        if length == CHUNKED or come < length:
            self.upload = Upload(self, length, come)
            if length != CHUNKED:
                self.pending.append(rest)
            self.bytes_in = come
            if length == CHUNKED and rest:
                self.upload.feed(rest)  # first: of a body that is malformed from its start the agent sees nothing
            if not self.over:
                self._find_connection(now)
            return
        if come > length:
            client.stash(rest[length:])
            rest = rest[:length]
        if length:
            self.pending.append(rest)
            self.bytes_in = length
        self.request_done = True
        self._find_connection(now)

    def _find_connection(self, now: float) -> None:
        """Choose an upstream and ask it for a connection, which may come at once or later."""
        full: tuple[Upstream, ...] = ()
        while (upstream := self.group.choose(now, self.tried + full)) is not None:
            self.upstream = upstream
            if not self.fresh and (connection := upstream.take(now)) is not None:
                upstream.in_flight += 1
                self.connected(connection, now)
                return
            if not upstream.full():
                upstream.in_flight += 1
                self.client.expect_connection(now)
                upstream.wait(self)
                return
            full = (*full, upstream)
        self.upstream = None
        if full:
            self._refuse("no_connection", "too many requests wait for a connection")
        else:
            self._refuse("no_upstream", "no upstream is left to try for this route")

    def connected(self, connection: UpstreamConnection, now: float) -> None:
        """A connection is ours: everything that waited for it goes out."""
        self.connection = connection
        connection.exchange = self
        self.expect_next(now)
        if not self.request_done:
            self.client.resume_reading()  # as much had come as may wait here
        data = b"".join(self.pending)
        self.pending = []
        if self.replay is not None:
            self._remember(data)
        connection.transport.write(data)
        if self.client.stalled:
            connection.pause_reading()

    def unconnected(self, code: str, reason: str) -> None:
        """No connection could be had, and nothing was sent: another upstream may be tried, whatever the method."""
        assert self.upstream is not None
        self.upstream.in_flight -= 1
        self.tried = (*self.tried, self.upstream)
        self.upstream = None
        if code != "out_of_descriptors" and len(self.tried) < self.client.plane.options.pool.connect_attempts:
            now = monotonic()
            if self.group.choose(now, self.tried) is not None:
                self._count_retry()
                self._find_connection(now)
                return
        self._refuse(code, reason)

    def end_early(self) -> bool:
        """Shutting down: end an event stream between two events, say no to who still waits; False: not now."""
        if self.answer is None:
            self.refuse("shutting_down", "the agent did not answer within the grace time")
            return False
        if not self.answer.end_stream():
            return False
        self._drop_agent()
        self.end = "deadline"
        self._count(monotonic())
        return True

    def waited_too_long(self) -> None:
        """No connection became free within `wait_timeout`."""
        assert self.upstream is not None
        self.upstream.leave(self)
        self._refuse("no_connection", f"{self.upstream.url}: no connection became free in time")

    # 2. the request's body

    def client_data(self, data: bytes) -> None:
        """More from the client: the rest of this request's body, then what belongs to the next request."""
        if self.request_done:
            self.client.stash(data)
            return
        assert self.upload is not None
        self.bytes_in += len(data)
        self.upload.feed(data)

    def request_ended(self) -> None:
        """The last byte of the body has come."""
        self.request_done = True
        self.expect_next(monotonic())

    def expect_next(self, now: float) -> None:
        """What is waited for now decides how long; the wait for a connection has its own time."""
        client = self.client
        if self.connection is None:
            return
        if self.answer is not None:
            client.answer_begun(now)  # where it came before the body's end, both go at the agent's pace
        elif self.request_done or (
            not self.bytes_in and not self.interim and b"\nexpect:" in self.request.fields.lower()
        ):
            client.expect_answer(now)  # a client that waits for 100-continue sends nothing before it
        else:
            client.expect_body(now)

    def forward(self, data: bytes) -> None:
        """Bytes of the body for the agent: sent at once, or kept while there is no connection, up to the mark."""
        if self.connection is None:
            self.pending.append(data)
            if not self.request_done and sum(map(len, self.pending)) > self.client.plane.limits.high_water_bytes:
                self.client.pause_reading()
            return
        if self.replay is not None:
            self._remember(data)
        self.connection.transport.write(data)

    def _remember(self, data: bytes) -> None:
        """Keep what was sent while it is little enough to be sent once more."""
        assert self.replay is not None
        self.replay_size += len(data)
        if self.replay_size > self.client.plane.limits.replay_bytes + len(self.request.fields):
            self.replay = None
        else:
            self.replay.append(data)

    def agent_slow(self) -> None:
        """The agent does not take the body as fast as it comes: the client waits."""
        self.client.pause_reading()
        self.client.expect_agent(monotonic())

    def agent_ready(self) -> None:
        """The agent takes more of the body."""
        self.client.resume_reading()
        self.expect_next(monotonic())

    # 3. the answer

    def agent_data(self, data: bytes) -> None:
        """Bytes from the agent: the answer's head, or more of its body."""
        answer = self.answer
        if answer is not None:
            self.bytes_out += len(data)
            try:
                answer.body(data)
            except Malformed as error:
                self._break("bad_response", error.detail)
                return
            if answer.done:
                self._finish(monotonic())
            return
        self.replay = None  # a byte of an answer: from here on a retry could be a second execution
        if self.head_part:
            data = self.head_part + data
            self.head_part = b""
        while (end := data.find(b"\r\n\r\n")) >= 0:
            try:
                response = self.client.plane.parser.response(data[: end + 4])
            except Malformed as error:
                self._break(error.code, error.detail)
                return
            data = data[end + 4 :]
            if response.status >= 200:
                self._begin(Answer(self, response), response, data)
                return
            if response.status == 101:
                self._switch(response.upgrade, response.fields, data)
                return
            self.interim += 1
            if self.interim > self.client.plane.limits.max_interim:
                self._break("bad_response", "the agent sends interim answers without end")
                return
            if self.request.minor:  # RFC 9110 §15.2: never to an HTTP/1.0 client
                self.client.transport.write(response.fields + b"\r\n")
            if not self.request_done:
                self.expect_next(monotonic())
        if why := why_hopeless(data, self.client.plane.limits.max_head_bytes):
            self._break("bad_response", why)
            return
        self.head_part = data

    def _begin(self, answer: Answer, response: ResponseHead, data: bytes) -> None:
        now = monotonic()
        try:
            answer.begin(self, response, data, now)
        except Malformed as error:
            self._break("bad_response", error.detail)
            return
        self.answer = answer
        self.first_byte = now
        self.status = response.status
        self.bytes_out = len(data)
        if answer.done:
            self._finish(now)

    def _switch(self, upgrade: bytes, fields: bytes, rest: bytes) -> None:
        """101: the connection becomes a tunnel, if that is what was asked for (RFC 9110 §7.8, §15.2.2)."""
        asked = self.request.upgrade
        if not asked or upgrade not in asked.split(b", "):
            self._break("bad_response", "the agent switches to a protocol that was not asked for")
            return
        self.status = 101
        self.first_byte = monotonic()
        head = fields + b"Connection: upgrade\r\nUpgrade: %b\r\n\r\n" % upgrade
        Tunnel(self, upgrade == b"websocket").open(head, rest)

    def agent_lost(self, error: Exception | None) -> None:
        """The agent's connection ended while this exchange had it."""
        connection, self.connection = self.connection, None
        assert connection is not None
        answer = self.answer
        if answer is not None:
            if error is None and answer.ends_with_connection:
                answer.ended()
                self._finish(monotonic())
            else:
                self._break("agent_closed", "the agent closed in the middle of its answer")
        elif (
            self.head_part or self.interim or not (connection.reused and self.replay is not None and self.request_done)
        ):
            self._break("agent_closed", "the agent closed the connection before it answered")
        else:
            # A kept connection that the agent had closed meanwhile: once, on a new one (RFC 9112 §9.3.1).
            assert self.upstream is not None
            self.upstream.in_flight -= 1
            self.upstream = None
            self.pending, self.replay, self.fresh = self.replay, None, True
            self._count_retry()
            self._find_connection(monotonic())

    def _count_retry(self) -> None:
        self.retries += 1
        self.group.slot.retries += 1

    # 4. the ends

    def _finish(self, now: float) -> None:
        """The answer is complete."""
        connection, self.connection = self.connection, None
        answer = self.answer
        assert answer is not None
        upstream = self.upstream
        assert upstream is not None
        upstream.health.request_done()
        if connection is not None:
            connection.exchange = None
            taken = not self.request.length or not connection.transport.get_write_buffer_size()
            if answer.keeps_agent and self.request_done and taken:
                upstream.release(connection, now)
            else:
                connection.close()
        self._count(now)
        self.client.exchange_done(answer.keeps_client and self.request_done, self.request_done, now)

    def refuse(self, code: str, detail: str) -> None:
        """Stop here and say so: with an answer of our own while none was begun, else by ending the connection."""
        self._drop_agent()
        if self.answer is not None:
            self.end = code
            self._count(monotonic())
            self.client.give_up(self.answer.close_can_be_seen)
        else:
            self._refuse(code, detail)

    def _refuse(self, code: str, detail: str) -> None:
        self.end = code
        self.status = self.client.refuse(code, detail, close=not self.request_done)
        self._count(monotonic())
        self.client.exchange_done(self.request_done and self.client.keeps(self.request), self.request_done, monotonic())

    def _break(self, code: str, detail: str) -> None:
        """The agent failed."""
        assert self.upstream is not None
        self.upstream.failures += 1
        self.upstream.health.request_failed(monotonic(), detail)
        self.group.slot.broken_agent += 1
        self.refuse(code, f"{self.upstream.url}: {detail}")

    def answer_timeout(self) -> None:
        """No head within `response_head_timeout`, or silence longer than `stream_idle_timeout`."""
        self._break("response_timeout", "the agent did not answer in time")

    def client_gone(self, reason: str = "client_gone") -> None:
        """The client went away: the agent's exchange ends too, so that it does not work for nobody."""
        if self.over:
            return
        self._drop_agent()
        self.end = reason
        self.group.slot.broken_client += 1
        self._count(monotonic())

    def _drop_agent(self) -> None:
        """Let go of the agent's connection (its request or answer is unfinished), or of the place in its queue."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.exchange = None
            connection.close()
        elif self.upstream is not None:
            self.upstream.leave(self)

    def _count(self, now: float) -> None:
        """Give the claims back and count what happened; once."""
        assert not self.over
        self.over = True
        self.upload = None  # it knows us: together they would wait for the garbage collector
        settle(self, now)

    def tunnel_closed(self, bytes_in: int, bytes_out: int, end: str) -> None:
        """Both directions of the tunnel have ended."""
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.end = end
        self.connection = None
        self._count(monotonic())
