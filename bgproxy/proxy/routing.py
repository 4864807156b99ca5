"""Where requests go now: one immutable table per state of the fleet, exchanged by a single assignment.

A request reads the table once, when it is admitted, and keeps the group that it got: whatever the pointer does later,
it was routed by exactly one epoch.
"""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING, Literal

from bgproxy.proxy.pool import Upstream
from bgproxy.rules.canary import LISTED
from bgproxy.rules.route import RouteTable
from bgproxy.telemetry.metrics import Slot

if TYPE_CHECKING:
    from bgproxy.proxy.hold import Hold
    from bgproxy.proxy.session_rules import SessionRules


class Group:
    """The upstreams of one route on one color's release, at one epoch."""

    def __init__(
        self,
        route: str,
        color: str,
        release: str,
        epoch: int,
        slot: Slot,
        upstreams: tuple[Upstream, ...],
        policy: Literal["p2c", "round_robin"],
        sessions: SessionRules | None = None,
        ended: bool = False,
    ) -> None:
        """`sessions`: how the route knows its sessions; None: it knows none. `ended`: those that live here are over."""
        self.route = route
        self.color = color
        self.release = release
        self.epoch = epoch
        self.slot = slot
        self.upstreams = upstreams
        self.sessions = sessions
        self.ended = ended
        self.hold: Hold | None = None  # where new admissions wait; None: nowhere
        self._by_url = {upstream.url: upstream for upstream in upstreams}
        self._single = upstreams[0] if len(upstreams) == 1 else None
        self._round_robin = policy == "round_robin"
        self._turn = 0
        self.debug = b"X-Bgproxy-Color: %b\r\nX-Bgproxy-Epoch: %d\r\n" % (color.encode(), epoch)

    def __repr__(self) -> str:
        return f"<Group {self.route} {self.color}@{self.release} epoch {self.epoch} {len(self.upstreams)} upstreams>"

    def choose(self, now: float, tried: tuple[Upstream, ...] = (), kept: str = "") -> Upstream | None:
        """The upstream for one request, never one of `tried`; the one that has its session in memory (`kept`, a URL)
        while that one is well.

        Two drawn at random, the less loaded one wins: nearly as good as looking at all of them, without the herd that
        runs to the least loaded. Where every upstream is out, one of them is tried all the same: an honest failure to
        connect tells more than a refusal by memory.
        """
        if self._single is not None:
            return None if tried else self._single
        if kept and (known := self._by_url.get(kept)) is not None and known not in tried and known.health.usable(now):
            return known
        if not tried and not self._round_robin and self.upstreams:
            upstream = self._two_choices(now)
            if upstream is not None:
                return upstream
        rest = [u for u in self.upstreams if u not in tried]
        rest = [u for u in rest if u.health.usable(now)] or rest
        self._turn += 1
        return rest[self._turn % len(rest)] if rest else None

    def _two_choices(self, now: float) -> Upstream | None:
        upstreams = self.upstreams
        count = len(upstreams)
        first = int(random() * count)
        one = upstreams[first]
        other = upstreams[(first + 1 + int(random() * (count - 1))) % count]
        if not one.health.usable(now):
            return other if other.health.usable(now) else None
        return other if other.in_flight < one.in_flight and other.health.usable(now) else one


class Routing:
    """The pointer as the data path sees it."""

    def __init__(
        self,
        epoch: int,
        active: str,
        routes: RouteTable,
        groups: dict[tuple[str, str], Group],
        canary: str = "",
        share: float = 0.0,
    ) -> None:
        """`canary`: a color on which a share of what has no session begins; empty: none."""
        self.epoch = epoch
        self.active = active
        self.groups = groups
        self.canary = canary
        self._share = share
        self._routes = routes
        only = routes.routes[0] if len(routes.routes) == 1 and not share else None
        self._only = groups[only.name, active] if only is not None and not only.host and only.path == "/" else None

    def __repr__(self) -> str:
        return f"<Routing {self.active} epoch {self.epoch}>"

    def admit(self, host: bytes, target: bytes) -> Group | None:
        """The group for a request, the active color's but for a canary's share; None where no route takes it."""
        if self._only is not None:
            return self._only
        route = self._routes.find(host, target)
        return self.groups[route.name, self._drawn()] if route is not None else None

    def admit_again(self, before: Group, wish: str) -> Group:
        """The group for a request that was admitted to `before`, by where it wishes to begin (`store.pinning.Want`).

        A route that was taken away serves those it let in.
        """
        color = self._drawn() if not wish else wish if wish != LISTED else self.canary or self.active
        return self.groups.get((before.route, color)) or before

    def _drawn(self) -> str:
        """The active color, or the canary's. What has no key has nothing to be drawn by but chance."""
        return self.canary if self._share and random() < self._share else self.active
