"""Whole sessions of the live traffic, kept for the replay gate: where and by which key, the configuration says.

A session is recorded from its first turn or not at all, and forgotten where one of its turns could not be kept: what is
replayed must be all that its client has said. Which sessions are drawn follows from the session, so all workers of a
host draw the same ones; a turn may reach one of them before another has written the turn before it, and waits for that.
Everything is redacted and sealed before it is written, in a thread; what comes faster than it can be written is
dropped, and its session with it. The traffic waits for none of this.
"""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from bgproxy.http1.head import RequestHead
from bgproxy.rollout.options import RecordingOptions
from bgproxy.rollout.records import Bounds, Records, Seal
from bgproxy.rules.likeness import decoded, pointers
from bgproxy.rules.redaction import Redaction
from bgproxy.sessions.presets import PROTOCOLS
from bgproxy.tasks import spawn, stop
from bgproxy.telemetry.taken import Fields, Taken, fields_of, value_of

log = logging.getLogger(__name__)

NAME: Final = "recording"
MOST_WAITING: Final = 1_024  # exchanges that wait to be written
MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
PATIENCE: Final = 1.0  # seconds in which another worker of this host has written the beginning of a session
LOOK_INTERVAL: Final = 0.25  # seconds between two looks for that
SWEEP_INTERVAL: Final = 10.0  # seconds
PAUSE: Final = 30.0  # seconds without recording after a disk has failed
_STRANGERS: Final = 10_000  # sessions that are remembered not to be recorded, as they began before
MOST_SPOILED: Final = 10_000  # sessions that are remembered to be removed; where there are more, all are
_DECODED_BYTES: Final = 1_048_576
_MINTED: Final = frozenset(
    name
    for name, preset in PROTOCOLS.items()
    if preset.learn_fields or preset.learn_locations or preset.learn_groups or preset.learn_links
)
"""Protocols whose agents make the ids: a session whose first turn that is seen here names one began elsewhere."""

_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_NOT_KEPT: Final = frozenset({"content-length", "transfer-encoding", "connection", "expect", "via", "x-request-id"})


def records_of(options: RecordingOptions) -> Records:
    """Where the options have it. Raises ConfigError for a key that is none."""
    bounds = Bounds(options.max_bytes, options.max_sessions, options.max_age, options.max_turns)
    return Records(Path(options.directory), Seal(options.key), bounds)


def redaction_of(options: RecordingOptions) -> Redaction:
    """What is taken out: what always is, and what the options say."""
    usual = Redaction()
    return Redaction(
        usual.headers | {name.lower() for name in options.redact_headers},
        usual.names | {name.lower() for name in options.redact_names},
        pointers(options.redact_pointers),
        usual.patterns + tuple(map(re.compile, options.redact_patterns)),
    )


