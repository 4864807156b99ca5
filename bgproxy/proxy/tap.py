"""Copies of requests and answers, for whoever has asked to see them: made as the bytes pass, handed over afterwards.

Promises that the live exchange waits for nothing here, that no more is kept than of `HELD` exchanges and `HELD_BYTES`
at any time, and that of what does not fit no more is told than that it was; nor of a GET that is answered with an event
stream, which would hold its place for hours. Where nobody looks there is no tap: a connection asks for it once per
request. Must not know what the copies are for.
"""

from __future__ import annotations

import logging
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from bgproxy.http1.head import CHUNKED, RequestHead, ResponseHead
from bgproxy.proxy.answer import Answer
from bgproxy.proxy.exchange import Exchange
from bgproxy.proxy.routing import Group
from bgproxy.proxy.turn import Turn
from bgproxy.sessions.preset import CREDENTIALS
from bgproxy.telemetry.taken import Take, Taken, Wants, fields_of, value_of

if TYPE_CHECKING:
    from bgproxy.proxy.client import ClientConnection
    from bgproxy.proxy.plane import DataPlane

log = logging.getLogger(__name__)

HELD: Final = 128  # exchanges that are copied at once
HELD_BYTES: Final = 32 * 1024 * 1024  # of all their bodies together
REQUEST_BYTES: Final = 65_536  # of one request's body; a longer one is not copied
ANSWER_BYTES: Final = 262_144  # of one answer's body; a longer one is cut


class Tap:
    """See the module. It is on the data path from the first observer to the last."""

    def __init__(self, plane: DataPlane) -> None:
        self.held = 0  # exchanges under way of which something is kept
        self.held_bytes = 0
        self.dropped = 0  # wished for and not copied, for want of room
        self._plane = plane
        self._observers: dict[str, tuple[Wants, Take]] = {}

    def add(self, name: str, wants: Wants, take: Take) -> None:
        """Show this observer what passes from now on."""
        self._observers[name] = (wants, take)
        self._plane.tap = self

    def remove(self, name: str) -> None:
        """Show it no more."""
        self._observers.pop(name, None)
        if not self._observers:
            self._plane.tap = None

    def exchange(self, client: ClientConnection, request: RequestHead) -> Exchange:
        """The exchange for a request: one that copies, if anybody wishes to see it."""
        wishing: list[Take] = []
        for wants, take in self._observers.values():
            try:
                if wants(request):
                    wishing.append(take)
            except Exception:
                log.exception("who looks at the traffic failed")
        if not wishing or request.upgrade:
            return Exchange(client, request)
        copy = Copy(self)
        if self.held > HELD or request.length > REQUEST_BYTES:
            copy.drop()
        return TappedExchange(client, request, copy, wishing)


class Copy:
    """What is kept of one exchange while it is under way. It has one of the places until it is void or over."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        tap.held += 1
        self.request = bytearray()
        self.answer = bytearray()
        self.answer_head = b""
        self.is_cut = False
        self.is_void = False  # of no use: too large, there is no room, or nobody wants it

    def keep_request(self, data: bytes) -> None:
        """A piece of the request's body."""
        if len(self.request) + len(data) > REQUEST_BYTES:
            self.drop()
        elif not self.is_void and self._has_room(len(data)):
            self.request += data

    def keep_answer(self, data: bytes) -> None:
        """A piece of the answer's body."""
        if self.is_void or self.is_cut:
            return
        room = ANSWER_BYTES - len(self.answer)
        if len(data) > room:
            self.is_cut = True
            data = data[:room]
        if self._has_room(len(data)):
            self.answer += data

    def _has_room(self, size: int) -> bool:
        if self.tap.held_bytes + size > HELD_BYTES:
            self.drop()
            return False
        self.tap.held_bytes += size
        return True

    def drop(self) -> None:
        """Keep nothing of it, for want of room."""
        if not self.is_void:
            self.tap.dropped += 1
            self.leave_out()

    def leave_out(self) -> None:
        """Keep nothing of it, and give its place to another."""
        if not self.is_void:
            self.over()
            self.is_void = True
            self.request = bytearray()
            self.answer = bytearray()

    def over(self) -> None:
        """The exchange has ended: whoever wished for the copy has it from here on. A void one has no place to give."""
        if not self.is_void:
            self.tap.held_bytes -= len(self.request) + len(self.answer)
            self.tap.held -= 1


def _is_ear(response: ResponseHead) -> bool:
    """Whether this answer to a GET is an event stream, which is open as long as its client likes."""
    return value_of(fields_of(response.fields), "content-type").lower().startswith("text/event-stream")


class TappedExchange(Exchange):
    """An exchange whose bytes are copied as they pass."""

    def __init__(self, client: ClientConnection, request: RequestHead, copy: Copy, wishing: list[Take]) -> None:
        super().__init__(client, request)
        self.copy = copy
        self.wishing = wishing

    def start(self, group: Group, rest: bytes, now: float, turn: Turn | None = None) -> None:
        length = self.request.length
        if length != CHUNKED and length <= len(rest):  # others come by `look_into`
            self.copy.keep_request(rest[:length])
        super().start(group, rest, now, turn)

    def look_into(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.copy.keep_request(piece)
        super().look_into(pieces)

    def _begin(self, answer: Answer, response: ResponseHead, data: bytes) -> None:
        self.copy.answer_head = response.fields
        if self.request.method == b"GET" and response.event_stream and _is_ear(response):
            self.copy.leave_out()
        if self.copy.is_void:
            super()._begin(answer, response, data)
            return
        tapped = TappedAnswer(self, response)
        tapped.copy = self.copy
        super()._begin(tapped, response, data)

    def _count(self, now: float) -> None:
        turn, copy = self.turn, self.copy
        super()._count(now)
        copy.over()
        if self.status == 101:
            return
        taken = self._taken(turn, now)
        for take in self.wishing:
            try:
                take(taken)
            except Exception:
                log.exception("who looks at the traffic failed")

    def _taken(self, turn: Turn | None, now: float) -> Taken:
        request, group, copy = self.request, self.group, self.copy
        complete = not copy.is_void and self.end == "complete" and self.answer is not None and self.request_done
        ids: list[bytes] = []
        pin, preset = b"", ""
        if turn is not None:  # credentials name a caller, no conversation
            ids = [key.value for key in turn.sighting.keys if key.rank != CREDENTIALS]
            preset = turn.sighting.preset
            pin = turn.pin.id if turn.pin is not None else b""
        return Taken(
            request.method.decode(),
            request.target.decode("latin-1"),
            request.fields + self.client.suffix,
            bytes(copy.request) if complete else b"",
            self.status,
            copy.answer_head,
            bytes(copy.answer) if complete else b"",
            complete,
            complete and not copy.is_cut,
            time() - (now - self.started),
            now - self.started,
            group.route,
            group.color,
            group.release,
            preset,
            tuple(ids),
            pin,
        )


class TappedAnswer(Answer):
    """An answer whose payload is copied as it passes."""

    copy: Copy | None = None

    def body(self, data: bytes) -> None:
        """As `Answer.body`, by the way on which all payload is seen."""
        data = self._framed(data)
        client = self._client
        if client.stream_idle:
            client.answer_begun(monotonic())
        if data:
            self._write(data)

    def _tap(self, payload: bytes) -> None:
        if self.copy is not None:
            self.copy.keep_answer(payload)
        super()._tap(payload)
