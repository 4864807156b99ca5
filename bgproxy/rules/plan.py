"""A release's plan: what must be true before the pointer moves, and what is watched after it.

The options of each gate, of the comparison of both colors and of the bake; nothing here judges or acts. Durations are
seconds, rates shares from 0 to 1; a limit that is None is none. The plan that an operator writes has the same keys
(`config/plan.py`), so each field is documented there and in `config/examples/plan.toml` for those who write one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

from bgproxy.rules.action import Decommission, Hook, Migrate
from bgproxy.rules.comparing import Mirror, ReplayGate
from bgproxy.rules.jury import BakeJudge

Severity = Literal["block", "warn", "ignore"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a gate sends. `route`: by name; empty: the one that takes `host` and `path`, as the proxy would route it."""

    name: str = ""
    route: str = ""
    host: str = ""  # the Host field; empty: the upstream's own address
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict)  # ${GATE_…}: see variables.py
    timeout: float = 30.0  # of one request


@dataclass(frozen=True, slots=True)
class HttpGate(Asked):
    """One request to each upstream of the idle color, and what the answer must be."""

    kind: Literal["http"] = "http"
    method: str = "GET"
    json: object = None
    body: str = ""
    expect_status: tuple[int, ...] = (200,)  # one of them
    expect_headers: dict[str, object] = field(default_factory=dict)  # by name, see rules/assertion.py
    expect_json: dict[str, object] = field(default_factory=dict)  # by JSON pointer (RFC 6901)
    expect_text: str = ""  # stands somewhere in the body
    expect_events: int = 0  # server-sent events at least
    max_latency: float | None = None  # to the end of the answer
    max_first_byte: float | None = None  # to the first byte of its body
    repeat: int = 1  # times in a row, each of which must pass


@dataclass(frozen=True, slots=True)
class McpGate(Asked):
    """An MCP client over Streamable HTTP: initialize, list the tools, call one."""

    kind: Literal["mcp"] = "mcp"
    path: str = "/mcp"
    tools: tuple[str, ...] = ()  # that must be listed
    call: str = ""  # a tool; empty: none is called
    arguments: dict[str, object] = field(default_factory=dict)
    expect_json: dict[str, object] = field(default_factory=dict)  # of the call's result
    max_latency: float | None = None  # of the call


@dataclass(frozen=True, slots=True)
class A2aGate(Asked):
    """An A2A client over JSON-RPC: the agent card, then a message."""

    kind: Literal["a2a"] = "a2a"
    path: str = "/.well-known/agent-card.json"
    endpoint: str = ""  # the path that takes messages; empty: that of the card's address
    skills: tuple[str, ...] = ()  # ids that the card must have
    text: str = "ping"  # the message; empty: none is sent
    stream: bool = False
    expect_json: dict[str, object] = field(default_factory=dict)  # of the result: a task or a message
    max_latency: float | None = None  # of the message


@dataclass(frozen=True, slots=True)
class ChatGate(Asked):
    """A client of OpenAI's chat completions."""

    kind: Literal["chat"] = "chat"
    path: str = "/v1/chat/completions"
    model: str = "agent"
    prompt: str = "ping"
    messages: tuple[dict[str, object], ...] = ()  # in place of the prompt
    stream: bool = False
    expect_text: str = ""  # stands somewhere in what the assistant says
    max_latency: float | None = None
    max_first_token: float | None = None  # with stream: to the first piece of content


@dataclass(frozen=True, slots=True)
class WebsocketGate(Asked):
    """A client of WebSockets: the handshake, then a message and what is said to it. With nothing to send and nothing
    expected it is a ping, which the agent must answer (RFC 6455 §5.5.2).
    """

    kind: Literal["websocket"] = "websocket"
    path: str = "/ws"
    subprotocols: tuple[str, ...] = ()  # offered; the agent must choose one
    text: str = ""  # the message
    json: object = None  # in place of the text
    expect_text: str = ""  # stands somewhere in a message that comes
    expect_json: dict[str, object] = field(default_factory=dict)  # of the same message
    max_latency: float | None = None  # from the message, or the handshake's beginning, to what is expected

    @property
    def sends(self) -> bool:
        """Whether it has something to say."""
        return bool(self.text) or self.json is not None

    @property
    def expects(self) -> bool:
        """Whether what comes must be something certain."""
        return bool(self.expect_text or self.expect_json)


