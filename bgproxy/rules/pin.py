"""A pin: which release a session lives on. And how long it lives there.

Decides when a pin that is used now is to expire. Promises that expiries fall on few instants (the ends of *buckets*),
so that live pins can be counted without looking at each. Must not know where pins are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

BUCKETS_PER_TTL = 60
"""Into how many buckets a time to live is divided: a pin lives up to one sixtieth longer than asked for."""


class Policy(StrEnum):
    """What becomes of a session when the pointer moves."""

    PINNED = "pinned"  # it stays on its release until it ends, idles out or grows too old
    FOLLOW = "follow"  # its state is external: it goes along, between two of its turns


class OnRollback(StrEnum):
    """What becomes of a pinned session whose release a rollback has left."""

    MOVE = "move"  # the release is bad: it goes to the active color, between two of its turns
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Pin:
    """One session's place. `id` is the digest (16 bytes) of the first key that it was known by.

    `epoch` is that of the pointer under which the pin was made or last moved. `created` is unix seconds by the
    store's clock, `ttl` how many seconds it lives unused, `max_age` how many at all (0: no limit). `upstream` is the
    address that serves it within its color, "" while none is remembered.
    """

    id: bytes
    color: str
    release: str
    upstream: str
    epoch: int
    created: float
    preset: str
    route: str
    moved: int
    ttl: float
    max_age: float = 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """By hand: a session is to live on `release` of `color` from its next turn on.

    `pin` is its pin's id and `created` that pin's: a session that begins anew under the same key is not meant.
    `revision` is that of the first state with this order. A node that has applied it, or a later one, knows of every
    turn of that session which it has under way, and begins none without asking the store.
    """

    pin: bytes
    created: float
    color: str
    release: str
    revision: int

    def moves(self, pin: Pin) -> bool:
        """Whether this pin is still to be moved by it."""
        return (pin.id, pin.created) == (self.pin, self.created) and (pin.color, pin.release) != self.goal

    @property
    def goal(self) -> tuple[str, str]:
        """Color and release."""
        return self.color, self.release


def bucket_seconds(ttl: float) -> int:
    """How long a bucket is for pins that live `ttl` seconds unused: whole seconds, at least one."""
    return max(1, math.ceil(ttl / BUCKETS_PER_TTL))


def expiry(created: float, ttl: float, max_age: float, now: float) -> int:
    """When a pin that is used `now` expires: unix seconds, the end of a bucket, never before `now + ttl` is over.

    With a `max_age` never later than the bucket in which the pin becomes so old.
    """
    due = now + ttl
    if max_age > 0:
        due = min(due, created + max_age)
    bucket = bucket_seconds(ttl)
    return math.ceil(due / bucket) * bucket
