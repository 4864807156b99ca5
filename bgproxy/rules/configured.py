"""What the configuration says of colors and releases, brought into a fleet's state that has a history of its own.

Decides purely, as `fleet` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from bgproxy.errors import Refused, StoreForeign
from bgproxy.rules.fleet import Change, FleetState, changed, color_names, known, recorded
from bgproxy.rules.release import Phase, Release, checked

# A color whose release serves or may still serve somebody: its label is not exchanged under its sessions.
_LIVE: Final = frozenset({Phase.BAKING, Phase.ACTIVE, Phase.STANDBY, Phase.ROLLED_BACK})


def recognise(state: FleetState, colors: Iterable[str]) -> None:
    """Raises `StoreForeign` where the state has none of the configured colors: a fleet's are added to, never taken
    away, so it is another fleet's."""
    names = color_names(colors)
    if set(names).isdisjoint(state.colors):
        raise StoreForeign(
            f"the store's data are another fleet's, with the colors {', '.join(state.colors)}; configured are "
            f"{', '.join(names)}. They are left alone: name this fleet otherwise, use another database, or configure "
            "one of its colors"
        )


def reconfigure(
    state: FleetState,
    colors: Iterable[str],
    releases: Mapping[str, Release],
    *,
    actor: str,
    reason: str,
    at: float,
) -> Change | None:
    """Bring the configuration's colors and releases into the state; None where they say nothing new.

    A release that came by the API is never touched. One that came from the configuration takes its new upstreams
    and metadata in its phase as it is. Another label counts as another release: it is placed where the old one is
    idle, and refused (`Refused`) where the old one is live. Colors are added, never taken away: another node may
    run on an older file, and a release that is left out may still hold sessions.
    """
    names = tuple(dict.fromkeys((*state.colors, *color_names(colors))))
    new: dict[str, Release] = {}
    for color, wanted in releases.items():
        known(names, color)
        placed = _configured(state, color, replace(checked(wanted), at=at))
        if placed is not None:
            new[color] = placed
    if not new and names == state.colors:
        return None
    facts = recorded(state, new, releases={color: release.label for color, release in new.items()})
    if names != state.colors:
        facts["colors"] = list(names)
    return changed(replace(state, colors=names), new, "configure", facts, actor, reason)


def _configured(state: FleetState, color: str, wanted: Release) -> Release | None:
    """What the configuration's release makes of a color; None where it changes nothing."""
    old = state.releases.get(color)
    if old is None:
        active = state.pointer.active == color
        return replace(wanted, phase=Phase.ACTIVE) if active else wanted
    if old.origin != "config" or old.same_content(wanted):
        return None
    if old.label == wanted.label:
        what = {"upstreams": wanted.upstreams, "routes": wanted.routes, "metadata": wanted.metadata}
        return replace(old, **what, at=wanted.at)  # type: ignore[arg-type]  # each is what it was called
    if old.phase in _LIVE or old.is_tried:
        canary = " with sessions of a canary" if old.is_tried else ""
        raise Refused(
            f"the configuration puts {wanted.label} on {color}, where {old.label} is {old.phase}{canary}: "
            f"stage {wanted.label} on an idle color and flip to it"
        )
    return wanted.following(old)
