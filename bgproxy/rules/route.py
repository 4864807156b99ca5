"""Which route a request takes: the host first, then the longest path prefix.

A prefix matches whole segments: `/chat` takes `/chat`, `/chat/x` and `/chat?x`, never `/chatter`. Paths are compared as
they were sent, without decoding: a route is an address, not a fence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """A host (empty: any) and a path prefix that one set of upstreams per color answers for."""

    name: str
    host: str = ""
    path: str = "/"

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", self.host.lower().rstrip("."))
        object.__setattr__(self, "path", "/" + self.path.strip("/"))


class RouteTable:
    """Routes in the order in which they are tried: a named host before any host, longer prefixes before shorter."""

    __slots__ = ("_anything", "_ordered", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        ordered = sorted(self.routes, key=lambda route: (not route.host, -len(route.path)))
        self._ordered = tuple((r, r.host.encode("idna") if r.host else b"", r.path.encode()) for r in ordered)
        only = self.routes[0] if len(self.routes) == 1 else None
        # One route for everything is the sidecar's case, and costs one comparison.
        self._anything = only if only is not None and not only.host and only.path == "/" else None

    def find(self, host: bytes, path: bytes) -> Route | None:
        """The route of a request, or None. `host` as in the Host field; `path` may carry a query."""
        if self._anything is not None:
            return self._anything
        name = host_name(host)
        for route, wanted, prefix in self._ordered:
            if (not wanted or wanted == name) and _covers(prefix, path):
                return route
        return None


def host_name(host: bytes) -> bytes:
    """The name in a Host field: lower case, without port and without a trailing dot (`[::1]:80` → `[::1]`)."""
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1].lower()
    return host.partition(b":")[0].lower().rstrip(b".")


def _covers(prefix: bytes, path: bytes) -> bool:
    if prefix == b"/":
        return True
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?")
