"""The configuration as it is written: one field per section, the right types, not yet turned into anyone's options.

Defaults are those of the option classes themselves, so none is told twice. Knows nothing of where values come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict

from bgproxy.admin.options import AdminOptions
from bgproxy.config.keys import Leaf, Path, Table, dotted, find, named, table_of
from bgproxy.config.wording import not_of_type
from bgproxy.errors import ConfigError
from bgproxy.proxy.options import (
    Balance,
    Forwarding,
    HoldOptions,
    Limits,
    PoolOptions,
    PreviewOptions,
    RouteSessions,
    SessionOptions,
    Timeouts,
)
from bgproxy.rollout.barrier import FlipOptions
from bgproxy.rollout.options import RecordingOptions, RolloutOptions
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.pin import OnRollback, Policy
from bgproxy.sessions.presets import DEFAULT_PRESETS
from bgproxy.store.base import StoreOptions
from bgproxy.store.pin_outage import PinOptions
from bgproxy.telemetry.access import AccessLogOptions

_PER_ROUTE, _COMMON, _PINS = RouteSessions(presets=()), SessionOptions(), PinOptions()


@dataclass(frozen=True, slots=True)
class ColorSection:
    """[colors.<name>]: what a color holds when its fleet starts for the first time."""

    release: str = "initial"  # the label of what runs at the upstreams
    upstreams: tuple[str, ...] = ()  # http://host:port or unix:/path; none: the color waits to be staged
    metadata: dict[str, object] = field(default_factory=dict)  # told by /v1/status, not read by bgproxy


@dataclass(frozen=True, slots=True)
class RouteSection:
    """[[route]]: which requests, and where they go if not to the color's own upstreams."""

    host: str = ""  # empty: any
    path: str = "/"  # whole segments: /chat takes /chat/x, not /chatter
    upstreams: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by color
    # None: as [sessions] has it.
    sessions: tuple[str, ...] | None = None  # presets; empty: this route knows no sessions
    policy: Policy | None = None
    on_rollback: OnRollback | None = None
    bind_credentials: bool | None = None
    pin_ttl: float | None = None
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class SessionsSection:
    """[sessions]: what holds for every route that does not say otherwise, and what holds for all of them together."""

    presets: tuple[str, ...] = DEFAULT_PRESETS  # by name, or places such as header:X-Session-Id
    policy: Policy = _PER_ROUTE.policy
    on_rollback: OnRollback = _PER_ROUTE.on_rollback
    bind_credentials: bool = _PER_ROUTE.bind_credentials
    pin_ttl: float = _PER_ROUTE.pin_ttl
    max_age: float = _PER_ROUTE.max_age
    inspect_bytes: int = _COMMON.inspect_bytes
    pin_write_timeout: float = _COMMON.pin_write_timeout
    cache_size: int = _PINS.cache_size
    journal_size: int = _PINS.journal_size
    refresh_interval: float = _PINS.refresh_interval
    on_store_outage: Literal["admit", "refuse"] = _PINS.on_store_outage


@dataclass(frozen=True, slots=True)
class PresetSection:
    """[session_preset.<name>]: a protocol of the operator's own, as `preset_from` reads it."""

    request: tuple[str, ...] = ()  # the places of the id in a request
    answer: tuple[str, ...] = ()  # the places where an answer gives one out
    sticky_host: bool = True  # the agents keep their sessions in memory
    ended_by: int = 0  # the status that says of a request with an id: this session is over; 0: none
    ending: str = "problem"  # how we say that it is over, by an operator's deadline: problem, not_found, jsonrpc


@dataclass(frozen=True, slots=True)
class TokenSection:
    """[[token]]: one who may speak to the admin API, or see previews; exactly one of the three says the secret."""

    role: Literal["viewer", "operator", "preview"] = "viewer"
    secret: str = field(default="", repr=False)
    secret_file: str = ""
    secret_env: str = ""


@dataclass(frozen=True, slots=True)
class LogSection:
    """[log]: what bgproxy tells of itself, on stderr."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True)
class UpgradeSection:
    """[upgrade]: the exchange of the proxy's own processes while they serve."""

    start_timeout: float = 60.0
    finish_timeout: float = 0.0


class Document(BaseSettings):
    """All sections. Built by `build` only: no source is read here."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    fleet: str = "default"
    listen: tuple[str, ...] = ("127.0.0.1:8080",)
    active: str = ""
    workers: int = 1
    grace_timeout: float = 30.0
    runtime_dir: str = ""
    release: dict[str, object] = {}  # the plan of who gives none, as `config/plan.py` reads it
    upgrade: UpgradeSection = UpgradeSection()
    admin: AdminOptions = AdminOptions()
    store: StoreOptions = StoreOptions()
    colors: dict[str, ColorSection] = {}
    route: dict[str, RouteSection] = {}
    token: dict[str, TokenSection] = {}
    sessions: SessionsSection = SessionsSection()
    session_preset: dict[str, PresetSection] = {}
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    pool: PoolOptions = PoolOptions()
    balance: Balance = Balance()
    forwarding: Forwarding = Forwarding()
    health: HealthOptions = HealthOptions()
    flip: FlipOptions = FlipOptions()
    hold: HoldOptions = HoldOptions()
    preview: PreviewOptions = PreviewOptions()
    rollout: RolloutOptions = RolloutOptions()
    recording: RecordingOptions = RecordingOptions()
    access_log: AccessLogOptions = AccessLogOptions()
    log: LogSection = LogSection()


_NAMED: Mapping[str, Table] = {
    "colors": named(ColorSection),
    "route": named(RouteSection),
    "session_preset": named(PresetSection),
    "token": named(TokenSection, repeats=True),  # two secrets of one name: how a secret is replaced without a gap
}
# Written at the top, known by the worker alone, written as [[token]], told by the address, and read from elsewhere.
_HIDDEN = frozenset({"fleet", "handover", "tokens", "needs_token", "key"})
_SHORT: Mapping[str, str] = {"admin": "listen", "store": "url"}


def _root() -> Table:
    keys: dict[str, Leaf | Table] = {}
    for name, info in Document.model_fields.items():
        kind: Any = info.annotation
        if name in _NAMED:
            keys[name] = _NAMED[name]
        elif hasattr(kind, "__dataclass_fields__"):
            keys[name] = table_of(kind, hidden=_HIDDEN, short=_SHORT.get(name, ""))
        else:
            keys[name] = Leaf(kind, info.default)
    return Table(keys=keys)


ROOT: Table = _root()
"""Every key that a configuration may have."""


def build(trees: Iterable[Mapping[str, Any]]) -> tuple[Document | None, list[tuple[Path, str]]]:
    """Lay the trees over one another, the strongest first, and validate: the document, or what is wrong by key."""
    sources = tuple(InitSettingsSource(Document, dict(tree)) for tree in trees)
    try:
        read: dict[str, Any] = {"_build_sources": (sources, {})}  # in place of the sources that pydantic would read
        return Document(**read), []
    except ValidationError as error:
        return None, [_translate(item["loc"], item["input"]) for item in error.errors(include_url=False)]
    except ConfigError as error:  # an options class that checks itself; its text names the key
        return None, [((), str(error))]


def _translate(loc: tuple[int | str, ...], value: Any) -> tuple[Path, str]:
    path = tuple(part for part in loc if isinstance(part, str))
    leaf = find(ROOT, path)
    if not isinstance(leaf, Leaf):  # sources have let known keys through only, with tables where tables belong
        return path, f"{dotted(path)} cannot be used"
    return path, not_of_type(path, leaf, value)
