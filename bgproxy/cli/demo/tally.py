"""Counts what the clients saw and decides what of it is lost. Pure: no clock, no sockets, no printing.

An answer is right only if every part of it came, once, in order, addressed to the one who asked, from one release, with
the protocol's own ending, and from a release that the pointer allowed at that time. Whatever else came is lost, and the
first thing that is wrong with it is its reason. Nothing is forgiven and nothing is asked for twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Sort = Literal["requests", "streams", "websockets"]

_DETAILS_KEPT = 20  # descriptions of lost answers; past that, their counts by reason say enough


class Kind(StrEnum):
    """What a client can ask for, one per row of the table."""

    MCP_SESSION = "mcp session"  # opening one: discovery, or the older handshake
    MCP_CALL = "mcp call"
    MCP_PROGRESS = "mcp progress"  # a call that tells its progress, event by event, before its result
    CHAT = "chat"
    CHAT_STREAM = "chat stream"
    WEBSOCKET = "websocket"


SORTS: dict[Kind, Sort] = {
    Kind.MCP_SESSION: "requests",
    Kind.MCP_CALL: "requests",
    Kind.MCP_PROGRESS: "streams",
    Kind.CHAT: "requests",
    Kind.CHAT_STREAM: "streams",
    Kind.WEBSOCKET: "websockets",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of an answer: the release that sent it, its number from 0, and the tag of who it is for."""

    release: str
    number: int
    tag: str


@dataclass(slots=True)
class Answer:
    """One thing that a client asked for, and what came of it. Times are seconds of one steady clock."""

    kind: Kind
    tag: str
    expected: int  # pieces that are to come
    began: float  # before the first byte was sent
    pieces: list[Piece] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # from a question to the first piece after it
    first_at: float = math.inf
    complete: bool = False  # the protocol's own ending was seen
    failure: str = ""  # the kind of the error that ended it
    detail: str = ""  # what that error said
    asked: float | None = None

    def ask(self, now: float) -> None:
        """One more question in the same conversation, with one more piece to come."""
        self.expected += 1
        self.asked = now

    def take(self, piece: Piece, now: float) -> None:
        self.first_at = min(self.first_at, now)
        if self.asked is not None:
            self.waits.append(now - self.asked)
            self.asked = None
        self.pieces.append(piece)


@dataclass(slots=True)
class _Stand:
    release: str
    started: float
    returned: float


class PointerLog:
    """The pointer as its mover saw it: when each move was begun and when the call for it returned."""

    def __init__(self, release: str) -> None:
        self._stands = [_Stand(release, -math.inf, -math.inf)]

    def moving(self, release: str, now: float) -> None:
        """A move is asked for. Until it has returned, both releases may answer."""
        self._stands.append(_Stand(release, now, math.inf))

    def moved(self, now: float) -> None:
        """The move has returned: what begins from here on belongs to its release alone."""
        self._stands[-1].returned = now

    def objection(self, release: str, began: float, first_at: float) -> str:
        """Why `release` may not answer what began and was first answered at these times; "" if it may.

        The proxy chose at some moment between the two, so any release that the pointer may have held in between is
        right. `late`: the release had stood, but a move away from it had returned before the question was begun.
        """
        standing = max(i for i, stand in enumerate(self._stands) if stand.returned <= began)
        if release in {stand.release for stand in self._stands[standing:] if stand.started <= first_at}:
            return ""
        return "late" if release in {stand.release for stand in self._stands[:standing]} else "wrong release"


def judge(answer: Answer, pointer: PointerLog) -> str:
    """Why the answer is lost; "" where it is right."""
    if answer.failure:
        return answer.failure
    if any(piece.tag != answer.tag for piece in answer.pieces):
        return "somebody else's"
    if [piece.number for piece in answer.pieces] != list(range(len(answer.pieces))):
        return "gap or out of order"
    if len(answer.pieces) != answer.expected or not answer.pieces:
        return "cut short" if len(answer.pieces) <= answer.expected else "too long"
    if not answer.complete:
        return "no proper end"
    releases = {piece.release for piece in answer.pieces}
    if len(releases) > 1:
        return "two releases in one answer"
    return pointer.objection(releases.pop(), answer.began, answer.first_at)


