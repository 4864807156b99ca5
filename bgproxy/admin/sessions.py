"""`/v1/sessions`: the pins as they stand, and those that an operator moves or forgets.

A session is named by 32 hex digits, the digest of any of its keys. What a client sent as its id is not known here: the
store never gets it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from bgproxy.admin.call import Call
from bgproxy.admin.seams import AdminDeps
from bgproxy.admin.view import look
from bgproxy.errors import BadInput, StoreUnavailable
from bgproxy.rules.fleet import FleetState, known
from bgproxy.rules.pin import Pin
from bgproxy.store.pinning import ID_BYTES, unknown_session

PLACE: Final = ("pinned", "learned", "moved", "ended")
COUNTS: Final = (
    *("hits", "misses", "aliases", "conflicts", "refreshed", "gone"),
    *("journalled", "refused", "dropped", "ignored"),
)
HELD: Final = ("keys", "waiting", "turns")
TRIPS: Final = ("calls", "failed", "seconds")

PATIENCE = 2.0  # seconds that an order waits for the nodes to hear of it, and for the session's turn to end
_PAUSE = 0.02  # seconds between two looks

_ID = re.compile(rf"[0-9a-fA-F]{{{2 * ID_BYTES}}}")


async def sessions(call: Call) -> dict[str, Any]:
    """A page of live sessions; `next` is the cursor of the page behind it, null on the last one."""
    state = call.deps.state()
    color = call.query.get("color")
    if color is not None:
        known(state.colors, color)
    found, cursor = await call.deps.store.pins.page(call.query.get("cursor", ""), call.query["limit"], color)
    return {"sessions": [_session(state, pin, expires) for pin, expires in found], "next": cursor or None}


async def session(call: Call) -> dict[str, Any]:
    """One session."""
    return await _shown(call, _id(call))


async def move_session(call: Call) -> dict[str, Any]:
    """Order that a session lives on the release that stands on a color.

    Where nothing of it is under way it moves before the answer comes; else with its next turn after that.
    """
    ledger, to = call.deps.ledger, call.body["to"]
    pin, outcome = await ledger.move_session(_id(call), to, actor=call.actor, reason=call.body.get("reason", ""))
    try:
        await _carried_out(call.deps, pin)
    except StoreUnavailable as error:
        raise type(error)(f"{error.detail}; the order is on record, and is carried out at a turn of it") from error
    shown = await _shown(call, pin.id)
    return {**shown, "moved": shown["goal"] is None, "changed": outcome.changed}


async def _carried_out(deps: AdminDeps, pin: Pin) -> None:
    """Wait until the order for a session is carried out, or void, or too much time has passed."""
    deadline, standing = monotonic() + PATIENCE, pin
    while _goal(deps.state(), standing) is not None and monotonic() < deadline:
        after = await deps.store.pins.move(pin.id)
        if after is None:
            return
        if (after.color, after.release) != (pin.color, pin.release):
            deps.has_moved(after.preset, after.color)
            return
        standing = after
        await asyncio.sleep(_PAUSE)


async def forget_session(call: Call) -> dict[str, Any]:
    """Forget a session: its next request begins a new one, on the active color."""
    reason = call.query["reason"]
    pin, _ = await call.deps.ledger.forget_session(_id(call), actor=call.actor, reason=reason)
    return {"id": pin.id.hex(), "color": pin.color, "release": pin.release, "forgotten": True}


async def session_stats(call: Call) -> dict[str, Any]:
    """How many sessions live on which release, and what this host's workers have counted. Looks at no session.

    With the store away nobody knows how many live; what was counted is told all the same.
    """
    state = call.deps.state()
    view = await look(call.deps)
    counts = view.sessions or {}
    return {
        "live": None if view.sessions is None else sum(count.live for count in counts.values()),
        "releases": [
            {
                "color": color,
                "release": release,
                "stands": _stands(state, color, release),
                "live": count.live,
                "last_expires": count.last,
            }
            for (color, release), count in sorted(counts.items())
        ],
        "host": _counted(view.metrics["sessions"]),
    }


def _counted(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the workers of this host have counted since they were first started, the dead ones' part included."""
    places = told.get("places", {})
    return {
        "places": [
            {"preset": preset, "color": color, **{name: place.get(name, 0) for name in PLACE}}
            for preset, colors in sorted(places.items())
            for color, place in sorted(colors.items())
        ],
        "unpinned": dict(sorted(told.get("unpinned", {}).items())),
        **{name: told.get(name, 0) for name in COUNTS},
        **{name: told.get("gauges", {}).get(name, 0) for name in HELD},
        "store": [
            {"question": question, **{name: trips.get(name, 0) for name in TRIPS}}
            for question, trips in sorted(told.get("store", {}).items())
        ],
    }


def _id(call: Call) -> bytes:
    text = call.request.match_info["id"]
    if not _ID.fullmatch(text):
        raise BadInput(f"session {text[:64]!r} is no id: it has {2 * ID_BYTES} hex digits, as /v1/sessions shows them")
    return bytes.fromhex(text)


async def _shown(call: Call, key: bytes) -> dict[str, Any]:
    found = await call.deps.store.pins.look(key)
    if found is None:
        raise unknown_session(key)
    return _session(call.deps.state(), *found)


def _session(state: FleetState, pin: Pin, expires: float) -> dict[str, Any]:
    return {
        "id": pin.id.hex(),
        "color": pin.color,
        "release": pin.release,
        "stands": _stands(state, pin.color, pin.release),
        "upstream": pin.upstream or None,
        "epoch": pin.epoch,
        "moves": pin.moved,
        "goal": _goal(state, pin),
        "preset": pin.preset,
        "route": pin.route,
        "created": pin.created,
        "expires": expires,
        "ttl": pin.ttl,
        "max_age": pin.max_age,
    }


def _goal(state: FleetState, pin: Pin) -> dict[str, str] | None:
    """Where an operator wants the session, if it does not live there yet."""
    order = state.orders.get(pin.id)
    return {"color": order.color, "release": order.release} if order is not None and order.moves(pin) else None


def _stands(state: FleetState, color: str, label: str) -> bool:
    """Whether that release stands on that color by now; a session of one that does not moves at its next request."""
    release = state.releases.get(color)
    return release is not None and release.label == label
