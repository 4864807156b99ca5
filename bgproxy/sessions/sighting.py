"""What one request says about its session: by its head at once, by its body as that comes in.

A body is read no further than is needed, and goes on exactly as it came: that it is read changes nothing about it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bgproxy.sessions.keys import Key, add_key
from bgproxy.sessions.learn import Learner
from bgproxy.sessions.plan import Plan, Reading
from bgproxy.sessions.preset import SESSION
from bgproxy.sessions.tables import Case, Speaker, Tables

Marks = Sequence[tuple[bytes, bytes]]


class Sighting:
    """What a request says about its session. It may be shared between requests: it is for reading."""

    __slots__ = (
        "_case",
        "_deleted",
        "_gone",
        "_tables",
        "body",
        "connection",
        "ignored",
        "keys",
        "listens",
        "minting",
        "own_cookie",
        "places",
        "preset",
        "spoken",
        "sticky_host",
        "unread",
    )

    def __init__(self, tables: Tables) -> None:
        self.keys: list[Key] = []  # the most specific first, no duplicates
        self.preset = ""  # the one that the first key is of; "" none
        self.body: BodyReader | None = None  # the body must be read before the keys are final
        self.unread = ""  # why a body that may hold a key was not read (to its end): compressed, oversized, not_json
        self.sticky_host = False  # the agents of this preset hold memory
        self.connection = False  # the session is the connection
        self.listens = False  # it asks for nothing, and waits for whatever comes
        self.minting = True  # the answer may mint a key
        self.ignored = 0  # values that stood where a key stands, and were none
        self.own_cookie = b""  # the name of the cookie that the proxy is to set, where the client sent none
        self.spoken = 0  # the presets that have a key here, as bits
        self.places = 0  # where the path leads, as bits
        self._tables = tables
        self._case: Case | None = None
        self._gone = 0  # the status that says that the session is over
        self._deleted = False  # success ends the session

    def take(self, speaker: Speaker, key: Key, deleted: bool) -> None:
        """One more key. `deleted`: the request is to end what it names."""
        keys = self.keys
        if not keys or key.rank < keys[0].rank:
            self.preset = speaker.name
            self.sticky_host = speaker.sticky_host
            self._gone = speaker.gone if key.rank <= SESSION else 0
            self._deleted = deleted
        if not keys:
            keys.append(key)
        elif not add_key(keys, key):
            return
        self.spoken |= speaker.bit
        self._case = None

    def knows(self, space: str) -> bool:
        """Whether there is a key of this kind."""
        keys = self.keys
        return bool(keys) and any(key.space == space for key in keys)

    def speaker(self, number: int) -> Speaker:
        """The preset of this number."""
        return self._tables.speakers[number]

    def asked(self) -> int:
        """The presets that still have a say, as bits: of the protocols, if one has spoken, only that one."""
        tables = self._tables
        spoken = self.spoken & tables.protocols
        return tables.all & ~tables.protocols | spoken if spoken else tables.all

    def case(self) -> Case:
        """What is asked of the body and the answer, by what is known so far."""
        case = self._case
        if case is None:
            case = self._case = self._tables.case(self.asked(), self.places)
        return case

    def settle(self) -> None:
        """The keys are final."""
        keys = self.keys
        if keys:
            self.own_cookie = b""
            if keys[0].rank <= SESSION:
                self.minting = False
                return
        self.minting = self.case().answer.mint

    def response(self, status: int, marks: Marks) -> Learner | None:
        """What reads the answer for new keys; None where there can be none. `marks`: its `response_fields`."""
        if not self.minting or not 200 <= status < 300:
            return None
        return self.case().answer.learner(self.keys, marks)

    def ends(self, status: int) -> bool:
        """Whether the session of the request is over with this answer."""
        return status == self._gone or (self._deleted and 200 <= status < 300)

    def ending(self) -> tuple[str, int]:
        """How a request is answered whose session was ended (see `preset.Ending`), and by which error of JSON-RPC.

        -32000 is the one that JSON-RPC leaves to servers and A2A leaves free.
        """
        for speaker in self._tables.speakers:
            if speaker.name == self.preset and self.keys:
                code = speaker.unknown.get(self.keys[0].space)
                return ("jsonrpc", code) if code is not None else (speaker.ending, -32_000)
        return "problem", 0

    def __repr__(self) -> str:
        return f"<Sighting {self.preset or 'of nothing'} {self.keys}>"


class BodyReader:
    """Reads a request's body for keys. What it finds stands in its `Sighting`, and is final when reading ends."""

    __slots__ = ("_left", "_reading", "_sighting")

    def __init__(self, sighting: Sighting, plan: Plan, limit: int) -> None:
        """`limit`: so many bytes are read at most."""
        self._sighting: Sighting | None = sighting  # until the end; for good, both would wait for the collector
        self._reading = Reading(plan)
        self._left = limit

    def feed(self, data: bytes) -> bool:
        """Bytes of the body, framing removed. True: enough, the keys are final. Never raises."""
        if self._sighting is None:
            return True
        if len(data) < self._left:
            self._left -= len(data)
            if not self._reading.feed(data):
                return False
            self._finish(self._sighting)
        else:
            self._finish(self._sighting, oversized=not self._reading.feed(data[: self._left]))
        return True

    def end(self) -> None:
        """The body is whole."""
        if self._sighting is not None:
            self._finish(self._sighting)

    def _finish(self, sighting: Sighting, oversized: bool = False) -> None:
        self._sighting = None
        reading = self._reading
        reading.end()
        if not reading.json:
            sighting.unread = "not_json"
        elif oversized:
            sighting.unread = "oversized"
        sighting.ignored += reading.ignored
        if reading.keys:
            for number, key in reading.keys:
                sighting.take(sighting.speaker(number), key, False)
            sighting.settle()