@dataclass(slots=True)
class Row:
    """The count of one kind."""

    kind: Kind
    count: int = 0
    parts: int = 0  # pieces of all answers: events of streams, turns of WebSockets
    releases: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    def quantile_ms(self, share: float) -> float:
        """The wait that `share` of the questions did not exceed, in milliseconds (nearest rank)."""
        ranked = sorted(self.waits)
        return ranked[max(0, math.ceil(share * len(ranked)) - 1)] * 1000 if ranked else math.nan


@dataclass(frozen=True, slots=True)
class Move:
    """A flip or rollback that was done under the load, and what was open while it happened."""

    verb: Literal["flip", "rollback"]
    source: str
    target: str
    epoch: int
    took_ms: float  # by the proxy's own word
    call_ms: float  # from the question to the answer, as the caller saw it
    streams: int
    websockets: int


class Tally:
    """Everything that was asked, judged when it ends."""

    def __init__(self, pointer: PointerLog) -> None:
        self.pointer = pointer
        self.rows = {kind: Row(kind) for kind in Kind}
        self.moves: list[Move] = []
        self.details: list[str] = []
        self.problems: list[str] = []  # what went wrong besides lost answers, such as a flip that was refused
        self._open: dict[str, Answer] = {}

    def begin(self, kind: Kind, tag: str, expected: int, now: float) -> Answer:
        """Something is asked; `tag` is used once only."""
        answer = self._open[tag] = Answer(kind, tag, expected, now, asked=now)
        return answer

    def end(self, answer: Answer) -> str:
        """Judge the answer and count it; returns why it is lost, or ""."""
        del self._open[answer.tag]
        row = self.rows[answer.kind]
        row.count += 1
        row.parts += len(answer.pieces)
        row.waits += answer.waits
        if answer.pieces:
            row.releases[answer.pieces[0].release] += 1
        reason = judge(answer, self.pointer)
        if reason:
            row.lost[reason] += 1
            if len(self.details) < _DETAILS_KEPT:
                got = f"{answer.kind} {answer.tag}: {reason}, {len(answer.pieces)} of {answer.expected} parts came"
                self.details.append(f"{got}: {answer.detail[:200]}" if answer.detail else got)
        return reason

    def under_way(self, sort: Sort) -> set[str]:
        """The tags of what is open and has had a first piece: a move that comes now comes into its middle."""
        return {answer.tag for answer in self._open.values() if answer.pieces and SORTS[answer.kind] == sort}

    def open(self, kind: Kind) -> int:
        return sum(answer.kind is kind for answer in self._open.values())

    def count(self, sort: Sort) -> int:
        return sum(row.count for row in self.rows.values() if SORTS[row.kind] == sort)

    @property
    def lost(self) -> int:
        return sum(row.lost.total() for row in self.rows.values())

    @property
    def flips(self) -> int:
        return sum(move.verb == "flip" for move in self.moves)

    def doubts(self, releases: Sequence[str]) -> list[str]:
        """Why a run in which nothing was lost would still prove nothing."""
        idle = [f"no {row.kind} was answered" for row in self.rows.values() if row.count == row.lost.total()]
        answered = sum((row.releases for row in self.rows.values()), Counter[str]())
        idle += [f"release {release} answered nothing" for release in releases if not answered[release]]
        if not any(move.streams for move in self.moves):
            idle.append("no stream was open across any flip")
        if not any(move.websockets for move in self.moves):
            idle.append("no WebSocket was open across any flip")
        return idle

    def last_line(self) -> str:
        asked = f"{self.count('requests')} requests, {self.count('streams')} streams"
        return f"demo: {asked}, {self.count('websockets')} websockets, {self.flips} flips, {self.lost} lost"

    def document(self) -> dict[str, Any]:
        """The same as the tables say, for programs."""
        return {
            "requests": self.count("requests"),
            "streams": self.count("streams"),
            "websockets": self.count("websockets"),
            "flips": self.flips,
            "rollbacks": len(self.moves) - self.flips,
            "lost": self.lost,
            "late": sum(row.lost["late"] for row in self.rows.values()),
            "kinds": [_row_document(row) for row in self.rows.values()],
            "moves": [{name: getattr(move, name) for name in Move.__slots__} for move in self.moves],
            "details": self.details,
            "problems": self.problems,
        }


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind.value,
        "count": row.count,
        "parts": row.parts,
        "releases": dict(row.releases),
        "lost": dict(row.lost),
        "p50_ms": round(row.quantile_ms(0.5), 2) if row.waits else None,
        "p99_ms": round(row.quantile_ms(0.99), 2) if row.waits else None,
    }
