"""What a plan needs of this host and of the fleet's routes, and does not find: told before anything is begun.

The steps look once more when their turn comes, as another node may have taken over by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bgproxy.rules.plan import Plan
from bgproxy.rules.route import RouteTable
from bgproxy.rules.variables import unset

_FILLED: Final = frozenset({"headers", "env", "secret"})  # keys whose texts may hold variables
_SENT: Final = frozenset({"json", "arguments", "messages"})  # as they stand, whatever they hold


def missing(plan: Plan, written: Mapping[str, Any], routes: RouteTable, environ: Mapping[str, str]) -> str:
    """The first thing that is not there, by the key that asks for it; or nothing. `written`: the same plan's keys."""
    return _unset(written, "", environ, is_filled=False) or _unrouted(plan, routes)


def unknown_route(name: str, routes: RouteTable) -> str:
    """Why a request cannot go by that route; nothing where it can, or where none is named."""
    known = [one.name for one in routes.routes]
    return f"there is no route {name!r}; this fleet has {', '.join(known)}" if name and name not in known else ""


def _unset(part: object, place: str, environ: Mapping[str, str], *, is_filled: bool) -> str:
    if isinstance(part, str):
        why = unset(part, environ) if is_filled else ""
        return why and f"{place}: {why}"
    found = (
        _unset(value, at, environ, is_filled=is_filled or key in _FILLED) for key, at, value in _parts(part, place)
    )
    return next(filter(None, found), "")


def _parts(part: object, place: str) -> Iterator[tuple[str, str, object]]:
    """What a table or a list holds: by its own name, and by its whole name."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key not in _SENT and not key.startswith("expect_"):
                yield key, f"{place}.{key}" if place else key, value
    elif isinstance(part, list | tuple):
        for number, value in enumerate(part, start=1):
            yield "", f"{place}[{number}]", value


def _unrouted(plan: Plan, routes: RouteTable) -> str:
    asked = [(f"gate[{number}]", getattr(gate, "route", "")) for number, gate in enumerate(plan.gates, start=1)]
    if plan.canary is not None and plan.canary.synthetic is not None:
        asked.append(("canary.synthetic", plan.canary.synthetic.route))
    return next((f"{place}.route: {why}" for place, name in asked if (why := unknown_route(name, routes))), "")