@dataclass(frozen=True, slots=True)
class CommandGate:
    """A program on the proxy's host: exit status 0 passes."""

    kind: Literal["command"] = "command"
    name: str = ""
    command: tuple[str, ...] = ()  # the program by its absolute path, and its arguments; no shell
    env: dict[str, str] = field(default_factory=dict)
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class WebhookGate:
    """A judge elsewhere: told of the release by POST, it answers with a verdict."""

    kind: Literal["webhook"] = "webhook"
    name: str = ""
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    secret: str = ""  # signs what is sent (HMAC-SHA256)
    timeout: float = 30.0
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class ManualGate:
    """Somebody with the role operator says yes, by `bgproxy approve`."""

    kind: Literal["manual"] = "manual"
    name: str = ""
    text: str = ""  # what to look at
    expires: float = 3600.0
    four_eyes: bool = False  # whoever began the release may not approve it
    by: tuple[str, ...] = ()  # the names of tokens that may; none: each with the role operator


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits on many answers. The ratios compare with what the active color does under the same load."""

    max_error_rate: float | None = None
    max_p50: float | None = None
    max_p95: float | None = None
    max_p99: float | None = None
    max_first_byte: float | None = None  # p95
    min_throughput: float | None = None  # answers per second
    max_p50_ratio: float | None = None
    max_p95_ratio: float | None = None
    max_p99_ratio: float | None = None
    max_first_byte_ratio: float | None = None
    min_throughput_ratio: float | None = None

    def limits(self) -> Iterator[tuple[str, float]]:
        """Those that are set, by name."""
        for one in fields(Slo):
            value = getattr(self, one.name)
            if value is not None:
                yield one.name, value

    @property
    def compares(self) -> bool:
        """Whether the active color must be measured too."""
        return any(name.endswith("_ratio") for name, _ in self.limits())


@dataclass(frozen=True, slots=True)
class LoadGate(Asked):
    """Virtual agents that ask over and over. Closed loop: each waits for its answer, then thinks; with `rate` open:
    so many requests begin per second, whatever becomes of those before.
    """

    kind: Literal["load"] = "load"
    method: str = "GET"
    json: object = None
    body: str = ""
    expect_status: tuple[int, ...] = (200,)  # any other, and no whole answer in time, is an error
    agents: int = 4  # at once; with `rate` the most that are open
    duration: float = 10.0
    rate: float = 0.0
    think: float = 0.0
    requests: int = 0  # at most; 0: what the duration lets through
    min_samples: int = 0  # 0: what the limits need
    slo: Slo = field(default_factory=Slo)


Gate = (
    HttpGate
    | McpGate
    | A2aGate
    | ChatGate
    | WebsocketGate
    | CommandGate
    | WebhookGate
    | ManualGate
    | LoadGate
    | ReplayGate
)


@dataclass(frozen=True, slots=True)
class Parity:
    """What is compared before the gates: the idle color against the active one."""

    upstreams: Severity = "warn"  # fewer than the active color has
    metadata: Severity = "warn"  # of the active release's facts, those that the new one does not declare
    removed: Severity = "block"  # tools, prompts, resources, skills, operations, models that are gone
    narrowed: Severity = "block"  # schemas that take less, or promise less, than they did
    contracts: tuple[Literal["mcp", "a2a", "openapi", "models"], ...] = ("mcp", "a2a", "openapi", "models")
    mcp: str = "/mcp"  # where each is asked for
    a2a: str = "/.well-known/agent-card.json"
    openapi: str = "/openapi.json"
    models: str = "/v1/models"
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """On the live answers of a release; a ratio compares with another one's."""

    max_error_rate: float | None = None  # 5xx, resets, streams broken off
    max_p50_ratio: float | None = None
    max_p95_ratio: float | None = None
    max_p99_ratio: float | None = None
    max_first_byte_ratio: float | None = None
    max_p95: float | None = None
    max_p99: float | None = None
    max_first_byte: float | None = None  # p95

    def limits(self) -> Iterator[tuple[str, float]]:
        """Those that are set, by name."""
        for one in fields(Limits):
            value = getattr(self, one.name)
            if value is not None:
                yield one.name, value


