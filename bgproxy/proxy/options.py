"""What the data path may be told: timeouts in seconds, sizes in bytes, each with the reason for its default.

The configuration builds these; nothing below it sees more than the part that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bgproxy.rules.pin import OnRollback, Policy
from bgproxy.sessions.preset import Preset


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 switches a timeout off."""

    client_head_timeout: float = 10.0  # from a request's first byte to the end of its head
    client_body_timeout: float = 30.0  # between two reads of a request's body
    keepalive_timeout: float = 75.0  # an idle client; longer than most clients' own, so they close first
    connect_timeout: float = 2.0  # to an agent on the same host or network: what takes longer is down
    response_head_timeout: float = 600.0  # agents think before their first byte
    stream_idle_timeout: float = 0.0  # between two bytes of an answer: off, streams may be silent for hours
    write_stall_timeout: float = 60.0  # a reader that takes nothing at all while we hold bytes for it
    linger_timeout: float = 2.0  # dropping the rest of a refused body, so no reset eats the answer
    end_grace: float = 5.0  # at a drain's deadline, to the end of an event, a frame or an answer; then it is cut


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take; 0 switches `max_body_bytes` off."""

    max_head_bytes: int = 32_768  # agents' tokens and tracing baggage are large, but not larger
    max_fields: int = 100
    max_target_bytes: int = 8_192  # RFC 9110 §4.1 asks for at least 8,000
    max_body_bytes: int = 0  # off: the agent knows what it takes
    max_trailer_bytes: int = 8_192  # the trailers of one message
    max_connections: int = 10_000  # client connections of one worker
    max_pipelined: int = 32  # requests waiting behind the one that is being answered; reading pauses beyond it
    max_interim: int = 16  # 1xx answers to one request: an agent that sends more is broken
    high_water_bytes: int = 65_536  # bytes waiting for a slow reader before its writer is paused
    replay_bytes: int = 65_536  # of an idempotent request's body, kept so that it can be sent once more


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The connections of one worker to one agent address."""

    max_connections: int = 1_024  # open at once, busy and idle
    max_opening: int = 64  # connections being opened at once, so that a flip is no flood of connects
    max_idle: int = 64  # kept open for the next request
    idle_timeout: float = 4.0  # below the 5 s after which uvicorn and Node close theirs, so that we close first
    wait_timeout: float = 5.0  # for a free connection when all are busy; then 503
    max_waiting: int = 1_024  # requests waiting for a connection; the next one gets 503 at once
    connect_attempts: int = 3  # upstreams tried for one request before anything was sent
    dns_interval: float = 10.0  # how long a resolved name is believed
    warm_connections: int = 2  # kept open to each upstream of a color that is not active, so that a flip finds them


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What is told to the agent about the client."""

    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-* are kept; "unix": sockets
    forwarded: bool = False  # also write RFC 7239 Forwarded; X-Forwarded-* are always written
    via: str = "bgproxy"  # the pseudonym in Via (RFC 9110 §7.6.3)
    underscores: Literal["drop", "refuse", "pass"] = "drop"  # field names with `_`: CGI-like agents read them as `-`
    trace_method: bool = False  # TRACE echoes credentials
    trailers: Literal["forward", "drop"] = "forward"
    debug_header: bool = False  # X-Bgproxy-Color and X-Bgproxy-Epoch on answers


@dataclass(frozen=True, slots=True)
class Balance:
    """How one upstream of a color is chosen."""

    policy: Literal["p2c", "round_robin"] = "p2c"  # the less loaded of two drawn at random


@dataclass(frozen=True, slots=True)
class RouteSessions:
    """How one route knows its sessions and keeps them. Times in seconds."""

    presets: tuple[Preset, ...]
    policy: Policy = Policy.PINNED
    on_rollback: OnRollback = OnRollback.MOVE
    bind_credentials: bool = True  # a session belongs to the credentials that its requests bring, where they bring any
    pin_ttl: float = 3_600.0  # unused for so long, a session is over
    max_age: float = 0.0  # off: as long as it is used


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What is done to know a session, on all routes; a route that is not among `routes` knows none."""

    routes: Mapping[str, RouteSessions] = field(default_factory=dict)
    inspect_bytes: int = 65_536  # of a request's body read for a key at most, and of an answer's
    pin_write_timeout: float = 0.05  # seconds that a newly minted id waits for the store before the client gets it


@dataclass(frozen=True, slots=True)
class HoldOptions:
    """New admissions that one worker holds while a flip is made, or during a pause."""

    max_requests: int = 1_024  # the next one gets 503 at once
    max_bytes: int = 16_777_216  # their heads and what of their bodies has come, or may come
    max_age: float = 10.0  # seconds that one waits for a flip; during a pause as long as that may last


@dataclass(frozen=True, slots=True)
class PreviewOptions:
    """Who reaches a color that is not active, on purpose."""

    listen: str = ""  # an address of its own, whose new sessions begin there; empty: none
    color: str = ""  # which; empty: the one that a release is being brought out on, else the one that holds one
    tokens: tuple[bytes, ...] = ()  # SHA-256 digests of those that X-Bgproxy-Preview-Token may bring
    needs_token: bool = True  # whether the listener answers those only that bring one: where others reach it


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """All of the data path's options together."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    pool: PoolOptions = field(default_factory=PoolOptions)
    forwarding: Forwarding = field(default_factory=Forwarding)
    balance: Balance = field(default_factory=Balance)
    sessions: SessionOptions = field(default_factory=SessionOptions)
    hold: HoldOptions = field(default_factory=HoldOptions)
    preview: PreviewOptions = field(default_factory=PreviewOptions)