class Recorder:
    """This worker's part."""

    def __init__(self, records: Records, redaction: Redaction, share: float) -> None:
        """`share`: of sessions, 0 to 1."""
        self.dropped = 0  # exchanges for which there was no room
        self._told = 0  # of which the log knows
        self._records = records
        self._redaction = redaction
        self._drawn = int(share * 2**32)
        self._waiting: list[Taken] = []
        self._bytes = 0
        self._orphans: dict[int, float] = {}  # of those that wait, by identity, since when: their session is not known
        # Sessions of which a turn was lost, and until when they are removed: another worker may be about to begin one.
        self._spoiled: dict[str, float] = {}
        self._are_all_spoiled = False
        self._strangers: dict[str, None] = {}
        self._bell = asyncio.Event()
        self._silent_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = spawn(self._run(), "record sessions")

    async def stop(self) -> None:
        """Write what has come."""
        await stop(self._task)
        await self._write()
        if self._waiting:
            await asyncio.sleep(LOOK_INTERVAL)
            await self._write()

    # What the data path asks and tells

    def wants(self, _: RequestHead) -> bool:
        """Every request may belong to a session that is recorded."""
        return self._drawn > 0

    def take(self, taken: Taken) -> None:
        """An exchange that is over."""
        if not taken.complete and taken.method in _SAFE:
            return  # it has changed nothing: as when a client does not listen any more
        if taken.method in _SAFE and _is_stream(taken):
            return  # an ear that was open as long as its client liked
        name = taken.pin.hex()
        if name and (name in self._strangers or not self._draws(taken.pin)):
            return
        if len(self._waiting) >= MOST_WAITING or self._bytes + _size(taken) > MOST_WAITING_BYTES:
            self.dropped += 1
            self._spoil([name])
        elif taken.complete:
            self._waiting.append(taken)
            self._bytes += _size(taken)
        else:
            self._spoil([name])
        self._bell.set()

    def _draws(self, pin: bytes) -> bool:
        return int.from_bytes(blake2b(pin, digest_size=4, person=b"recording").digest(), "big") < self._drawn

    # Writing

    async def _run(self) -> None:
        loop, swept = asyncio.get_running_loop(), 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL if self._waiting or self._spoiled else SWEEP_INTERVAL):
                    await self._bell.wait()
            self._bell.clear()
            await self._write()
            if loop.time() >= swept + SWEEP_INTERVAL:
                swept = loop.time()
                await self._sweep()
            await asyncio.sleep(0.05)  # what comes meanwhile is written together

    def _spoil(self, names: Iterable[str]) -> None:
        """A turn of these was lost: nothing of them is kept."""
        until = max(asyncio.get_running_loop().time(), self._silent_until) + PATIENCE
        self._spoiled.update({name: until for name in names if name})
        if len(self._spoiled) > MOST_SPOILED:  # as where a disk has failed for long
            self._spoiled, self._are_all_spoiled = {}, True

    async def _write(self) -> None:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        now = asyncio.get_running_loop().time()
        if not (waiting or self._spoiled or self._are_all_spoiled):
            return
        if now < self._silent_until:
            self._spoil(taken.pin.hex() for taken in waiting)
            return
        are_all, self._are_all_spoiled = self._are_all_spoiled, False
        try:
            left, gone = await asyncio.to_thread(self._keep, waiting, tuple(self._spoiled), are_all)
        except Exception as error:
            self._are_all_spoiled = self._are_all_spoiled or are_all
            if isinstance(error, OSError):
                self._silent_until = now + PAUSE
                log.error("sessions cannot be recorded, tried again in %g s: %s", PAUSE, error)
            else:
                log.exception("sessions could not be recorded")
            self._spoil(taken.pin.hex() for taken in waiting)
            return
        self._spoiled = {name: until for name, until in self._spoiled.items() if until > now}
        self._spoil(gone)
        self._wait_on(left, now)

    def _wait_on(self, left: Sequence[Taken], now: float) -> None:
        """These are of sessions whose beginning is not there: they wait for it for a while."""
        since = {id(taken): self._orphans.get(id(taken), now) for taken in left}
        patient = [taken for taken in left if now < since[id(taken)] + PATIENCE]
        for taken in left:
            if now >= since[id(taken)] + PATIENCE:
                self._strangers[taken.pin.hex()] = None
        while len(self._strangers) > _STRANGERS:
            del self._strangers[next(iter(self._strangers))]
        self._orphans = {id(taken): since[id(taken)] for taken in patient}
        self._waiting[:0] = patient
        self._bytes += sum(map(_size, patient))

    async def _sweep(self) -> None:
        if self.dropped > self._told:
            log.warning("%d exchanges came faster than they can be recorded", self.dropped - self._told)
            self._told = self.dropped
        try:
            await asyncio.to_thread(self._records.sweep)
        except OSError as error:
            log.error("old recordings cannot be removed: %s", error)

    def _keep(self, waiting: Iterable[Taken], spoiled: Iterable[str], are_all: bool) -> tuple[list[Taken], set[str]]:
        """Those whose session is not known, and the sessions that cannot be kept. `are_all`: so is what is there."""
        sessions: dict[str, list[dict[str, Any]]] = {}
        left: list[Taken] = []
        lost, gone = {*spoiled, *(self._records.sessions() if are_all else ())}, set[str]()
        for taken in waiting:
            name = taken.pin.hex()
            if not name:
                if taken.session_ids:
                    continue  # of a session of which this proxy knows nothing
                name = token_hex(16)  # a question that stands for itself
            elif name in lost:
                continue
            elif name not in sessions and not _is_first(taken) and not self._records.knows(name):
                left.append(taken)
                continue
            turn = self._turn(taken)
            if turn is None:
                gone.add(name)
            else:
                sessions.setdefault(name, []).append(turn)
        for name, turns in sessions.items():
            if name not in gone:
                self._records.append(name, turns)
        for name in lost | gone:
            self._records.remove(name)
        return left, gone

    def _turn(self, taken: Taken) -> dict[str, Any] | None:
        """A turn as it is kept; None where it cannot be redacted."""
        redaction = self._redaction
        asked, said = fields_of(taken.request_head), fields_of(taken.answer_head)
        if value_of(asked, "content-encoding"):
            return None
        body = redaction.body(value_of(asked, "content-type"), taken.body)
        if body is None:
            return None
        kind = value_of(said, "content-type")
        plain = decoded(value_of(said, "content-encoding"), taken.answer, _DECODED_BYTES) if taken.whole else None
        answer = redaction.body(kind, plain) if plain is not None else None
        return {
            "at": taken.at,
            "method": taken.method,
            "target": redaction.target(taken.target),
            "fields": _kept(redaction.fields(asked)),
            "body": b64encode(body).decode(),
            "status": taken.status,
            "answer_fields": _kept(redaction.fields(said)),
            "answer": b64encode(answer).decode() if answer is not None else None,
            "latency": round(taken.latency, 6),
            "route": taken.route,
            "host": value_of(asked, "host"),
            "release": taken.release,
            "ids": [one.decode("latin-1") for one in taken.session_ids],
        }


def _size(taken: Taken) -> int:
    return len(taken.body) + len(taken.answer) + 1_024


def _is_stream(taken: Taken) -> bool:
    return value_of(fields_of(taken.answer_head), "content-type").startswith("text/event-stream")


def _is_first(taken: Taken) -> bool:
    """Whether a session can begin with this turn: one that an agent names begins with a turn that names none."""
    return not taken.session_ids or taken.preset not in _MINTED


def _kept(fields: Fields) -> Fields:
    ours = ("x-bgproxy-", "x-forwarded-")
    return [one for one in fields if one[0].lower() not in _NOT_KEPT and not one[0].lower().startswith(ours)]
