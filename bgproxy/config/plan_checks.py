"""What a plan of the right types may still not say: each rule is a generator of (key, what is wrong).

A limit that can never be judged is refused here, before anything runs: it would stop every release, or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from bgproxy.config.keys import Path, table_of
from bgproxy.config.mirror_checks import mirror_faults, replay_faults
from bgproxy.config.wording import number_fault, shown
from bgproxy.rules import assertion
from bgproxy.rules.action import Action, Hook, Migrate
from bgproxy.rules.jury import BakeJudge, PrometheusJudge
from bgproxy.rules.plan import Bake, Canary, Gate, LoadGate, Plan, Synthetic, WebsocketGate
from bgproxy.rules.slo import samples_needed, unjudgeable
from bgproxy.rules.variables import VARIABLE
from bgproxy.rules.watch import LONGEST_BASELINE

Found = Iterator[tuple[Path, str]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_PATH = re.compile(r"/[!-~]*")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # RFC 9110 §5.5
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

MOST_GATES: Final = 32
MOST_HOOKS: Final = 16
MOST_JUDGES: Final = 8
_STEPS: Final = "migrate, ready, parity, gates, mirror, canary, flip, bake, end"
LONGEST_LOAD: Final = 600.0  # seconds
MOST_SYNTHETIC: Final = 50.0  # requests per second: they are made by a node that serves

_FRAMING: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"})
_SECRETS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})

_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "timeout": (0.01, 3600),
    "ready_timeout": (0.01, 86_400),
    "duration": (0.1, 86_400),
    "expires": (1, 7 * 86_400),
    "rollback_window": (0, 30 * 86_400),
    "attempts": (1, 10),
    "repeat": (1, 100),
    "expect_events": (0, 1_000),
    "max_error_rate": (0, 1),
    "share": (0, 1),
    "sessions": (1, 1_000),
    "min_sessions": (1, 1_000),
    "max_turns": (1, 1_000),
    "at_once": (1, 16),
    "max_rate": (0.01, 500),
    "max_in_flight": (1, 256),
    "max_differing": (0, 1),
    "max_failed": (0, 1),
    "max_slow": (0, 1),
    "latency_tolerance": (0, 60),
    "agents": (1, 64),
    "rate": (0, 2_000),
    "think": (0, 600),
    "requests": (0, 200_000),
    "min_samples": (0, 10_000_000),
    "baseline": (1, LONGEST_BASELINE),
    "confidence": (0.5, 0.9999),
    "interval": (1, 3600),
    "in_a_row": (1, 100),
}
"""The least and the most of each number; any other is at least 0. A load is bounded, so that it stays a test."""


def faults(plan: Plan) -> Found:
    """Everything that is wrong with the plan, by key."""
    yield from _number((), "ready_timeout", plan.ready_timeout, Plan)
    yield from _common(plan.parity, ("parity",))
    yield from _numbered(plan.gates, "gate", MOST_GATES, _gate)
    if plan.canary is not None:
        yield from _common(plan.canary, ("canary",))
        yield from _canary(plan.canary)
    if plan.bake is not None:
        yield from _common(plan.bake, ("bake",))
        yield from _bake(plan.bake)
    if plan.mirror is not None:
        yield from _common(plan.mirror, ("mirror",))
        yield from mirror_faults(plan.mirror)
    yield from _numbered(plan.hooks, "hook", MOST_HOOKS, lambda hook, path: _hook(hook, path, plan))
    if plan.decommission is not None:
        yield from _common(plan.decommission, ("decommission",))
        yield from _asked(plan.decommission, ("decommission",), needed=False)
    if plan.migrate is not None:
        yield from _migrate(plan.migrate)


def _common(section: Any, path: Path) -> Found:
    """What holds for a key wherever it stands."""
    for name in section.__dataclass_fields__:
        value = getattr(section, name)
        here = (*path, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from _number(path, name, value, type(section))
        elif name in ("headers", "env"):
            yield from _texts(here, value, of_headers=name == "headers")
        elif name in ("path", "endpoint", "mcp", "a2a", "openapi", "models") and value and not _PATH.fullmatch(value):
            yield here, f'"{value}" is no path; write one that begins with "/" and has no spaces'
        elif name == "expect_json":
            yield from _assertions(here, value, assertion.pointer_fault)
        elif name == "expect_headers":
            yield from _assertions(here, value, lambda key: "" if _TOKEN.fullmatch(key) else "this is no field's name")


def _numbered(
    parts: Sequence[Gate | Hook | BakeJudge], section: str, most: int, check: Callable[[Any, Path], Found]
) -> Found:
    """What holds for parts of which there may be several, and what `check` finds in each."""
    if len(parts) > most:
        kind = section.rpartition(".")[2]
        yield (section,), f"there are {len(parts)} {kind}s, at most {most} are taken"
    names: set[str] = set()
    for number, part in enumerate(parts, start=1):
        path = (f"{section}[{number}]",)
        yield from _common(part, path)
        yield from _named(part.name, path, names)
        yield from check(part, path)


def _named(name: str, path: Path, names: set[str]) -> Found:
    if not _NAME.fullmatch(name):
        yield (*path, "name"), f'"{name}" cannot be used; write 1 to 64 letters, digits, ".", "_" or "-"'
    if name in names:
        yield (*path, "name"), f'there are two of the name "{name}"; give each its own'
    names.add(name)


def _number(path: Path, name: str, value: float, cls: type) -> Found:
    least, most = _BOUNDS.get(name, (0.0, None))
    leaf = table_of(cls).keys[name]
    if fault := number_fault((*path, name), leaf, value, least):  # type: ignore[arg-type]  # a number is a leaf
        yield (*path, name), fault
    elif most is not None and value > most:
        yield (*path, name), f"{value} is too large; the most is {most:g}"


def _assertions(path: Path, expected: Mapping[str, object], key_fault: Callable[[str], str]) -> Found:
    for key, test in expected.items():
        if fault := key_fault(key) or assertion.fault(test):
            yield (*path, f'"{key}"'), fault


def _texts(path: Path, texts: Mapping[str, str], *, of_headers: bool) -> Found:
    for name, text in texts.items():
        here = (*path, name)
        if not _TOKEN.fullmatch(name):
            yield here, "this name cannot be used; write letters, digits and -"
        elif of_headers and name.lower() in _FRAMING:
            yield (
                here,
                "this field is the client's own; " + ('write host = "…"' if name.lower() == "host" else "remove it"),
            )
        elif not _VALUE.fullmatch(text):
            yield here, "the value holds a control character; remove it"
        else:
            yield from _secret(here, text, needs=of_headers and name.lower() in _SECRETS)


def _secret(path: Path, text: str, *, needs: bool) -> Found:
    """Texts with variables in them; `needs`: at least one, as a plan is kept in the store and shown."""
    if "${" in VARIABLE.sub("", text):
        yield path, "only variables such as ${GATE_TOKEN} can stand here; name it GATE_… in the proxy's environment"
    elif needs and text and not VARIABLE.search(text):
        yield (
            path,
            "a plan is kept and shown, so no secret may stand in it; write ${GATE_TOKEN} and set that for the proxy",
        )


def _gate(gate: Gate, path: Path) -> Found:
    yield from _host(gate, path)
    if gate.kind in ("http", "load"):
        yield from _request(gate, path)
    if gate.kind == "http" and gate.repeat * gate.timeout > 3600:
        yield (*path, "repeat"), f"{gate.repeat} times {gate.timeout:g} s are more than an hour; lower one of them"
    if gate.kind == "mcp" and (gate.arguments or gate.expect_json) and not gate.call:
        yield (*path, "call"), 'there is no tool to call; write call = "NAME", or leave arguments and expect_json out'
    if gate.kind == "a2a" and not gate.text and (gate.expect_json or gate.stream or gate.max_latency is not None):
        yield (*path, "text"), 'no message is sent; write text = "ping", or leave what is expected of its answer out'
    if gate.kind == "chat" and gate.max_first_token is not None and not gate.stream:
        yield (*path, "max_first_token"), "without a stream there is no first token; write stream = true"
    if gate.kind == "websocket":
        yield from _socket(gate, path)
    if gate.kind == "command":
        yield from _command(path, gate.command)
    if gate.kind == "webhook":
        yield from _webhook(path, gate.url, gate.secret)
    if gate.kind == "replay":
        yield from replay_faults(gate, path)
    if gate.kind == "load":
        yield from _load(gate, path)


def _host(asked: Any, path: Path) -> Found:
    if (host := getattr(asked, "host", "")) and not _HOST.fullmatch(host):
        yield (*path, "host"), f'"{host}" is no host name; write it without scheme or path'


def _request(gate: Any, path: Path) -> Found:
    if not _TOKEN.fullmatch(gate.method) or gate.method.upper() == "CONNECT":
        yield (*path, "method"), f'"{gate.method}" cannot be used; write for example "POST"'
    if gate.json is not None and gate.body:
        yield (*path, "body"), "json is given too; leave one of them out"
    for status in gate.expect_status:
        if not 200 <= status <= 599:
            yield (*path, "expect_status"), f"{status} is no final status; write 200 to 599"
    if not gate.expect_status:
        yield (*path, "expect_status"), "there is none; write for example expect_status = 200"


def _socket(gate: WebsocketGate, path: Path) -> Found:
    if gate.json is not None and gate.text:
        yield (*path, "text"), "json is given too; leave one of them out"
    for name in gate.subprotocols:
        if not _TOKEN.fullmatch(name):
            yield (
                (*path, "subprotocols"),
                f'"{name}" is no subprotocol; write a name without spaces, such as "v1.agent"',
            )


def _command(path: Path, command: tuple[str, ...]) -> Found:
    if not command or not command[0].startswith("/") or any("\x00" in word for word in command):
        wrong = shown(path, command[0]) if command else "nothing"
        yield (
            (*path, "command"),
            f'{wrong} is no program; write its absolute path and its arguments, as in ["/opt/checks/run", "--fast"]',
        )


def _webhook(path: Path, url: str, secret: str) -> Found:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or any(c <= " " for c in url):
        yield (*path, "url"), f'"{url}" is no address; write for example "https://ci.example.com/judge"'
    yield from _secret((*path, "secret"), secret, needs=True)


def _load(gate: LoadGate, path: Path) -> Found:
    limits = list(gate.slo.limits())
    if gate.duration > LONGEST_LOAD:
        yield (*path, "duration"), f"{gate.duration:g} is too large; the most is {LONGEST_LOAD:g}"
    if gate.rate and gate.think:
        yield (*path, "think"), "with a rate nobody waits for answers, so nobody thinks either; leave one of them out"
    if not limits:
        yield (*path, "slo"), "there is no limit to keep to; write for example slo = { max_error_rate = 0.01 }"
        return
    for name, limit in limits:
        yield from _number((*path, "slo"), name, limit, type(gate.slo))
    # A closed loop asks as often as the agents answer: nobody knows how often that is.
    most = gate.rate * gate.duration if gate.rate else float("inf")
    most = min(most, gate.requests or most)
    for name, wanted in unjudgeable(limits, most):
        yield (
            (*path, "slo", name),
            f"at most {most:g} requests are sent, and this cannot be judged with fewer than {wanted}; "
            f"raise {'requests' if gate.requests and gate.requests == most else 'rate or duration'}, or leave it out",
        )
    wanted = samples_needed(limits)
    if gate.min_samples and gate.min_samples < wanted:
        yield (*path, "min_samples"), f"{gate.min_samples} samples cannot judge these limits; the least is {wanted}"
    if gate.min_samples > most:
        yield (*path, "min_samples"), f"at most {most:g} requests are sent; lower it, or let more be sent"


def _hook(hook: Hook, path: Path, plan: Plan) -> Found:
    yield from _asked(hook, path)
    if not hook.at:
        yield (*path, "at"), f'it is told of no step; write for example at = ["flip"]; the steps are {_STEPS}'
    for step in hook.at:
        if hook.when == "before" and step in ("bake", "end"):
            yield (*path, "at"), f'before {step} there is nothing to veto; write when = "after", or at = ["flip"]'
        if step in ("migrate", "mirror", "canary", "bake") and getattr(plan, step) is None:
            yield (*path, "at"), f"this plan has no [{step}]; write one, or leave that step out"


def _migrate(migrate: Migrate) -> Found:
    actions = {name: getattr(migrate, name) for name in ("expand", "revert", "contract")}
    for name, action in actions.items():
        if action is not None:
            yield from _common(action, ("migrate", name))
            yield from _asked(action, ("migrate", name))
    if not any(actions.values()):
        yield ("migrate",), 'nothing is migrated; write for example expand = { command = ["/opt/db/expand"] }'
    if migrate.revert is not None and migrate.expand is None:
        yield ("migrate", "revert"), "there is nothing to revert; write expand too, or leave it out"
    if migrate.rehearse and migrate.revert is None:
        yield ("migrate", "rehearse"), "what is rehearsed is the revert; write it, or leave rehearse out"


def _asked(hook: Action, path: Path, *, needed: bool = True) -> Found:
    if (hook.command and hook.url) or (needed and not (hook.command or hook.url)):
        yield (*path, "command"), "write either command or url: one says what runs, the other who is called"
    elif hook.command:
        yield from _command(path, hook.command)
    elif hook.url:
        yield from _webhook(path, hook.url, hook.secret)
    elif given := next((name for name in ("env", "headers", "secret") if getattr(hook, name)), ""):
        yield (*path, given), "nothing is run or called here; write command or url, or leave it out"


def _canary(canary: Canary) -> Found:
    yield from _limits(canary, ("canary",), needed=True)
    if not canary.share and not canary.match and canary.synthetic is None:
        yield ("canary", "share"), "no session begins there; write a share such as 0.05, or [[canary.match]]"
    for number, match in enumerate(canary.match, start=1):
        path = (f"canary.match[{number}]",)
        name = match.header or match.cookie
        if bool(match.header) == bool(match.cookie):
            yield path, "write either header or cookie, by which a request is known"
        elif not _TOKEN.fullmatch(name):
            yield (*path, "header" if match.header else "cookie"), f'"{name}" is no name; write letters, digits and -'
        elif match.header.lower() in _FRAMING | _SECRETS or match.header.lower().startswith("x-bgproxy-"):
            yield (*path, "header"), f"{name} cannot tell who is listed; write a field of your own, or a cookie"
        if not match.values:
            yield (*path, "values"), 'there is no value; write for example values = ["yes"]'
    if canary.synthetic is not None:
        yield from _synthetic(canary.synthetic, canary)


def _synthetic(made: Synthetic, canary: Canary) -> Found:
    path = ("canary", "synthetic")
    yield from _common(made, path)
    yield from _host(made, path)
    yield from _request(made, path)
    if canary.max_error_rate is None:
        yield path, "its errors have no limit; write max_error_rate below [canary], or leave this out"
    if not made.rate:
        yield (*path, "rate"), "nothing would be sent; write requests per second, for example 1.0"
    if made.rate > MOST_SYNTHETIC:
        yield (*path, "rate"), f"{made.rate:g} is too large; the most is {MOST_SYNTHETIC:g}: for a load, write a gate"
    if made.timeout > canary.duration:
        yield (*path, "timeout"), f"the canary is over after {canary.duration:g} s; lower it, or raise its duration"


def _bake(bake: Bake) -> Found:
    yield from _limits(bake, ("bake",), needed=not bake.judges)
    yield from _numbered(bake.judges, "bake.judge", MOST_JUDGES, _judge)


def _limits(watched: Canary | Bake, path: Path, *, needed: bool) -> Found:
    limits = list(watched.limits())
    if needed and not limits:
        yield path, "there is no limit to keep to; write for example max_error_rate = 0.01"
    for name, wanted in unjudgeable(limits, watched.min_samples):
        yield (
            (*path, name),
            f"it cannot be judged with min_samples = {watched.min_samples}; the least is {wanted}: raise min_samples, "
            "or leave it out",
        )


def _judge(judge: BakeJudge, path: Path) -> Found:
    yield from _webhook(path, judge.url, getattr(judge, "secret", ""))
    if judge.kind == "prometheus":
        yield from _query(judge, path)


def _query(judge: PrometheusJudge, path: Path) -> Found:
    if not judge.query.strip():
        yield (*path, "query"), 'there is none; write PromQL, as in query = "sum(rate(errors_total[1m]))"'
    if judge.max is None and judge.min is None:
        yield (*path, "max"), "there is no limit; write max, min or both"
    elif judge.max is not None and judge.min is not None and judge.min > judge.max:
        yield (*path, "min"), f"{judge.min:g} is more than max = {judge.max:g}; swap them"
