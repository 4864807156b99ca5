"""Which color a look at what is not active yet leads to.

Decides purely. Promises that nobody is led to a color that cannot serve, nor in silence to another than was asked for.
"""

from __future__ import annotations

from bgproxy.errors import NotReady
from bgproxy.rules.fleet import FleetState, known
from bgproxy.rules.release import UNTRIED, Phase


def preview_color(state: FleetState, wanted: str = "") -> str:
    """The color for a preview. `wanted`: one by name; empty: the one that is being brought out, else the idle one.

    Raises `UnknownColor`, and `NotReady` where that color holds nothing that serves, or several might be meant.
    """
    color = wanted or _idle(state)
    known(state.colors, color)
    release = state.releases.get(color)
    if release is None:
        raise NotReady(f"{color} has no release")
    if release.phase is Phase.RETIRED or release.ended:
        raise NotReady(f"{color} holds {release.label}, which is over")
    return color


def _idle(state: FleetState) -> str:
    run, active = state.run, state.pointer.active
    if run is not None and run.is_open and run.color != active:
        return run.color
    held = {c: r for c, r in state.releases.items() if c != active and r.phase is not Phase.RETIRED and not r.ended}
    new = [color for color, release in held.items() if release.phase in UNTRIED]
    found = new if len(held) > 1 else [*held]
    if len(found) == 1:
        return found[0]
    if not held:
        raise NotReady(f"no color but the active one, {active}, has a release")
    raise NotReady(f"{', '.join(held)} all hold a release that is not active: name one by X-Bgproxy-Color")
