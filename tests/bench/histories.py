"""Histories in a few words."""

from __future__ import annotations

import itertools

from bench.history import Execution, Flip, Request

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
