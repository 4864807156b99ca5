"""The way of one request's body: kept while there is no connection, sent as it comes from then on, at the agent's pace.

Knows how much may wait, and what of it may be sent once more. Must not know where it goes: its exchange does.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from bgproxy.http1.head import RequestHead
from bgproxy.proxy.answer import Answer
from bgproxy.proxy.turn import Turn
from bgproxy.proxy.upload import Upload
from bgproxy.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from bgproxy.proxy.client import ClientConnection


class Sending:
    """See the module. Class-level values are defaults of what only some requests need."""

    turn: Turn | None = None  # of the session that the request may belong to
    begun = False  # all that came with the head has been looked at
    connection: UpstreamConnection | None = None
    upload: Upload | None = None
    request_done = False
    bytes_in = 0
    replay: list[bytes] | None = None  # what was sent, while it may be sent once more
    replay_size = 0
    answer: Answer | None = None
    interim = 0

    def __init__(self, client: ClientConnection, request: RequestHead) -> None:
        self.client = client
        self.request = request
        self.pending: list[bytes] = []  # what waits for a connection

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
            if self.turn is not None and self.turn.reading and not self.request_done:
                client.expect_body(now)
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
            reading = self.turn is not None and self.turn.reading  # which has a limit of its own
            most = self.client.plane.limits.high_water_bytes
            if not (self.request_done or reading) and sum(map(len, self.pending)) > most:
                self.client.pause_reading()
            return
        if self.replay is not None:
            self._remember(data)
        self.connection.transport.write(data)

    def _remember(self, data: bytes) -> None:
        """Keep what was sent while it is little enough to be sent once more."""
        assert self.replay is not None
        self.replay_size += len(data)
        if self.replay_size > self.client.plane.replay_bytes + len(self.request.fields):
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
