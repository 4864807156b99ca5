"""The judge of what clients saw: a history of requests and flips goes in, what cannot have been right comes out.

Colors alone are enough for guarantee 2 (see `bench.history`): where a request was told no epoch, it gets the earliest
one of its color that does not contradict those before it. Such an assignment exists exactly if the greedy one does, so
nothing is flagged that could have been right, and nothing passes that could not. That takes n log n for n requests.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice, pairwise
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple

from bench.history import (
    ATOMIC,
    HONEST,
    LINEARIZABLE,
    ONCE,
    RECORDED,
    REFUSED,
    STICKY,
    WHOLE,
    Execution,
    Flip,
    History,
    Move,
    Request,
    Verdict,
)

LATE: Final = 5.0  # seconds that a word to the store may be under way when whoever sent it has given up
REST: Final = 0.25  # seconds after a turn by which the store knows that it is over


def check(history: History) -> Verdict:
    """Hold the guarantees against a history. Raises `ValueError` for what is none: two requests of one name, or
    times that run backwards."""
    verdict = Verdict(requests=len(history.requests))
    runs: dict[str, list[Execution]] = defaultdict(list)
    for run in history.executions:
        runs[run.request].append(run)
    _check_answers(history, runs, verdict)
    _check_atomic(history, runs, verdict)
    _check_pointer(history, verdict)
    _check_sessions(history, runs, verdict)
    _check_record(history, verdict)
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
            if one.release and one.id not in history.strayed:
                yield _Read(one.id, one.sent, one.answered, one.color, one.epoch)
            continue
        opened[one.session] = min(one.sent, opened.get(one.session, inf))
        known = first.get(one.session)
        if one.release and (known is None or one.answered < known.answered):
            first[one.session] = one
    for session, one in first.items():
        if not session.startswith(by_hand) and one.id not in history.strayed:
            yield _Read(f"{one.id} (session {session})", opened[session], one.answered, one.color, 0)


class _Epochs:
    """All epochs that were, and when each could be seen."""

    def __init__(self, flips: Sequence[Flip]) -> None:
        flips = sorted(flips)
        # An epoch follows the one before it: nobody can have seen it before either was asked for.
        self._opened = dict(zip((f.epoch for f in flips), accumulate((flip.asked for flip in flips), max), strict=True))
        ends = [*accumulate((flip.told for flip in reversed(flips)), min)][::-1]
        self._closed = dict(zip((flip.epoch for flip in flips), [*ends[1:], inf], strict=False))  # of none too
        self._by_color: dict[str, list[int]] = defaultdict(list)
        for flip in flips:
            self._by_color[flip.color].append(flip.epoch)
        self._colors = {flip.epoch: flip.color for flip in flips}
        self._fled: dict[str, list[int]] = defaultdict(list)  # the rollbacks that left a color
        for before, flip in pairwise(flips):
            if flip.back:
                self._fled[before.color].append(flip.epoch)
        done = sorted((flip.told, flip.epoch) for flip in flips)
        self._told = [told for told, _ in done]
        self._since = [0, *accumulate((epoch for _, epoch in done), max)]

    def least(self, sent: float) -> int:
        """The epoch that was told as done before that."""
        return self._since[bisect_left(self._told, sent)]

    def earliest(self, read: _Read, least: int) -> int:
        """The first epoch from `least` on that the reader can have seen; 0: none."""
        epoch = read.epoch or next(self.of(read.color, least), 0)
        return epoch if epoch >= least and self._opened.get(epoch, inf) < read.answered else 0

    def of(self, color: str, least: int) -> Iterator[int]:
        """Those of that color, from `least` on."""
        known = self._by_color.get(color, [])
        return islice(known, bisect_left(known, least), None)

    @property
    def last(self) -> str:
        """The color of the last one."""
        return self._colors[max(self._colors)]

    def fled(self, since: int, until: int) -> bool:
        """Whether a rollback, after the one and not after the other, has left the color of the one."""
        left = self._fled.get(self._colors.get(since, ""), [])
        at = bisect_right(left, since)
        return at < len(left) and left[at] <= until

    def stands(self, epoch: int, since: float, until: float) -> bool:
        """Whether the pointer can have stood there at some time between these two."""
        return self._opened[epoch] < until and self._closed[epoch] > since


def _check_record(history: History, verdict: Verdict) -> None:
    """Rule 8."""
    for flip in history.flips:
        if flip.is_kept and history.record.get(flip.epoch) != flip.color:
            stands = history.record.get(flip.epoch, "nothing")
            text = f"the flip to {flip.color} at epoch {flip.epoch} was told as kept by replicas, on record is {stands}"
            verdict.found(RECORDED, text)


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
    epochs = _Epochs(history.flips)
    for session, turns in sessions.items():
        served = sorted((one for one in turns if one.release), key=attrgetter("sent"))
        if history.follow or history.flee:
            _check_goes(session, served, turns, epochs, verdict, flees=history.flee)
            _check_gathered(session, served, turns, epochs, history.gathered, verdict)
        elif len({one.release for one in served}) > 1:
            began, last = min(one.sent for one in turns), max(one.answered for one in served)
            possible = moves[bisect_left(until, began) : bisect_right(since, last)]
            allowed = [one for one in possible if session.startswith(one.sessions) and one.until >= began]
            _check_moves(session, served, allowed, verdict)
        ran = [run for one in turns for run in _ran(one, runs.get(one.id, ()), history.dead)]
        if len({run.release for run in ran}) > 1:
            _check_turns_apart(session, ran, verdict)


def _ran(one: Request, runs: Iterable[Execution], dead: Mapping[int, float]) -> Iterable[Execution]:
    """Nothing runs for a client whose worker is dead; its agent may hear of that a little later."""
    return (run._replace(ended=min(run.ended, max(run.began, dead.get(one.line, inf)))) for run in runs)


def _check_goes(
    session: str, served: Sequence[Request], turns: Sequence[Request], epochs: _Epochs, verdict: Verdict, *, flees: bool
) -> None:
    """Where a session lives is a register of epochs. `served`: in the order of their sending; `turns`: those without an
    answer too. Who `flees` goes on only because of a rollback, and so it matters where it began: at the place of some
    turn that was sent before its first answer came, of which the kindest counts."""
    least = epochs.least(min(one.sent for one in turns))
    begins = {least}
    if flees and served:
        first = min(one.answered for one in served)
        places = (_led_to(one, least, turns, epochs) for one in served if one.sent <= first)
        begins = {place for place in places if place} or begins
    trials = [_gone(session, served, turns, epochs, begin, flees) for begin in sorted(begins)]
    found, moved = min(trials, key=lambda trial: len(trial[0]))
    verdict.moved += moved
    for text, names in found:
        verdict.found(STICKY, text, *names)


def _gone(
    session: str, served: Sequence[Request], turns: Sequence[Request], epochs: _Epochs, begin: int, flees: bool
) -> tuple[list[tuple[str, list[str]]], int]:
    """What is wrong with its turns, and how often it moved. Each turn gets the earliest epoch that does not contradict
    those before it: if any will do, that one does."""
    newest, witness, passed = begin, None, 0
    over = sorted(served, key=attrgetter("answered"))
    seen: dict[str, int] = {}
    furthest, place, moved = 0, "", 0
    found = []
    for turn in served:
        while over[passed].answered < turn.sent:
            if seen[over[passed].id] >= newest:
                newest, witness = seen[over[passed].id], over[passed]
            passed += 1
        epoch = _led_to(turn, newest, turns, epochs, flees=flees)
        seen[turn.id] = epoch or newest
        if not epoch:
            before = f"after {witness.id} had run on {witness.release}" if witness is not None else "where it began"
            text = f"session {session}: {turn.id}, sent at {turn.sent:.6f}, ran on {turn.release}, {before}: no "
            text += f"{'rollback' if flees else 'flip'} since epoch {newest} can have led it there"
            found.append((text, [turn.id] + ([witness.id] if witness is not None else [])))
        elif epoch > furthest:
            moved += place not in ("", turn.color)
            furthest, place = epoch, turn.color
    return found, moved


def _led_to(turn: Request, since: int, turns: Sequence[Request], epochs: _Epochs, *, flees: bool = False) -> int:
    """The earliest epoch, from that on, by which a turn can have run where it did; 0: none."""
    for epoch in epochs.of(turn.color, since):
        may = not flees or epoch == since or epochs.fled(since, epoch)
        if may and _led(epoch, turn, turns, epochs):
            return epoch
    return 0


def _check_gathered(
    session: str,
    served: Iterable[Request],
    turns: Sequence[Request],
    epochs: _Epochs,
    gathered: float,
    verdict: Verdict,
) -> None:
    """From then on nobody stays behind who need not: no turn of its session keeps it there."""
    for turn in served:
        if turn.sent < gathered or turn.color == epochs.last:
            continue
        if all(one is turn or not one.sent <= turn.sent <= one.ended + REST for one in turns):
            text = f"session {session}: {turn.id}, sent at {turn.sent:.6f}, ran on {turn.release}, though all may have "
            verdict.found(STICKY, text + f"gone to {epochs.last} by {gathered:.6f}", turn.id)


def _led(epoch: int, turn: Request, turns: Iterable[Request], epochs: _Epochs) -> bool:
    """Whether a turn can have brought its session to an epoch, and that for this turn to see it. One that ran elsewhere
    may have gone without an answer, and what it asked of the store may have been done later."""
    for one in turns:
        until = one.answered if one.color == turn.color else one.ended + LATE
        if one.sent < turn.answered and epochs.stands(epoch, one.sent, min(until, turn.answered)):
            return True
    return False


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
