"""Events of a stream, cut out of its bytes: only those that have one of the wanted words in them.

Nearly all events are looked at once, by one pattern, and let go; so a name counts only as its protocol prints it,
without escapes. What waits for its end is bounded; an event that is longer is passed over. The format is that of the
HTML standard (§9.2): lines end with CR, LF or both, an empty line ends an event. An event counts from its empty line
on, as it does for its reader.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from bgproxy.sessions.words import Words

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_EVENT_END: Final = re.compile(rb"\n\n|\n\r|\r\r")
_ENDS: Final = b"\r\n"
_BOM: Final = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event: its type, its data (their lines joined by LF), and its id, each b"" where there is none."""

    kind: bytes
    data: bytes
    id: bytes


class EventReader:
    """Cuts one stream. An event is wanted if it has one of the `names` in it, or one of the `words`.

    An event of more than `limit` bytes is passed over.
    """

    __slots__ = ("_limit", "_names", "_over", "_pending", "_words", "over_long")

    def __init__(self, names: Words | None, words: tuple[bytes, ...], limit: int) -> None:
        self.over_long = 0  # events that were longer than the limit
        self._names = names
        self._words = words
        self._limit = limit
        self._pending = bytearray()  # the beginning of an event
        self._over = False  # what comes belongs to an event that is too long

    def feed(self, data: bytes) -> list[Event] | None:
        """The next bytes; the wanted events that end with them, None for none. Never raises."""
        if self._pending:
            return self._more(data)
        if data[-2:] != b"\n\n":  # whole events, as agents mostly write them
            whole = data[: _last_end(data, 0)]
            self._pending += data[len(whole) :].lstrip(_ENDS)
            self._bound()
            data = whole
        return self._cut(data) if self._wanted(data) else None

    def _more(self, data: bytes) -> list[Event] | None:
        """More of an event that has begun. What was looked at for its end is not looked at again."""
        pending = self._pending
        start = len(pending) - 1
        pending += data
        if self._over:
            match = _EVENT_END.search(pending)
            if match is None:
                del pending[:-1]
                return None
            self._over = False
            del pending[: match.end()]
            start = 0
        end = _last_end(pending, start)
        whole = bytes(pending[:end])
        del pending[:end]
        if end:
            pending[:] = pending.lstrip(_ENDS)
        self._bound()
        return self._cut(whole) if self._wanted(whole) else None

    def _bound(self) -> None:
        """Give up an event that will be too long, all but the byte that its end may begin with."""
        if len(self._pending) >= self._limit:
            del self._pending[:-1]
            self._over = True
            self.over_long += 1

    def _wanted(self, data: bytes) -> bool:
        if self._names is not None and self._names.find(data) >= 0:
            return True
        return any(data.find(word) >= 0 for word in self._words)

    def _cut(self, whole: bytes) -> list[Event]:
        events = []
        for text in _EVENT_END.split(whole):
            text = text.lstrip(_ENDS)
            if len(text) + 2 > self._limit:
                self.over_long += 1
            elif self._wanted(text):
                events.append(_event(text))
        return events


def _last_end(data: bytes | bytearray, start: int) -> int:
    """Where the last event ends whose end is behind `start`; 0 where none does."""
    at = max(data.rfind(b"\n\n", start), data.rfind(b"\n\r", start), data.rfind(b"\r\r", start))
    return at + 2 if at >= 0 else 0


def _event(text: bytes) -> Event:
    kind = b""
    event_id = b""
    lines = []
    for line in _LINE_END.split(text.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            lines.append(value)
        elif name == b"event":
            kind = value
        elif name == b"id" and b"\0" not in value:
            event_id = value
    return Event(kind, b"\n".join(lines), event_id)
