"""What clients, agents and operators saw, and what a judge finds in it (`bench.judge`).

The guarantees of DESIGN.md that are held against a history, by their numbers:

1. *Atomic*: one request, one epoch. The answer, all that its body says and each time that an agent ran it name one
   release, and an unpinned request that was told an epoch got the color to which that epoch's flip led.
2. *Linearizable*: the pointer is one register that only goes forward. Who is sent after somebody else was answered by
   an epoch, or after that epoch's flip was told as done, is not answered by an earlier one; and nobody is answered by
   an epoch before its flip was asked for. A session counts as one reader, from its first request to its first answer.
3. *Sticky*: a session has one release, unless a `Move` lets it go to another, each once; and no two releases ever run
   turns of it at one time. Where sessions `follow` the pointer, each is a register of epochs that only goes forward:
   each turn runs on the color of one, none of an earlier one than a turn that was answered before it was sent, and a
   session goes to an epoch only by a turn that was under way while the pointer stood there. Where sessions `flee` it
   is such a register too, and goes on only where a rollback since has left the color that it stands at. Once they have
   `gathered`, a turn of a session at rest runs where the pointer is.
4. *Nothing is cut*: an answer that has begun comes to its end.
5. *Answered once*: each request gets one answer, an agent's or an honest error. What may not be repeated has run once
   at most, an agent's answer has been run, and what was refused with a 503 has not.
8. *On record*: a flip of which an operator was told that enough replicas have it is in the audit, whatever fails later.

Who was on a connection that a fault took away (`dead`) is excused from an answer, and from nothing else. All times are
readings of one monotonic clock. Must not know how the history came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

ATOMIC, LINEARIZABLE, STICKY, WHOLE, ONCE, RECORDED = 1, 2, 3, 4, 5, 8
RULES: Final = {
    ATOMIC: "one request, one epoch",
    LINEARIZABLE: "no old color after the new one",
    STICKY: "no session on two releases",
    WHOLE: "nothing is cut",
    ONCE: "every request answered once",
    RECORDED: "what the replicas have is on record",
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
    """One epoch. `asked` before whoever flipped said so, `told` when it knew it done; the unbounded where not known.

    `is_kept`: whoever flipped was told that as many replicas as it wanted have it.
    """

    epoch: int
    color: str
    asked: float = -inf
    told: float = inf
    is_kept: bool = False
    back: bool = False  # by a rollback, which left the color of the epoch before


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

    `unsure`: sessions that were begun while the store was away, of which rule 3 says nothing. `strayed`: requests of
    which rule 2 says nothing, nor of a session that began with one, see `bench/simulate/excuses.py`. `follow`:
    sessions go with the pointer, and no `moves` are needed; `flee`: with each rollback off the color that it left;
    `gathered`: from when on every session that they may bring to the last epoch has had the time for it.
    `record`: the colors of all epochs in the audit at the end.
    """

    requests: Sequence[Request]
    flips: Sequence[Flip] = ()
    executions: Sequence[Execution] = ()
    moves: Sequence[Move] = ()
    dead: Mapping[int, float] = field(default_factory=dict)
    unsure: Collection[str] = ()
    strayed: Collection[str] = ()
    follow: bool = False
    flee: bool = False
    gathered: float = inf
    record: Mapping[int, str] = field(default_factory=dict)


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
    moved: int = 0  # times that a session was seen to have gone with the pointer

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
