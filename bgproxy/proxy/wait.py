"""What a client's connection waits for: one deadline at a time, and this says what it is about."""

from __future__ import annotations

from typing import Final

NEVER: Final = float("inf")


class Wait:
    """What a connection's deadline is about. Plain numbers, which a compiler knows: it changes with every request."""

    REQUEST: Final = 0
    HEAD: Final = 1
    BODY: Final = 2
    STORE: Final = 3
    CONNECTION: Final = 4
    AGENT: Final = 5
    ANSWER: Final = 6
    STREAM: Final = 7
    LINGER: Final = 8
    HOLD: Final = 9

    IN_WORDS: Final = (
        "a next request",
        "the rest of a head",
        "more of a request's body",
        "the place of a session",
        "a connection to an agent",
        "an agent to take more of a body",
        "an agent's answer",
        "more of an answer",
        "the end of a refused request",
        "the end of a flip or a pause",
    )
