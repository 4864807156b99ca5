"""What a client's connection waits for: one deadline at a time, and this says what it is about."""

from __future__ import annotations

from enum import Enum

NEVER = float("inf")


class Wait(Enum):
    """What a connection's deadline is about."""

    REQUEST = "a next request"
    HEAD = "the rest of a head"
    BODY = "more of a request's body"
    STORE = "the place of a session"
    CONNECTION = "a connection to an agent"
    AGENT = "an agent to take more of a body"
    ANSWER = "an agent's answer"
    STREAM = "more of an answer"
    LINGER = "the end of a refused request"
