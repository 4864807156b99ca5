"""Where all nodes keep their sessions' pins: the `PinStore` protocol, its promises and its keyspace.

**Promises**, the same for every store, kept by one contract suite. *Key* is here always a key's digest, 16 bytes.

1. One key, one pin: of several nodes that meet a new session at one moment, all get the same pin. It is made on the
   pointer that stands in the store at that moment, so a pin can never disagree with a flip that was committed before.
2. All keys of a session lead to one pin: the first is the pin's id, the others are *aliases*. A key that leads to a
   pin is never led to another while that pin lives; who tries is told by a count of conflicts.
3. A pin expires when it has not been used for its `ttl`, or at its `max_age`, at most a sixtieth of the ttl late, and
   is counted exactly until then. Its eight newest aliases live as long as the pin; an older one while it is used.
4. A pin changes its place only by `migrate` and `move`, once per flip and once per order of an operator, and only when
   every registered node has applied the state that says so and none has a turn of that session under way (`applied`,
   `idle`). A silent node may still serve: it is waited for, until it is taken off the list.
5. Who watches is told the ids of pins that have ended or changed. That may be lost when the line breaks; after it has
   come back, what was known has to be asked for again.
6. Every call ends within the store's `command_timeout`; what goes wrong is a `StoreUnavailable`. Asking again is safe.

Each pin has an expiry, no call looks at all pins, and `page` walks with a cursor. A memory store logs them beside its
state (`store/pin_log.py`); a store that loses them is told those that are in use again by the nodes.

**Keyspace** in Redis, beside that of `store/base.py`, under the same hash tag:

    bgproxy:{FLEET}:k:KEY   string  a pin (fields parted by tabs, then its aliases), or @ and the id of the pin that the
                                    key leads to; expires with it. KEY are 16 raw bytes
    bgproxy:{FLEET}:n       hash    color, release, end of a bucket (parted by tabs) → pins that expire there
    bgproxy:{FLEET}:turns   hash    e NODE → epoch and revision that it has applied; t PIN NODE → the serial of a turn
                                    under way; s NODE → the serial at which it has last said all anew
    bgproxy:{FLEET}:pins    channel the ids of pins that ended or changed, 16 raw bytes each
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

from bgproxy.errors import UnknownSession
from bgproxy.rules.canary import canary
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Pin

ID_BYTES: Final = 16
"""Length of a key's digest and so of a pin's id."""

PAUSED: Final = "paused"
"""Why a node is given no pin for a session: a pause holds new ones. It asks again when that is over."""

FENCED: Final = "fenced"
"""And without the store: what this node knows may be too old to begin one by."""

KEPT_ALIASES: Final = 8
"""Aliases of a pin that live as long as it does: its newest."""

BEGUN: Final = ("stays", "kept")
"""What who asks for a session's move is told where its turn is under way now, on the pin that was known. After any
other answer it has to be decided anew: the pin is another one, and may be due to move again."""


class Want(NamedTuple):
    """A session that needs a pin. `keys`: digests, most specific first, at least one. Times in seconds.

    `offer`: a color and an upstream; where the pin is made on that color, it remembers the upstream. `was`: the pin as
    this node has known it. Where the store knows none, that one is written again instead of a new one. `wish`: a color
    on which a new pin is made instead of the active one, if it holds a release; or `canary.LISTED`.
    """

    keys: tuple[bytes, ...]
    route: str
    preset: str
    ttl: float
    max_age: float = 0.0
    offer: tuple[str, str] = ("", "")
    was: Pin | None = None
    wish: str = ""


class Learned(NamedTuple):
    """Keys that an agent has minted, and where it runs: aliases of `pin_id`, or of a new pin at that place."""

    keys: tuple[bytes, ...]
    pin_id: bytes | None
    color: str
    release: str
    upstream: str
    epoch: int
    route: str
    preset: str
    ttl: float
    max_age: float = 0.0


def pin_of(one: Want | Learned, pin_id: bytes, color: str, release: str, upstream: str, epoch: int, now: float) -> Pin:
    """A pin for these keys, made `now` (unix seconds) at that place."""
    return Pin(pin_id, color, release, upstream, epoch, now, one.preset, one.route, 0, one.ttl, one.max_age)


def place_of(want: Want, state: FleetState) -> tuple[str, str]:
    """The color on which a new session begins, and the label of what stands there; "" where nothing does."""
    color = want.wish if want.wish in state.releases else state.pointer.active
    if (on := canary(state)) is not None and on.takes(want.keys[0], want.wish):
        color = on.color
    release = state.releases.get(color)
    return color, release.label if release is not None else ""


def unknown_session(key: bytes) -> UnknownSession:
    """What to raise where a key leads to no pin."""
    return UnknownSession(f"session {key.hex()} is not known: it never was, has ended or idled out")


class Resolved(NamedTuple):
    """The pin that stands, what it took (new aliases, keys left to other pins), and the store's unix time."""

    pin: Pin
    created: bool
    aliases: int
    conflicts: int
    now: float


