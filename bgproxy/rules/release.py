"""A release and the phases of its life: one table, read by `advance`.

Two rules stand above the table:

1. A release takes new traffic only in BAKING and ACTIVE, and only the pointer's coming (`activate`) brings it there.
2. What has been active stays one flip away until it is RETIRED: a rollback must be as fast as a flip.

What is not in the table is refused. RETIRED has no way out; the color is staged anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final, Literal

from bgproxy.errors import BadInput, Refused


class Phase(StrEnum):
    """Where a release stands."""

    STAGED = "staged"
    VALIDATING = "validating"
    READY = "ready"
    REJECTED = "rejected"
    BAKING = "baking"
    ACTIVE = "active"
    STANDBY = "standby"
    DRAINED = "drained"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"


class Event(StrEnum):
    """What happens to a release."""

    VALIDATE = "validate"
    PASSED = "passed"
    FAILED = "failed"
    ACTIVATE = "activate"  # the pointer comes to it
    SETTLE = "settle"
    LEAVE = "leave"  # the pointer goes elsewhere
    ROLL_BACK = "roll_back"  # the pointer leaves it because it is bad
    DRAINED = "drained"
    RETIRE = "retire"
    FORCE_ACTIVATE = "force_activate"  # the pointer comes to it by an operator's will, against the rules


# The pointer brings these about: a phase must never move by them while the pointer stays where it is.
POINTER_EVENTS: Final = frozenset({Event.ACTIVATE, Event.LEAVE, Event.ROLL_BACK, Event.FORCE_ACTIVATE})

# Never had traffic of their own, so nothing drains there and they may be staged anew without force: all but those that
# had a canary's (`Release.is_tried`).
UNTRIED: Final = frozenset({Phase.STAGED, Phase.VALIDATING, Phase.READY})

# Traffic has left a release in such a phase, and it is not known to be empty: it drains.
LEAVING: Final = frozenset({Phase.STANDBY, Phase.ROLLED_BACK})

# Nothing of theirs is alive any more.
ENDED: Final = frozenset({Phase.DRAINED, Phase.REJECTED, Phase.RETIRED})

_TABLE: Final[Mapping[Phase, Mapping[Event, Phase]]] = MappingProxyType(
    {
        Phase.STAGED: {
            Event.VALIDATE: Phase.VALIDATING,
            Event.FAILED: Phase.REJECTED,
            Event.ROLL_BACK: Phase.ROLLED_BACK,  # a canary's sessions live there: it drains before it is REJECTED
            Event.FORCE_ACTIVATE: Phase.BAKING,
        },
        Phase.VALIDATING: {
            Event.VALIDATE: Phase.VALIDATING,  # a dead validator's work is taken up by another
            Event.PASSED: Phase.READY,
            Event.FAILED: Phase.REJECTED,
            Event.ROLL_BACK: Phase.ROLLED_BACK,
            Event.FORCE_ACTIVATE: Phase.BAKING,
        },
        Phase.READY: {
            Event.VALIDATE: Phase.VALIDATING,  # by a plan, after it was called ready for nothing but its connections
            Event.ACTIVATE: Phase.BAKING,
            Event.FAILED: Phase.REJECTED,
            Event.ROLL_BACK: Phase.ROLLED_BACK,
            Event.FORCE_ACTIVATE: Phase.BAKING,
        },
        Phase.REJECTED: {Event.FORCE_ACTIVATE: Phase.BAKING},
        Phase.BAKING: {
            Event.SETTLE: Phase.ACTIVE,
            Event.LEAVE: Phase.STANDBY,
            Event.ROLL_BACK: Phase.ROLLED_BACK,
        },
        Phase.ACTIVE: {
            Event.LEAVE: Phase.STANDBY,
            Event.ROLL_BACK: Phase.STANDBY,  # a settled release has proved itself; one can flip forward again
        },
        Phase.STANDBY: {
            Event.ACTIVATE: Phase.ACTIVE,
            Event.DRAINED: Phase.DRAINED,
            Event.FORCE_ACTIVATE: Phase.ACTIVE,
        },
        Phase.DRAINED: {
            Event.ACTIVATE: Phase.ACTIVE,  # still deployed: rule 2
            Event.RETIRE: Phase.RETIRED,
            Event.FORCE_ACTIVATE: Phase.ACTIVE,
        },
        Phase.ROLLED_BACK: {
            Event.DRAINED: Phase.REJECTED,
            Event.FORCE_ACTIVATE: Phase.BAKING,
        },
        Phase.RETIRED: {},
    }
)

_ENDED_KEPT = 8  # labels per color; a session that comes back after so many ended releases begins anew, untold


def advance(phase: Phase, event: Event) -> Phase:
    """The phase after `event`. Raises `Refused`, naming both, where the table has no such step."""
    try:
        return _TABLE[phase][event]
    except KeyError:
        allowed = ", ".join(sorted(_TABLE[phase])) or "nothing; stage a release anew"
        raise Refused(f"a release that is {phase} has no step {event}; possible from {phase}: {allowed}") from None


@dataclass(frozen=True, slots=True)
class Relief:
    """The release that took a release's place, whose `replicas` stood idle beside it from `since` on (unix seconds,
    store's clock). `began`, `spent`: since when one of the two was idle, and the replica-seconds before `since`.
    """

    label: str
    replicas: int
    since: float
    began: float
    spent: float = 0.0


@dataclass(frozen=True, slots=True)
class Retirement:
    """An order to take a release down, which stands until that is done. `due`: not before that, unix seconds by the
    store's clock. `leader`: the node that carries it out now; empty: none does.

    `again`: it is tried again where it fails, else it is over then; `tries` and `why`: how often it failed, and why at
    last. `forced`: the rollback window was not waited for. `contract`: it is RETIRED, what is left is the contract step
    of its successor's plan.
    """

    actor: str
    reason: str
    due: float
    leader: str = ""
    forced: bool = False
    again: bool = False
    tries: int = 0
    why: str = ""
    contract: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it failed, and is not tried again."""
        return bool(self.tries) and not self.again


