"""Sessions, their counts and what holds a color, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from bgproxy.cli.report import clean
from bgproxy.cli.screen import grid, painted, terminal, time

_PLACE = ("pinned", "learned", "moved", "ended")
_LINES = {
    "cache": (("hits", "hits"), ("misses", "misses"), ("keys", "keys held")),
    "keys": (("aliases", "aliases"), ("conflicts", "conflicts"), ("ignored", "values that can be none")),
    "pins": (("refreshed", "refreshed"), ("gone", "restored"), ("turns", "turns that hold one")),
    "store away": (
        *(("journalled", "written down"), ("waiting", "still to be told")),
        *(("dropped", "given up"), ("refused", "refused")),
    ),
}
_FACTS = ("id", "color", "release", "upstream", "preset", "route", "epoch", "moves")


def show_sessions(document: Mapping[str, Any], same: str = "") -> None:
    """The answer of /v1/sessions. `same`: the options that the next page needs again."""
    rows = grid("id", "color", "release", "preset", "route", "moves", "expires", right={"moves"})
    for one in document["sessions"]:
        cells = (_release(one), one.get("preset"), one.get("route"), one.get("moves"), time(one.get("expires")))
        rows.add_row(clean(one.get("id")), painted(one.get("color")), *(Text(clean(cell)) for cell in cells))
    screen = terminal()
    screen.print(rows)
    if document.get("next"):
        more = f"there may be more: bgproxy sessions list{same} --cursor {document['next']}"
        screen.print(Text(clean(more), style="dim"))


def show_session(document: Mapping[str, Any]) -> None:
    """The answer of /v1/sessions/{id}."""
    rows = grid("what", "value")
    rows.show_header = False
    facts = {name: document.get(name) for name in _FACTS if document.get(name) is not None}
    facts["release"] = _release(document)
    facts |= {name: f"{document[name]:g} s" for name in ("ttl", "max_age") if document.get(name)}
    facts |= {"created": time(document.get("created")), "expires": _until(document)}
    for name, value in facts.items():
        rows.add_row(name, Text(clean(value)))
    terminal().print(rows)


def show_stats(document: Mapping[str, Any]) -> None:
    """The answer of /v1/sessions/stats."""
    rows = grid("color", "release", "sessions", "last expires", right={"sessions"})
    for one in document["releases"]:
        cells = (_release(one), one.get("live"), time(one.get("last_expires")))
        rows.add_row(painted(one.get("color")), *(Text(clean(cell)) for cell in cells))
    screen = terminal()
    screen.print(rows)
    live = document.get("live")
    screen.print(Text(clean(f"live sessions: {'unknown, the store is away' if live is None else live}")))
    if host := document.get("host"):
        screen.print()
        _show_host(host)


def _show_host(host: Mapping[str, Any]) -> None:
    """What the workers of one host have counted."""
    rows = grid("preset", "color", *_PLACE, right=set(_PLACE))
    for one in host.get("places", ()):
        cells = (one.get(name, 0) for name in _PLACE)
        rows.add_row(clean(one.get("preset")), painted(one.get("color")), *(clean(cell) for cell in cells))
    screen = terminal()
    screen.print(Text("counted by this host's workers:", style="dim"))
    screen.print(rows)
    for name, members in _LINES.items():
        screen.print(Text(clean(f"{name}: {', '.join(f'{text} {host.get(key, 0)}' for key, text in members)}")))
    if unpinned := host.get("unpinned"):
        screen.print(Text(clean(f"not read: {', '.join(f'{reason} {count}' for reason, count in unpinned.items())}")))
    for one in host.get("store", ()):
        if one.get("calls"):
            screen.print(Text(clean(_trips(one))))


def _trips(one: Mapping[str, Any]) -> str:
    calls, mean = one["calls"], 1000 * one.get("seconds", 0.0) / one["calls"]
    return f"store, {one.get('question')}: {calls} round trips of {mean:.2f} ms, {one.get('failed', 0)} failed"


def _release(one: Mapping[str, Any]) -> str:
    """A release that its color does not hold any more is marked, and where an operator wants the session instead."""
    goal = one.get("goal")
    to = f" (moves to {goal['color']}, {goal['release']}, at its next turn)" if goal else ""
    return f"{one.get('release') or '-'}{'' if one.get('stands', True) else ' (gone)'}{to}"


def _until(document: Mapping[str, Any]) -> str:
    return f"{time(document.get('expires'))} if it is not used any more"