class Turn(NamedTuple):
    """One session's turn on a node. The serial tells it from the node's later turns of that session.

    `epoch`, where the session is to move: that of its pin as the node has it, on which it was decided that it is to.
    """

    pin_id: bytes
    serial: int
    epoch: int = 2**53 - 1  # whichever


class PinCount(NamedTuple):
    """Live pins of one release, and when (unix seconds) the last of them expires if none is used any more."""

    live: int
    last: float


class NodePins(Protocol):
    """What a node asks for its sessions' sake. Wherever a pin's id is asked for, any of its keys will do."""

    async def resolve(self, wants: Sequence[Want]) -> list[Resolved | None]:
        """The pins of all these sessions, in one round trip.

        The first of a session's keys that leads to a pin wins; keys that lead nowhere become its aliases. Where none
        does, a pin is made on the pointer that stands, or None is answered during a pause. Counts as use. Raises
        `StoreUnavailable`, also while the store holds no pointer.
        """

    async def learn(self, learned: Sequence[Learned]) -> list[Resolved]:
        """Lead new keys to the pin of their exchange, or to a new one at the place that served.

        A key that leads to another pin is left as it is: an agent cannot mint its way into somebody else's session.
        Where no key can be had, the first key's pin is answered.
        """

    async def refresh(self, keys: Sequence[bytes]) -> list[bytes]:
        """Their pins are in use; answers with those keys that lead to none any more."""

    async def end(self, keys: Sequence[bytes]) -> list[bool]:
        """Their pins are over, with all aliases that live as long as they do.

        By key, whether it was this that ended it: of several nodes that end one session at once, one is told so.
        """

    async def place(self, pin: Pin, upstream: str) -> Pin | None:
        """Remember the upstream, if the pin stands where and as `pin` says; the pin that stands, None where it is gone.

        So of two nodes that place one session at once, both follow the first.
        """

    async def migrate(self, node: str, turns: Sequence[Turn]) -> list[Pin | None]:
        """Move sessions for turns that are about to begin; the pins that stand, None where they are gone.

        One moves to where an order of an operator says, else to the active color if its epoch is below the pointer's,
        and no higher than the turn says: then somebody else knows more of it, and this node is to decide anew.
        It moves once every registered node has applied that state and none has a turn of it under way. One that is on
        the active color already gets the pointer's epoch and stays. One whose release does not stand on its color any
        more moves at once. One that may not move yet stays, and the turn counts as under way on this node until `idle`.
        Where the id is an alias of another pin by now, that one is answered, as it is.
        """

    async def applied(
        self, node: str, epoch: int, revision: int, turns: Sequence[Turn], *, anew: bool = True, serial: int = 0
    ) -> bool:
        """This node routes by that state, and these turns are under way on it; whether the store knew the node.

        `anew`: all that it has said before is void. Else these come on top; where the store knows nothing of the node,
        it then does not take it for one that has applied anything. `serial`: no turn with a higher one had begun when
        this was said. What comes late counts for nothing: a call from before the last one anew, by its serial, a turn
        asked for with a serial from before it, and an earlier turn where a later one of that session is known.
        """

    async def idle(self, node: str, turns: Sequence[Turn]) -> None:
        """These turns are over. One that is not known, or that a later turn has replaced, is no error."""

    def watch(self) -> AsyncIterator[tuple[bytes, ...]]:
        """An async generator: () once subscribed, then ids of pins that ended or changed.

        Raises `StoreUnavailable` when the line breaks or has fallen behind. Close it (`aclose`) when done.
        """


@runtime_checkable
class PinStore(NodePins, Protocol):
    """All of it: what nodes ask, and what operators ask. See this module's promises."""

    async def move(self, key: bytes) -> Pin | None:
        """Carry out the order for a session, if that may be now; the pin that stands, None where it is gone.

        As `migrate`, for no turn. Without an order nothing is done.
        """

    async def find(self, key: bytes) -> Pin | None:
        """The pin that the key leads to. Does not count as use."""

    async def look(self, key: bytes) -> tuple[Pin, float] | None:
        """As `find`, with the pin's expiry (unix seconds)."""

    async def counts(self) -> Mapping[tuple[str, str], PinCount]:
        """Live pins by (color, release), exact; releases without any are left out. Never looks at the pins."""

    async def page(self, cursor: str, limit: int, color: str | None = None) -> tuple[list[tuple[Pin, float]], str]:
        """About `limit` pins with their expiry (unix seconds), and the next cursor; "" begins and ends.

        A page may be empty before the end. What lives throughout is met at least once. Raises `BadInput` on a bad
        cursor.
        """