@dataclass(frozen=True, slots=True)
class Release:
    """What a color holds: a version's label, where its agents listen, and its phase.

    `routes` gives single routes their own upstreams; all others use `upstreams`. `at`: unix seconds, store's clock.
    `rolled_back` is the epoch of the last rollback that left it, 0 while none has: sessions that came before flee.
    `left` is the epoch of the flip or rollback by which traffic left it last, 0 while none has; of one that was never
    active yet, the epoch beside which its canary began.

    `deadline`: unix seconds by the store's clock, when the sessions that still live here are ended; 0: none.
    `ended`: it has passed, they are over. `ended_before`: the labels of releases that stood on this color earlier and
    whose sessions were ended, newest first: a session of theirs that comes back is told so too.

    `staged`, `departed`: when it was staged, and when traffic left it last, once a later change has taken `at`.
    `relief`: for whom. `parting`: of the plan by which that came, what is to be done once this is drained.
    `retirement`: the order to take it down. `outdated`: labels of releases that stand or stood here and whose schema is
    gone, each with the label of the one whose contract step has begun to remove it.
    """

    label: str
    upstreams: tuple[str, ...]
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    phase: Phase = Phase.STAGED
    origin: Literal["config", "api"] = "api"
    at: float = 0.0
    rolled_back: int = 0
    left: int = 0
    deadline: float = 0.0
    ended: bool = False
    ended_before: tuple[str, ...] = ()
    staged: float = 0.0
    departed: float = 0.0
    relief: Relief | None = None
    parting: Mapping[str, object] = field(default_factory=dict)
    retirement: Retirement | None = None
    outdated: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_tried(self) -> bool:
        """Whether it has not been active yet, and sessions of a canary may live on it all the same."""
        return self.left > 0 and self.phase in UNTRIED

    @property
    def owes_contract(self) -> bool:
        """Whether a contract step of its successor's plan is still to be done, once this is gone."""
        migrate = self.parting.get("migrate")
        return isinstance(migrate, Mapping) and "contract" in migrate

    @property
    def replicas(self) -> int:
        """How many addresses it has: what its idle time is counted in."""
        return len({*self.upstreams, *(url for some in self.routes.values() for url in some)})

    @property
    def idle_since(self) -> float:
        """Since when (unix seconds, store's clock) it stands idle beside the active one; 0: it does not."""
        if self.phase in (Phase.BAKING, Phase.ACTIVE, Phase.RETIRED):
            return 0.0
        return self.departed or self.staged or self.at

    @property
    def is_taken_down(self) -> bool:
        """Whether an order to retire it is carried out now, so that nobody knows what of it still runs."""
        return self.retirement is not None and bool(self.retirement.leader)

    def dated(self, old: Release | None) -> Release:
        """This release, in the place of what it was before: `at` tells of the newest change only, so when it was staged
        and when traffic left it is kept."""
        if old is None or old.label != self.label or self.phase in (Phase.STAGED, Phase.BAKING, Phase.ACTIVE):
            return self
        if old.phase in UNTRIED:
            return replace(self, staged=old.staged or old.at)
        return self if self.phase in UNTRIED or not old.idle_since else replace(self, departed=old.idle_since)

    def relieving(self) -> Relief:
        """What it is to the release whose place it takes now."""
        since, before = self.idle_since, self.relief
        if before is None:
            return Relief(self.label, self.replicas, since, since)
        spent = before.spent + before.replicas * max(0.0, since - before.since)
        return Relief(self.label, self.replicas, since, before.began, spent)

    def turned(self, relief: Relief | None = None, parting: Mapping[str, object] | None = None) -> Release:
        """This release as traffic comes to it or leaves it: what was about its last leaving is over."""
        after = replace(self, deadline=0.0, ended=False, staged=0.0, departed=0.0, retirement=None)
        return replace(after, relief=relief, parting=parting or {})

    def upstreams_for(self, route: str) -> tuple[str, ...]:
        """The addresses that serve `route`; empty where this release does not serve it, or is taken down: nobody looks
        after them any more, so none is told to be unwell."""
        return () if self.phase is Phase.RETIRED else self.routes.get(route, self.upstreams)

    def same_content(self, other: Release) -> bool:
        """Whether both deploy the same thing, wherever they stand in their lives."""
        mine = (self.label, self.upstreams, self.routes, self.metadata)
        return mine == (other.label, other.upstreams, other.routes, other.metadata)

    def following(self, old: Release | None) -> Release:
        """This release, put on the color in place of `old`: it knows whose sessions were ended there."""
        if old is None:
            return replace(self, ended_before=())
        outdated = dict([*old.outdated.items()][-_ENDED_KEPT:])
        labels = dict.fromkeys((old.label, *old.ended_before) if old.ended else old.ended_before)
        labels.pop(self.label, None)  # it stands again, so its sessions have a place
        return replace(self, ended_before=tuple(labels)[:_ENDED_KEPT], outdated=outdated)

    def after(self, event: Event) -> Release:
        """This release one step on; raises `Refused` like `advance`."""
        return replace(self, phase=advance(self.phase, event))


