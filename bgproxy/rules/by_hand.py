"""What an operator does to single sessions and nodes: a session is moved to another release, or forgotten; a node that
is gone for good is forgotten.

Decides purely, as `fleet` does, and nothing of the state changes but its orders. An order is on record in the same
change by which it counts, so nothing is moved that is not on record. Carrying it out is the store's business, between
two turns of the session.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from bgproxy.errors import Refused
from bgproxy.rules.fleet import Change, FleetState, changed, known
from bgproxy.rules.pin import Order, Pin
from bgproxy.rules.release import Phase

MOST_ORDERS: Final = 64
"""Orders that stand at once: each node reads all of them with each state."""


def move_session(
    state: FleetState, pin: Pin, to: str, *, actor: str, reason: str, over: Collection[Order] = ()
) -> Change | None:
    """Order that a session lives on the release that stands on `to`; None where it does, or where that is ordered.

    `over`: orders that are known to be carried out, or whose session has ended; they make room. Raises `UnknownColor`,
    and `Refused` where no release is to be had or `MOST_ORDERS` others still wait for their sessions' turns to end.
    """
    known(state.colors, to)
    release = state.releases.get(to)
    if release is None:
        raise Refused(f"{to} has no release that the session could be moved to: stage one, or name another color")
    if release.phase is Phase.RETIRED:
        raise Refused(f"{to} holds {release.label}, which is retired: name another color")
    if release.ended:
        raise Refused(f"the sessions of {release.label} on {to} were ended by a deadline: name another color")
    if not release.upstreams_for(pin.route):
        raise Refused(f"{to} holds {release.label}, which has no upstream for route {pin.route!r}: name another color")
    standing = state.orders.get(pin.id)
    meant = standing.goal if standing is not None and standing.created == pin.created else (pin.color, pin.release)
    if meant == (to, release.label):
        return None
    order = Order(pin.id, pin.created, to, release.label, state.revision + 1)
    orders = {**{key: other for key, other in state.orders.items() if other not in over}, pin.id: order}
    if len(orders) > MOST_ORDERS:
        raise Refused(f"{MOST_ORDERS} sessions are to be moved already, each when its turn is over: try again later")
    facts = {**_ordered("move", pin), "to": to, "release": release.label}
    return changed(replace(state, orders=orders), {}, "session", facts, actor, reason)


def forget_session(state: FleetState, pin: Pin, *, actor: str, reason: str) -> Change:
    """Put on record that a session is to be forgotten; an order to move it is void."""
    orders = {key: order for key, order in state.orders.items() if key != pin.id}
    return changed(replace(state, orders=orders), {}, "session", _ordered("forget", pin), actor, reason)


def _ordered(what: str, pin: Pin) -> dict[str, object]:
    """What the record says of both. It is written before anything is done, and so says what was ordered, not done."""
    return {"ordered": what, "id": pin.id.hex(), "from": pin.color, "left": pin.release}


def forget_node(
    state: FleetState,
    node: str,
    last: Mapping[str, object],
    *,
    live: bool,
    actor: str,
    reason: str,
    force: bool = False,
) -> Change:
    """Put on record that a node is to be forgotten, with what it said last. Raises `Refused` for a live one."""
    if live and not force:
        raise Refused(
            f"node {node} is live: end its process, or wait until it is silent; force overrides, and it joins anew at "
            "its next beat"
        )
    facts = {"node": node, **last, **({"forced": ["it was live"]} if live else {})}
    return changed(state, {}, "forget", facts, actor, reason)
