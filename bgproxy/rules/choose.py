"""Which color serves a request: the pointer, the session's pin and its route's policy make one choice.

Decides purely, per request. Promises that a pin is never served by another release in silence: where the choice is
not the pin's own place, `why` says that the session has to be moved first. Moving is the store's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bgproxy.rules.pin import OnRollback, Order, Pin, Policy
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Release


class Choice(NamedTuple):
    """A color and why: active (no pin), pinned or ended; with any other why the store must be asked to move the session
    before it is served."""

    color: str
    why: str


def choose(
    pointer: Pointer,
    releases: Mapping[str, Release],
    pin: Pin | None,
    policy: Policy = Policy.PINNED,
    on_rollback: OnRollback = OnRollback.MOVE,
    order: Order | None = None,
) -> Choice:
    """The color that is to serve. `order`: the one that stands for this pin's id.

    ended: an operator's deadline has ended the sessions of the pin's release: this one is to be told so, once, and its
    pin to be ended. ordered: an operator wants the session elsewhere. gone: the pin's release does not stand on its
    color any more. rollback: a rollback left that release after the session came to it. follow: the pointer has moved
    since. confirm: the pointer has come back to the session's color, but meanwhile another node may have moved the
    session away, and this one not have heard of it. The last three come at most once per flip, for asking the store
    gives the pin the pointer's epoch.
    """
    if pin is None:
        return Choice(pointer.active, "active")
    release = releases.get(pin.color)
    if release is not None and has_ended(release, pin.release):
        return Choice(pin.color, "ended")
    if order is not None and order.moves(pin):
        return Choice(order.color, "ordered")
    if release is None or release.label != pin.release:
        return Choice(pointer.active, "gone")
    if pin.epoch >= pointer.epoch:
        return Choice(pin.color, "pinned")
    if policy is Policy.FOLLOW:
        why = "follow"
    elif on_rollback is OnRollback.MOVE and release.rolled_back > pin.epoch:
        why = "rollback"
    else:
        return Choice(pin.color, "pinned")
    return Choice(pointer.active, why if pin.color != pointer.active else "confirm")


def has_ended(standing: Release, label: str) -> bool:
    """Whether the sessions of release `label` were ended on the color where `standing` stands."""
    return standing.ended if standing.label == label else label in standing.ended_before