# Labels travel in metrics, headers and logs: no spaces, quotes or control characters.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@:/-]{0,127}")


def parse_label(label: str) -> str:
    """A release label as it is; raises `BadInput` naming it where it cannot be one."""
    if not _LABEL.fullmatch(label):
        raise BadInput(
            f"release label {label[:140]!r} cannot be used: 1 to 128 letters, digits or one of . _ + @ : / -, "
            "beginning with a letter or digit"
        )
    return label


_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_URL = re.compile(
    r"http://(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:/?#@]{1,253})(?::(?P<port>[0-9]{1,5}))?/?", re.IGNORECASE
)
_UNIX = re.compile(r"unix:(?://)?(?P<path>/[!-~]+)", re.IGNORECASE)
_MAX_UNIX_PATH = 107  # bytes: sun_path holds 108 with its closing zero


def parse_upstream(url: str) -> str:
    """An agent's address in its one spelling: `http://host:port` or `unix:/absolute/path`.

    The host is lowered and the port is always written (80 where it was left out). Raises `BadInput` naming the value
    for anything else: another scheme, a path, a user, a query, a port out of range, a host that can be none.
    """
    if match := _UNIX.fullmatch(url):
        path = match["path"]
        if len(path) > _MAX_UNIX_PATH:
            raise _bad_upstream(url, f"a socket path has at most {_MAX_UNIX_PATH} bytes, this one {len(path)}")
        return f"unix:{path}"
    if url[:8].lower() == "https://":
        raise _bad_upstream(url, "agents are reached by plain HTTP; put a TLS-terminating sidecar beside the agent")
    match = _URL.fullmatch(url)
    if match is None:
        raise _bad_upstream(url, "it must be http://host:port (no path, user or query) or unix:/absolute/path")
    host, port = match["host"].lower(), int(match["port"] or 80)
    if not 1 <= port <= 65535:
        raise _bad_upstream(url, f"port {port} is not in 1 to 65535")
    if not _host_is_possible(host):
        raise _bad_upstream(url, f"{host!r} is neither a host name nor an IP address")
    return f"http://{host}:{port}"


def _host_is_possible(host: str) -> bool:
    if host.startswith("["):
        return ":" in host and _is_address(host[1:-1])
    if host.rsplit(".", 1)[-1].isdigit():  # a name never ends in a number, so this must be an IPv4 address
        return _is_address(host)
    return _NAME.fullmatch(host) is not None and all(len(part) <= 63 for part in host.split("."))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _bad_upstream(url: str, problem: str) -> BadInput:
    shown = re.sub(r"//[^/@]*@", "//***@", url[:200])  # a password may stand where none may
    return BadInput(f"upstream {shown!r} cannot be used: {problem}")


def checked(release: Release) -> Release:
    """The release with its label and addresses checked and spelled in one way; raises `BadInput`."""
    parse_label(release.label)
    if not release.upstreams and not any(release.routes.values()):
        raise BadInput(f"release {release.label!r} has no upstreams: name at least one, such as http://127.0.0.1:9101")
    return replace(
        release,
        upstreams=_distinct(release.upstreams),
        routes={route: _distinct(upstreams) for route, upstreams in release.routes.items()},
        metadata=dict(release.metadata),
    )


def _distinct(upstreams: tuple[str, ...]) -> tuple[str, ...]:
    """Each address once, in the order given: one that is named twice would get twice its share."""
    return tuple(dict.fromkeys(parse_upstream(url) for url in upstreams))
