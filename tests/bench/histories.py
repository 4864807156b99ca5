"""Histories in a few words."""

from __future__ import annotations

import itertools
from dataclasses import replace

from bench.history import Execution, Flip, History, Request

RELEASES = {"blue": "v1", "green": "v2"}
FLIPS = (Flip(1, "blue"), Flip(2, "green", 10.0, 11.0), Flip(3, "blue", 20.0, 21.0))
_names = itertools.count()


def ask(sent: float, answered: float, color: str = "blue", epoch: int = 0, **more: object) -> Request:
    """A request that an agent has answered."""
    release = RELEASES.get(color, "")
    name = str(more.pop("id", f"r{next(_names)}"))
    return Request(name, sent, answered, answered, 200, color, release, epoch, **more)  # type: ignore[arg-type]


def ran(one: Request, **more: object) -> Execution:
    """As the agent that answered saw it."""
    run = Execution(one.id, one.release, one.sent + 0.001, one.answered - 0.001)
    return run._replace(**more)  # type: ignore[arg-type]


def with_a_turn_elsewhere(history: History) -> History:
    """And a session that ran on the active color after all flips, and then on the other."""
    last = max(history.flips)
    stale = "green" if last.color == "blue" else "blue"
    at = last.told + 100
    turns = [ask(at, at + 1, last.color, session="odd"), ask(at + 2, at + 3, stale, session="odd")]
    runs = [*history.executions, *map(ran, turns)]
    return replace(history, requests=[*turns, *history.requests], executions=runs)
