"""The judge of what clients saw: a history of requests and flips goes in, what cannot have been right comes out.

It holds DESIGN.md's guarantees against a history, by their numbers:

1. *Atomic*: one request, one epoch. The answer, all that its body says and each time that an agent ran it name one
   release, and an unpinned request that was told an epoch got the color to which that epoch's flip led.
2. *Linearizable*: the pointer is one register that only goes forward. Who is sent after somebody else was answered by
   an epoch, or after that epoch's flip was told as done, is not answered by an earlier one; and nobody is answered by
   an epoch before its flip was asked for. A session counts as one reader, from its first request to its first answer.
3. *Sticky*: a session has one release, unless a `Move` lets it go to another, each once; and no two releases ever run
   turns of it at one time.
4. *Nothing is cut*: an answer that has begun comes to its end.
5. *Answered once*: each request gets one answer, an agent's or an honest error. What may not be repeated has run once
   at most, an agent's answer has been run, and what was refused with a 503 has not.

Who was on a connection that a fault took away (`dead`) is excused from an answer, and from nothing else.

Colors alone are enough for 2: where a request was told no epoch, it gets the earliest one of its color that does not
contradict those before it. Such an assignment exists exactly if the greedy one does, so nothing is flagged that could
have been right, and nothing passes that could not. All of it takes n log n for n requests. All times are readings of
one monotonic clock. Must not know how the history came about.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple

ATOMIC, LINEARIZABLE, STICKY, WHOLE, ONCE = 1, 2, 3, 4, 5
RULES: Final = {
    ATOMIC: "one request, one epoch",
    LINEARIZABLE: "no old color after the new one",
    STICKY: "no session on two releases",
    WHOLE: "nothing is cut",
    ONCE: "every request answered once",
}

REFUSED: Final = 503  # by the proxy: and then no agent has heard of it
HONEST: Final = frozenset({502, REFUSED, 504})  # errors of the proxy's own that say what they are
SHOWN: Final = 20  # violations of one rule that are told one by one


class Request(NamedTuple):
    """One request as its client saw it.

    `sent` before its first byte left, `answered` when the answer's head had come, `ended` after its last byte or when
    the connection broke; `inf` where that never was. `status` 0: no answer. `release` "": the answer is no agent's.
    """

    id: str
    sent: float
    answered: float = inf
    ended: float = inf
    status: int = 0
    color: str = ""
    release: str = ""
    epoch: int = 0  # as the proxy told; 0: it did not
    session: str = ""  # "": of none
    said: tuple[str, ...] = ()  # the releases that the answer's body names
    whole: bool = True  # of an answer that has begun: it came to its end
    answers: int = 1  # heads that came in answer to it
    repeatable: bool = False  # RFC 9110 §9.2.2
    line: int = 0  # its connection
    code: str = ""  # of a problem


class Execution(NamedTuple):
    """One time that an agent ran a request."""

    request: str
    release: str
    began: float
    ended: float = inf


class Flip(NamedTuple):
    """One epoch. `asked` before whoever flipped said so, `told` when it knew it done; the unbounded where not known."""

    epoch: int
    color: str
    asked: float = -inf
    told: float = inf


class Move(NamedTuple):
    """Sessions (those whose names begin so) on `left` ("": any release) may go to `to`, each once.

    `since`: when that was asked for; `until`: when it was known as done. A session is meant that began before then.
    `by_hand`: to where somebody wanted it, whatever the pointer said.
    """

    to: str
    since: float
    until: float = inf
    left: str = ""
    sessions: str = ""
    by_hand: bool = False


@dataclass(slots=True)
class History:
    """`flips` holds all epochs that ever were. `dead`: by connection, when a fault took it away.

    `unsure`: sessions that were begun while the store was away, of which rule 3 says nothing.
    """

    requests: Sequence[Request]
    flips: Sequence[Flip] = ()
    executions: Sequence[Execution] = ()
    moves: Sequence[Move] = ()
    dead: Mapping[int, float] = field(default_factory=dict)
    unsure: Collection[str] = ()


class Violation(NamedTuple):
    """What cannot have been right: the rule, in words, and the requests that show it."""

    rule: int
    text: str
    requests: tuple[str, ...]


@dataclass(slots=True)
class Verdict:
    """All violations are counted, the first of each rule told."""

    violations: list[Violation] = field(default_factory=list)
    broken: Counter[int] = field(default_factory=Counter)  # violations by rule
    requests: int = 0
    answered: int = 0  # by an agent
    refused: Counter[str] = field(default_factory=Counter)  # honest errors, by status and code
    excused: int = 0  # without an answer, on a connection that a fault took away
    repeated: int = 0  # ran more than once, as they may

    def found(self, rule: int, text: str, *requests: str) -> None:
        """Take note of a violation."""
        self.broken[rule] += 1
        if self.broken[rule] <= SHOWN:
            self.violations.append(Violation(rule, text, requests))

    def told(self) -> str:
        """All of it in a few lines."""
        refused = ", ".join(f"{what}: {count}" for what, count in sorted(self.refused.items())) or "none"
        lines = [
            f"{self.requests} requests: {self.answered} answered by agents, refused: {refused}, "
            f"{self.excused} lost with their connection, {self.repeated} run again as they may be"
        ]
        lines += [f"rule {rule} ({RULES[rule]}) broken {count} times" for rule, count in sorted(self.broken.items())]
        lines += [f"  {one.rule}: {one.text}" for one in self.violations]
        return "\n".join(lines)


def check(history: History) -> Verdict:
    """Hold the five guarantees against a history. Raises `ValueError` for what is none: two requests of one name, or
    times that run backwards."""
    verdict = Verdict(requests=len(history.requests))
    runs: dict[str, list[Execution]] = defaultdict(list)
    for run in history.executions:
        runs[run.request].append(run)
    _check_answers(history, runs, verdict)
    _check_atomic(history, runs, verdict)
    _check_pointer(history, verdict)
    _check_sessions(history, runs, verdict)
    return verdict


def _check_answers(history: History, runs: Mapping[str, list[Execution]], verdict: Verdict) -> None:
    """Rules 4 and 5."""
    asked = {one.id for one in history.requests}
    if len(asked) < len(history.requests):
        twice = [name for name, count in Counter(one.id for one in history.requests).items() if count > 1]
        raise ValueError(f"a history names each request once, this one names {twice[:5]} more often")
    for one in history.requests:
        if not one.sent <= one.answered <= one.ended:
            raise ValueError(f"{one.id} was not sent, answered and over in this order: its times are of two clocks")
        ran = len(runs.get(one.id, ()))
        if ran > 1 and one.repeatable:
            verdict.repeated += 1
        elif ran > 1:
            verdict.found(ONCE, f"{one.id} ran {ran} times and may run once", one.id)
        if one.answers > 1:
            verdict.found(ONCE, f"{one.id} was answered {one.answers} times", one.id)
        if not one.status or not one.whole:
            _lost(one, history.dead, verdict)
        elif one.release:
            verdict.answered += 1
            if not ran and history.executions:
                verdict.found(ONCE, f"{one.id} was answered by {one.release}, where it never ran", one.id)
        elif one.status not in HONEST:
            verdict.found(ONCE, f"{one.id} was answered {one.status} {one.code} by nobody in particular", one.id)
        else:
            verdict.refused[f"{one.status} {one.code}".strip()] += 1
            if ran and one.status == REFUSED:
                verdict.found(ONCE, f"{one.id} was refused ({one.status} {one.code}) and ran all the same", one.id)
    for name in sorted(runs.keys() - asked):
        verdict.found(ONCE, f"an agent ran {name}, which nobody asked for", name)


def _lost(one: Request, dead: Mapping[int, float], verdict: Verdict) -> None:
    """No answer, or none that came to its end."""
    if one.line in dead and dead[one.line] <= one.ended:
        verdict.excused += 1
    elif one.status:
        verdict.found(WHOLE, f"{one.id} was cut at {one.ended:.6f}, in the middle of {one.release}'s answer", one.id)
    else:
        verdict.found(ONCE, f"{one.id}, sent at {one.sent:.6f}, was never answered", one.id)


def _check_atomic(history: History, runs: Mapping[str, list[Execution]], verdict: Verdict) -> None:
    """Rule 1."""
    colors = {flip.epoch: flip.color for flip in history.flips}
    for one in history.requests:
        named = {one.release, *one.said, *(run.release for run in runs.get(one.id, ()))} - {""}
        if len(named) > 1:
            verdict.found(ATOMIC, f"{one.id} was served by {' and '.join(sorted(named))}", one.id)
        if not one.epoch or not one.release:
            continue
        if one.epoch not in colors:
            verdict.found(ATOMIC, f"{one.id} was answered by epoch {one.epoch}, which never was", one.id)
        elif not one.session and colors[one.epoch] != one.color:
            text = f"{one.id} was answered by {one.color} at epoch {one.epoch}, which is {colors[one.epoch]}"
            verdict.found(ATOMIC, text, one.id)


class _Read(NamedTuple):
    """A look at the pointer, some time between `sent` and `answered`."""

    name: str
    sent: float
    answered: float
    color: str
    epoch: int

    def __str__(self) -> str:
        epoch = f" (epoch {self.epoch})" if self.epoch else ""
        return f"{self.name}, sent at {self.sent:.6f}, was answered at {self.answered:.6f} by {self.color}{epoch}"


def _reads(history: History) -> Iterable[_Read]:
    """Who has seen the pointer: unpinned requests, and each session once. A session's epoch is its node's, no proof."""
    by_hand = tuple({move.sessions for move in history.moves if move.by_hand})
    opened: dict[str, float] = {}
    first: dict[str, Request] = {}
    for one in history.requests:
        if not one.session:
            if one.release:
                yield _Read(one.id, one.sent, one.answered, one.color, one.epoch)
            continue
        opened[one.session] = min(one.sent, opened.get(one.session, inf))
        known = first.get(one.session)
        if one.release and (known is None or one.answered < known.answered):
            first[one.session] = one
    for session, one in first.items():
        if not session.startswith(by_hand):
            yield _Read(f"{one.id} (session {session})", opened[session], one.answered, one.color, 0)


class _Epochs:
    """All epochs that were, and when each could be seen."""

    def __init__(self, flips: Sequence[Flip]) -> None:
        flips = sorted(flips)
        # An epoch follows the one before it: nobody can have seen it before either was asked for.
        self._opened = dict(zip((f.epoch for f in flips), accumulate((flip.asked for flip in flips), max), strict=True))
        self._by_color: dict[str, list[int]] = defaultdict(list)
        for flip in flips:
            self._by_color[flip.color].append(flip.epoch)
        done = sorted((flip.told, flip.epoch) for flip in flips)
        self._told = [told for told, _ in done]
        self._since = [0, *accumulate((epoch for _, epoch in done), max)]

    def least(self, sent: float) -> int:
        """The epoch that was told as done before that."""
        return self._since[bisect_left(self._told, sent)]

    def earliest(self, read: _Read, least: int) -> int:
        """The first epoch from `least` on that the reader can have seen; 0: none."""
        if read.epoch:
            epoch = read.epoch if read.epoch >= least else 0
        else:
            known = self._by_color.get(read.color, [])
            at = bisect_left(known, least)
            epoch = known[at] if at < len(known) else 0
        return epoch if self._opened.get(epoch, inf) < read.answered else 0


def _check_pointer(history: History, verdict: Verdict) -> None:
    """Rule 2."""
    epochs = _Epochs(history.flips)
    reads = sorted(_reads(history), key=attrgetter("sent"))
    over = sorted(range(len(reads)), key=lambda at: reads[at].answered)
    seen = [0] * len(reads)
    newest, witness, passed = 0, -1, 0
    for number, read in enumerate(reads):
        # Whoever was answered before this was sent was sent before it too, and so has its epoch already.
        while passed < len(over) and reads[over[passed]].answered < read.sent:
            if seen[over[passed]] > newest:
                newest, witness = seen[over[passed]], over[passed]
            passed += 1
        told = epochs.least(read.sent)
        seen[number] = epochs.earliest(read, max(newest, told))
        if seen[number]:
            continue
        if newest >= told and newest:
            why = f"after {reads[witness]}, which takes epoch {newest}"
        else:
            why = f"after the flip to epoch {told} was told as done" if told else "before its flip was asked for"
        shown = (reads[witness].name,) if newest >= told and newest else ()
        verdict.found(LINEARIZABLE, f"{read}, {why}", read.name, *shown)


def _check_sessions(history: History, runs: Mapping[str, list[Execution]], verdict: Verdict) -> None:
    """Rule 3."""
    sessions: dict[str, list[Request]] = defaultdict(list)
    for one in history.requests:
        if one.session and one.session not in history.unsure:
            sessions[one.session].append(one)
    moves = sorted(history.moves, key=attrgetter("since"))
    since = [move.since for move in moves]
    until = [*accumulate((move.until for move in moves), max)]
    for session, turns in sessions.items():
        served = sorted((one for one in turns if one.release), key=attrgetter("sent"))
        if len({one.release for one in served}) > 1:
            began, last = min(one.sent for one in turns), max(one.answered for one in served)
            possible = moves[bisect_left(until, began) : bisect_right(since, last)]
            allowed = [one for one in possible if session.startswith(one.sessions) and one.until >= began]
            _check_moves(session, served, allowed, verdict)
        ran = [run for one in turns for run in runs.get(one.id, ())]
        if len({run.release for run in ran}) > 1:
            _check_turns_apart(session, ran, verdict)


def _check_moves(session: str, turns: Sequence[Request], allowed: list[Move], verdict: Verdict) -> None:
    """Where a session lives is one register too, which only moves can write. `turns`: in the order of their sending."""
    places = [min(turns, key=attrgetter("answered")).release]  # in the order in which it lived there
    ends = sorted(turns, key=attrgetter("ended"))
    seen: dict[str, int] = {}
    newest, witness, passed = 0, "", 0
    for turn in turns:
        while ends[passed].ended < turn.sent:
            if seen[ends[passed].id] >= newest:
                newest, witness = seen[ends[passed].id], ends[passed].id
            passed += 1
        place = next((at for at in range(newest, len(places)) if places[at] == turn.release), None)
        if place is None and _moved(places, turn, allowed):
            place = len(places) - 1
        seen[turn.id] = newest if place is None else place
        if place is None:
            before = f"after {witness} had run on {places[newest]}" if witness else f"and others on {places[0]}"
            text = f"session {session}: {turn.id}, sent at {turn.sent:.6f}, ran on {turn.release}, {before}"
            verdict.found(STICKY, text, turn.id, *([witness] if witness else []))


def _moved(places: list[str], turn: Request, allowed: list[Move]) -> bool:
    """Whether a move led the session to where this turn ran. It is used up, and so are those that were over before."""
    for move in allowed:
        if move.to == turn.release and move.since < turn.answered and move.left in ("", places[-1]):
            allowed[:] = [one for one in allowed if one is not move and one.until >= move.since]
            places.append(move.to)
            return True
    return False


def _check_turns_apart(session: str, ran: list[Execution], verdict: Verdict) -> None:
    """Turns may meet on one release, never on two."""
    latest: dict[str, Execution] = {}  # by release, what ends last of what has begun
    for run in sorted(ran, key=attrgetter("began")):
        for other in latest.values():
            if other.release != run.release and other.ended > run.began:
                text = f"session {session}: {run.request} began on {run.release} while {other.request} ran on "
                verdict.found(STICKY, text + other.release, run.request, other.request)
        if run.release not in latest or run.ended > latest[run.release].ended:
            latest[run.release] = run
