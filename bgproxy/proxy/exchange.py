"""One request and its response, from the choice of an upstream to the last byte.

It is admitted by one routing table, counted before any byte moves, and relayed by direct callbacks: no task, no queue,
no copy per chunk. Everything that can happen to either side ends in exactly one of `_finish`, `end_stream`, `_refuse`,
`client_gone` and `_break`, each of which gives the counts back.

The request's body stands in `sending.py` and `upload.py`, the session in `turn.py`, the answer's relay in `answer.py`;
the waiting and the retries here.
"""

from __future__ import annotations

from time import monotonic

from bgproxy.http1.head import CHUNKED, IDEMPOTENT, Malformed, ResponseHead, why_hopeless
from bgproxy.proxy.answer import Answer
from bgproxy.proxy.hold import admitted
from bgproxy.proxy.pool import Upstream
from bgproxy.proxy.record import note_broken, note_refusal, settle
from bgproxy.proxy.replies import RpcError
from bgproxy.proxy.routing import Group
from bgproxy.proxy.sending import Sending
from bgproxy.proxy.tunnel import Tunnel
from bgproxy.proxy.turn import Turn
from bgproxy.proxy.upload import Upload
from bgproxy.proxy.upstream import UpstreamConnection


class Exchange(Sending):
    """See the module. Class-level values are defaults of what only some requests need."""

    wish = ""  # where a new session of it begins, see `store.pinning.Want`
    # The way to the agent.
    upstream: Upstream | None = None
    tried: tuple[Upstream, ...] = ()
    fresh = False  # only an unused connection will do: the last one was stale
    retries = 0
    over = False
    # The answer.
    head_part = b""  # the beginning of an answer's head
    status = 0
    first_byte = 0.0
    bytes_out = 0
    end = "complete"

    def __repr__(self) -> str:
        return f"<Exchange {self.request.method!r} {self.request.target!r} {self.status or 'waiting'} {self.end}>"

    # 1. admit, claim, send

    def start(self, group: Group, rest: bytes, now: float, turn: Turn | None = None) -> None:
        """Take the request on. `rest`: what has come behind its head; `turn`: of the session that it may belong to."""
        request = self.request
        self.group = group
        self.turn = turn
        self.started = now
        group.slot.in_flight += 1  # the claim, before any byte moves
        client = self.client
        if request.method in IDEMPOTENT:
            self.replay = []
        length = request.length
        come = len(rest)
        if length == CHUNKED or come < length:
            self.upload = Upload(self, length, come)
            self.bytes_in = come
            if length == CHUNKED:
                if rest:
                    self.upload.feed(rest)  # first: of a body that is malformed from its start the agent sees nothing
            elif rest:
                self.pending.append(rest)
                self.look_into([rest])
        else:
            if come > length:
                client.stash(rest[length:])
                rest = rest[:length]
            if length:
                self.pending.append(rest)
                self.bytes_in = length
            self.request_done = True
            if turn is not None:
                turn.read([rest], whole=True)
        self.begun = True
        if not self.over:
            self.go(now)

    def look_into(self, pieces: list[bytes]) -> None:
        """Pieces of the body, framing off: they may tell the session, and then the request can go on."""
        turn = self.turn
        if turn is not None and turn.reading and turn.read(pieces, self.request_done) and self.begun:
            self.go(monotonic())

    def go(self, now: float) -> None:
        """On to the agent, as soon as it is known to which."""
        turn = self.turn
        if turn is not None and turn.reading:
            self.client.expect_body(now)
        elif (group := admitted(self, self.group, now) if turn is None else turn.place(now)) is not None:
            self.placed(group, now)

    def placed(self, group: Group, now: float) -> None:
        """Where the request's session lives: the claim goes there, and the request is sent."""
        before = self.group
        if group is not before:
            before.slot.in_flight -= 1
            group.slot.in_flight += 1
            self.group = group
        self._send_on(now)

    def _send_on(self, now: float) -> None:
        self.pending = [*self.client.forwarded_head(self.request, self.group), *self.pending]
        self._find_connection(now)

    def _find_connection(self, now: float) -> None:
        """Choose an upstream and ask it for a connection, which may come at once or later."""
        full: tuple[Upstream, ...] = ()
        kept = self.turn.upstream if self.turn is not None else ""
        while (upstream := self.group.choose(now, self.tried + full, kept)) is not None:
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
        if self.turn is not None and self.upstream is not None:
            self.turn.served_by(self.upstream.url)
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

    def waited_too_long(self) -> None:
        """No connection became free within `wait_timeout`."""
        assert self.upstream is not None
        self.upstream.leave(self)
        self._refuse("no_connection", f"{self.upstream.url}: no connection became free in time")

    # 2. the answer

    def agent_data(self, data: bytes) -> None:
        """Bytes from the agent: the answer's head, or more of its body."""
        answer = self.answer
        if answer is not None:
            self.bytes_out += len(data)
            waits = answer.held is not None
            try:
                answer.body(data)
            except Malformed as error:
                self._break("bad_response", error.detail)
                return
            if answer.held is not None:
                if not waits:
                    self._wait_for_pin()
            elif answer.done:
                self._finish(monotonic())
            return
        self.replay = None  # a byte of an answer: from here on a retry could be a second execution
        if self.head_part:
            data, self.head_part = self.head_part + data, b""
        telling = self.turn is not None and self.turn.sighting.minting
        while (end := data.find(b"\r\n\r\n")) >= 0:
            try:
                response = self.client.plane.parser.response(data[: end + 4], telling)
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
        if why := why_hopeless(data, self.client.plane.max_head_bytes):
            self._break("bad_response", why)
            return
        self.head_part = data

    def _begin(self, answer: Answer, response: ResponseHead, data: bytes) -> None:
        now = monotonic()
        turn = self.turn
        if turn is not None and turn.answered(response.status, response.marks):
            answer.hold()
        try:
            answer.begin(self, response, data, now)
        except Malformed as error:
            self._break("bad_response", error.detail)
            return
        self.answer = answer
        self.first_byte = now
        self.status = response.status
        self.bytes_out = len(data)
        if answer.held is not None:
            self._wait_for_pin()
        elif answer.done:
            self._finish(now)

    def _wait_for_pin(self) -> None:
        """The client must not get a newly minted id before the store knows it, or has had its time."""
        assert self.turn is not None
        if self.connection is not None:
            self.connection.pause_reading()
        self.turn.wait_for_pins()

    def release(self) -> None:
        """The pin is written: what was held goes to the client."""
        answer = self.answer
        if self.over or answer is None or answer.held is None:
            return
        answer.let_go()
        if answer.done:
            self._finish(monotonic())
        elif self.connection is not None and not self.client.stalled:
            self.connection.resume_reading()

    def _switch(self, upgrade: bytes, fields: bytes, rest: bytes) -> None:
        """101: the connection becomes a tunnel, if that is what was asked for (RFC 9110 §7.8, §15.2.2)."""
        asked = self.request.upgrade
        if not asked or upgrade not in asked.split(b", "):
            self._break("bad_response", "the agent switches to a protocol that was not asked for")
            return
        if self.turn is not None:
            self.turn.answered(101, None)
        self.status = 101
        self.first_byte = monotonic()
        debug = self.group.debug if self.client.plane.debug_header else b""
        head = fields + b"%bConnection: upgrade\r\nUpgrade: %b\r\n\r\n" % (debug, upgrade)
        Tunnel(self, upgrade == b"websocket").open(head, rest)

    def agent_lost(self, error: Exception | None) -> None:
        """The agent's connection ended while this exchange had it."""
        connection, self.connection = self.connection, None
        assert connection is not None
        answer = self.answer
        if answer is not None:
            if error is None and answer.ends_with_connection:
                answer.ended()
                if answer.held is None:
                    self._finish(monotonic())
            elif answer.done:  # all of it has come, and waits for its pin
                return
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

    # 3. the ends

    def _finish(self, now: float) -> None:
        """The answer is complete."""
        connection, self.connection = self.connection, None
        answer = self.answer
        assert answer is not None
        upstream = self.upstream
        assert upstream is not None
        upstream.answered()
        if connection is not None:
            connection.exchange = None
            taken = not self.request.length or not connection.transport.get_write_buffer_size()
            if answer.keeps_agent and self.request_done and taken:
                upstream.release(connection, now)
            else:
                connection.close()
        self._count(now)
        self.client.exchange_done(answer.keeps_client and self.request_done, self.request_done, now)

    def end_stream(self) -> bool:
        """End an event stream before its time, between two events; False: not now."""
        answer = self.answer
        if answer is None or not answer.end_stream():
            return False
        self._drop_agent()
        self.end = "deadline"
        self._count(monotonic())
        keep = answer.keeps_client and not self.client.must_close()
        self.client.exchange_done(keep and self.request_done, self.request_done, monotonic())
        return True

    def refuse(self, code: str, detail: str, rpc: RpcError | None = None) -> None:
        """Stop here and say so: with an answer of our own while none was begun, else by ending the connection."""
        self._drop_agent()
        if self.answer is not None:
            self.end = code
            self.answer.let_go()
            self._count(monotonic())
            self.client.give_up(self.answer.close_can_be_seen)
        else:
            self._refuse(code, detail, rpc)

    def _refuse(self, code: str, detail: str, rpc: RpcError | None = None) -> None:
        self.end = code
        self.status = self.client.refuse(code, detail, close=not self.request_done, rpc=rpc)
        note_refusal(self, code)
        self._count(monotonic())
        self.client.exchange_done(self.request_done and self.client.keeps(self.request), self.request_done, monotonic())

    def _break(self, code: str, detail: str) -> None:
        """The agent failed."""
        assert self.upstream is not None
        self.upstream.failed(detail)
        note_broken(self)
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
        if self.turn is not None:
            self.turn.over()
            self.turn = None
            if self.answer is not None:
                self.answer.turn = None
        self.upload = None  # it knows us, as the turn does: together they would wait for the garbage collector
        settle(self, now)

    def tunnel_closed(self, bytes_in: int, bytes_out: int, end: str) -> None:
        """Both directions of the tunnel have ended."""
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.end = end
        self.connection = None
        self._count(monotonic())