@dataclass(frozen=True, slots=True)
class Match:
    """New sessions whose request has one of these values in a field, or in a cookie."""

    header: str = ""
    cookie: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Requests that the leading node makes itself, straight to the new release's upstreams; see `Asked`."""

    rate: float = 1.0  # per second, of all upstreams together
    route: str = ""
    host: str = ""
    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    json: object = None
    body: str = ""
    expect_status: tuple[int, ...] = (200,)  # any other, and no whole answer in time, is an error
    timeout: float = 10.0  # of one request


@dataclass(frozen=True, slots=True)
class Canary(Limits):
    """New sessions that begin on the new release before the flip. Ratios compare with the active color's answers in the
    same time.
    """

    share: float = 0.0  # of all new sessions
    match: tuple[Match, ...] = ()  # and those that are listed
    duration: float = 300.0
    min_samples: int = 200  # of the new release's answers, synthetic too: fewer, and it is not let flip
    synthetic: Synthetic | None = None


@dataclass(frozen=True, slots=True)
class Bake(Limits):
    """What is watched after the flip. Ratios compare with the old release's answers before it."""

    duration: float = 60.0  # from the flip on
    baseline: float = 60.0  # how much of what the old release did before the flip is compared with
    min_samples: int = 200  # of the new release's answers; fewer decide only what the missing ones could not change
    confidence: float = 0.95  # that a release which keeps to all limits is not rolled back, over the whole bake
    on_undecided: Literal["settle", "hold", "roll_back"] = "settle"
    judges: tuple[BakeJudge, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. `ready_timeout`: how long the new release's agents may take until each takes connections."""

    ready_timeout: float = 60.0
    parity: Parity = field(default_factory=Parity)
    gates: tuple[Gate, ...] = ()
    mirror: Mirror | None = None
    canary: Canary | None = None
    bake: Bake | None = None
    hooks: tuple[Hook, ...] = ()
    decommission: Decommission | None = None
    migrate: Migrate | None = None

    def lines(self) -> Iterator[str]:
        """What the plan does, in its order, in words."""
        yield from self.migrate.lines() if self.migrate is not None else ()
        yield f"ready: each upstream takes connections within {self.ready_timeout:g} s"
        yield f"parity: {', '.join(self.parity.contracts) or 'no contract'} compared with the active color"
        for gate in self.gates:
            yield f"gate {gate.name}: {_about(gate)}"
        if (mirror := self.mirror) is not None:
            what = ", ".join((*mirror.methods, *mirror.rpc))
            yield f"mirror: {what}, {mirror.duration:g} s, at most {mirror.max_rate:g} per second on each node"
        if self.canary is not None:
            limits = ", ".join(f"{name} {limit:g}" for name, limit in self.canary.limits())
            listed = ", and those listed," if self.canary.match else ""
            made = self.canary.synthetic
            beside = f"; {made.rate:g} per second at {made.method} {made.path} beside them" if made is not None else ""
            about = f"{self.canary.share:.2%} of new sessions{listed} for {self.canary.duration:g} s"
            yield f"canary: {about}; {limits}{beside}"
        yield "flip"
        if self.bake is not None:
            limits = ", ".join(f"{name} {limit:g}" for name, limit in self.bake.limits())
            judges = "".join(f"; judge {judge.name}: {judge.url}" for judge in self.bake.judges)
            yield f"bake: {self.bake.duration:g} s, at least {self.bake.min_samples} answers; {limits}{judges}"
        if self.decommission is not None:
            yield f"decommission: {self.decommission.said()}"
        for hook in self.hooks:
            yield f"hook {hook.name}, {hook.when} {', '.join(hook.at)}: {hook.what}"


def _about(gate: Gate) -> str:
    """A gate in a few words."""
    if isinstance(gate, LoadGate):
        limits = ", ".join(f"{name} {limit:g}" for name, limit in gate.slo.limits())
        pace = f"{gate.rate:g} requests per second" if gate.rate else f"{gate.agents} agents"
        return f"{pace} for {gate.duration:g} s at {gate.method} {gate.path}; {limits}"
    if isinstance(gate, HttpGate):
        return f"{gate.method} {gate.path}"
    if isinstance(gate, ReplayGate):
        return f"the newest {gate.sessions} recorded sessions, compared by {', '.join(gate.compare)}"
    if isinstance(gate, CommandGate):
        return " ".join(gate.command)
    if isinstance(gate, WebhookGate):
        return gate.url
    if isinstance(gate, ManualGate):
        return f"somebody approves it within {gate.expires:g} s{f': {gate.text}' if gate.text else ''}"
    return f"{gate.kind} at {gate.path}"
