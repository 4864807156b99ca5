"""What of a plan compares the idle color with live traffic, as it is now or as it was recorded: the options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Mirror:
    """Live requests that are asked of the idle color too, before the flip; its answers are compared and thrown away.

    What is safe to repeat: `methods`, or JSON-RPC methods in POST (`rpc`), below one of `paths`. All limits of the load
    count per node.
    """

    methods: tuple[str, ...] = ("GET", "HEAD")
    rpc: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("/",)
    sessions: bool = False  # requests of a session too, without its id where that stands in a field
    credentials: tuple[str, ...] = ("authorization", "x-api-key", "api-key")  # fields that go along
    headers: dict[str, str] = field(default_factory=dict)  # sent along, in place of the client's
    share: float = 1.0  # of those that could be mirrored
    max_rate: float = 10.0  # per second
    max_in_flight: int = 8
    timeout: float = 10.0  # of one request
    duration: float = 60.0
    min_samples: int = 50
    compare: tuple[Literal["status", "shape"], ...] = ("status", "shape")
    ignore: tuple[str, ...] = ()  # JSON pointers; * stands for any member or item
    max_latency_ratio: float | None = None  # slower than the live answer by this factor is slow …
    latency_tolerance: float = 0.05  # … and by these seconds beyond
    max_differing: float = 0.0  # shares
    max_failed: float = 0.0
    max_slow: float = 0.05


@dataclass(frozen=True, slots=True)
class ReplayGate:
    """Recorded sessions, had once more with the idle color. What its agents do beyond answering, they do."""

    kind: Literal["replay"] = "replay"
    name: str = ""
    sessions: int = 20  # the newest; at most
    min_sessions: int = 1  # with fewer it is undecided
    max_turns: int = 50  # of each session
    at_once: int = 2  # sessions
    headers: dict[str, str] = field(default_factory=dict)  # sent along, as recorded credentials are redacted
    timeout: float = 30.0  # of one request
    duration: float = 300.0  # of all of it
    compare: tuple[Literal["status", "shape", "tools"], ...] = ("status", "shape", "tools")
    ignore: tuple[str, ...] = ()  # JSON pointers; * stands for any member or item
    max_latency_ratio: float | None = None  # slower than the recorded answer by this factor is slow …
    latency_tolerance: float = 0.05  # … and by these seconds beyond
    max_differing: float = 0.0  # share of sessions
    max_slow: float = 0.05  # share of turns
