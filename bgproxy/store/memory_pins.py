"""The pins of a single process: plain dictionaries that keep the promises of `store/pinning.py`.

Every decision is made without a pause, so nothing can come between. What has expired is swept by whoever passes. At
most `_MAX_KEYS` keys are held: beyond that the pins that would expire first give way.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from bgproxy.errors import BadInput, StoreUnavailable
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Pin, expiry
from bgproxy.rules.pointer import Pointer
from bgproxy.store.memory_bell import PinBell
from bgproxy.store.memory_turns import NodeTurns
from bgproxy.store.pinning import KEPT_ALIASES, Learned, PinCount, Resolved, Turn, Want, pin_of, place_of

_MAX_KEYS = 1_000_000  # about 600 bytes each


class Kept:
    """A pin with what the store knows beside it."""

    __slots__ = ("aliases", "expires", "pin")

    def __init__(self, pin: Pin, expires: int) -> None:
        self.pin = pin
        self.expires = expires  # unix seconds
        self.aliases: list[bytes] = []  # those that live as long as the pin, oldest first


class MemoryPins:
    """See `PinStore`. Gone with the process; see `store/logged_pins.py`."""

    def __init__(
        self,
        state: Callable[[], FleetState | None],
        nodes: Callable[[], Iterable[str]],
        clock: Callable[[], float] | None = None,
        has_moved: Callable[[int], None] | None = None,
    ) -> None:
        """`state`: the fleet's state that stands; `nodes`: the registered nodes' ids; `clock`: unix seconds.

        `has_moved` is told the epoch whose flip a session was left by, when that session moves.
        """
        self._state = state
        self._clock = clock or _steady_clock()
        self._has_moved = has_moved
        self._pins: dict[bytes, Kept] = {}  # by id
        self._aliases: dict[bytes, tuple[bytes, int]] = {}  # the pin's id, and when the alias itself expires
        self._buckets: dict[int, dict[bytes, None]] = {}  # keys by when they expire
        self._counts: dict[tuple[str, str, int], int] = {}
        self._turns = NodeTurns(nodes)
        self._bells: set[PinBell] = set()

    def __repr__(self) -> str:
        return f"<MemoryPins {len(self._pins)} pins, {len(self._aliases)} aliases>"

    async def resolve(self, wants: Sequence[Want]) -> list[Resolved | None]:
        """See `PinStore.resolve`."""
        now = self._swept()
        return [self._resolve(want, now) for want in wants]

    async def learn(self, learned: Sequence[Learned]) -> list[Resolved]:
        """See `PinStore.learn`."""
        now = self._swept()
        return [self._learn(one, now) for one in learned]

    async def refresh(self, keys: Sequence[bytes]) -> list[bytes]:
        """See `PinStore.refresh`."""
        now, gone = self._swept(), []
        for key in keys:
            if (kept := self._kept(key)) is None:
                gone.append(key)
            else:
                self._use(kept, now)
                if key != kept.pin.id:
                    self._lead(key, kept)
        return gone

    async def end(self, keys: Sequence[bytes]) -> list[bool]:
        """See `PinStore.end`."""
        self._swept()
        ended = []
        for key in keys:
            if (kept := self._kept(key)) is not None:
                self._forget(kept)
                self._ring(kept.pin.id)
            ended.append(kept is not None)
        return ended

    async def place(self, pin: Pin, upstream: str) -> Pin | None:
        """See `PinStore.place`."""
        self._swept()
        if (kept := self._kept(pin.id)) is None:
            return None
        standing = kept.pin
        if (standing.color, standing.release, standing.upstream) == (pin.color, pin.release, pin.upstream):
            kept.pin = replace(standing, upstream=upstream)
            self._ring(standing.id)
        return kept.pin

    async def move(self, key: bytes) -> Pin | None:
        """See `PinStore.move`."""
        self._swept()
        state = self._standing()
        if (kept := self._kept(key)) is None:
            return None
        order = state.orders.get(kept.pin.id)
        if order is not None and order.moves(kept.pin) and self._turns.may_move(kept.pin.id, "", 0, order.revision):
            self._moved(kept, *order.goal, state.pointer)
        return kept.pin

    async def migrate(self, node: str, turns: Sequence[Turn]) -> list[Pin | None]:
        """See `PinStore.migrate`."""
        self._swept()
        state = self._standing()
        return [self._migrate(turn, node, state) for turn in turns]

    async def applied(
        self, node: str, epoch: int, revision: int, turns: Sequence[Turn], *, anew: bool = True, serial: int = 0
    ) -> bool:
        """See `PinStore.applied`."""
        return self._turns.applied(node, epoch, revision, turns, anew, serial)

    async def idle(self, node: str, turns: Sequence[Turn]) -> None:
        """See `PinStore.idle`."""
        self._turns.idle(node, turns)

    async def find(self, key: bytes) -> Pin | None:
        """See `PinStore.find`."""
        self._swept()
        kept = self._kept(key)
        return kept.pin if kept is not None else None

    async def look(self, key: bytes) -> tuple[Pin, float] | None:
        """See `PinStore.look`."""
        self._swept()
        kept = self._kept(key)
        return (kept.pin, float(kept.expires)) if kept is not None else None

    async def counts(self) -> Mapping[tuple[str, str], PinCount]:
        """See `PinStore.counts`."""
        return self.live()

    def live(self) -> Mapping[tuple[str, str], PinCount]:
        """The counts, at once."""
        self._swept()
        found: dict[tuple[str, str], PinCount] = {}
        for (color, release, expires), count in self._counts.items():
            live, last = found.get((color, release), (0, 0.0))
            found[color, release] = PinCount(live + count, max(last, float(expires)))
        return found

    async def page(self, cursor: str, limit: int, color: str | None = None) -> tuple[list[tuple[Pin, float]], str]:
        """See `PinStore.page`. The cursor is the last id met."""
        self._swept()
        try:
            after = bytes.fromhex(cursor)
        except ValueError:
            raise BadInput(f"cursor: {cursor[:64]!r} is none that a page has given") from None
        wanted = (key for key, kept in self._pins.items() if key > after and color in (None, kept.pin.color))
        ids = heapq.nsmallest(max(1, limit), wanted)
        found = [(kept.pin, float(kept.expires)) for kept in map(self._pins.__getitem__, ids)]
        return found, ids[-1].hex() if len(ids) >= max(1, limit) else ""

    async def watch(self) -> AsyncIterator[tuple[bytes, ...]]:
        """See `PinStore.watch`."""
        bell = PinBell()
        self._bells.add(bell)
        try:
            yield ()
            while True:
                yield await bell.rung()
        finally:
            self._bells.discard(bell)

    def end_watches(self) -> None:
        """Another process has the pins from now on."""
        for bell in self._bells:
            bell.end()

    def _resolve(self, want: Want, now: float) -> Resolved | None:
        found: Kept | None = None
        conflicts, free = 0, []
        for key in want.keys:
            if (kept := self._kept(key)) is None:
                free.append(key)
            elif found is None:
                found = kept
            elif kept is not found:
                conflicts += 1
        created = found is None
        if found is None:
            if (new := self._new(want, now)) is None:
                return None
            found = self._create(new, now)
        else:
            if (found.pin.ttl, found.pin.max_age) != (want.ttl, want.max_age):  # the configuration has changed
                found.pin = replace(found.pin, ttl=want.ttl, max_age=want.max_age)
            self._use(found, now)
        for key in want.keys:
            if key != found.pin.id and self._kept(key) in (None, found):
                self._lead(key, found)
        return Resolved(found.pin, created, len([key for key in free if key != found.pin.id]), conflicts, now)

    def _new(self, want: Want, now: float) -> Pin | None:
        """The pin that a session without one gets: the one that a node has known, else one on the pointer. None: none
        at the moment, as a pause holds new sessions."""
        if want.was is not None and expiry(want.was.created, want.ttl, want.max_age, now) > now:
            # Under one of its keys, so that whoever asked finds it; the old id may be among the others.
            pin_id = want.was.id if want.was.id in want.keys else want.keys[0]
            return replace(want.was, id=pin_id, ttl=want.ttl, max_age=want.max_age)
        state = self._standing()
        if state.pause is not None:
            return None
        color, label = place_of(want, state)
        upstream = want.offer[1] if want.offer[0] == color else ""
        return pin_of(want, want.keys[0], color, label, upstream, state.pointer.epoch, now)

    def _learn(self, one: Learned, now: float) -> Resolved:
        """Where the exchange had no pin, one of the same place that a key already leads to is as good."""
        found = [(key, self._kept(key)) for key in one.keys]
        target = self._kept(one.pin_id) if one.pin_id is not None else None
        if target is None:
            place = (one.color, one.release)
            same = (kept for _, kept in found if kept is not None and (kept.pin.color, kept.pin.release) == place)
            target = next(same, None)
        free = [key for key, kept in found if kept is None]
        created = target is None
        if target is None:
            pin_id = one.pin_id or next(iter(free), None)
            if pin_id is None:
                standing = self._kept(one.keys[0])
                assert standing is not None  # no key is free, so each leads to a pin
                return Resolved(standing.pin, False, 0, len(one.keys), now)
            target = self._create(pin_of(one, pin_id, one.color, one.release, one.upstream, one.epoch, now), now)
        else:
            self._use(target, now)
        conflicts = sum(1 for _, kept in found if kept is not None and kept is not target)
        for key, kept in found:
            if key != target.pin.id and kept in (None, target):
                self._lead(key, target)
        return Resolved(target.pin, created, len([key for key in free if key != target.pin.id]), conflicts, now)

    def _migrate(self, turn: Turn, node: str, state: FleetState) -> Pin | None:
        if (kept := self._kept(turn.pin_id)) is None:
            return None
        pin, pointer = kept.pin, state.pointer
        if pin.id != turn.pin_id:
            return pin
        goal, revision = (pointer.active, self._label(pointer.active)), 0
        if (order := state.orders.get(pin.id)) is not None and order.moves(pin):
            goal, revision = order.goal, order.revision
        own = state.releases.get(pin.color)
        if own is None or own.label != pin.release:
            self._moved(kept, *goal, pointer)
        elif not revision and (pin.epoch >= pointer.epoch or pin.epoch > turn.epoch):
            pass
        elif goal == (pin.color, pin.release):
            kept.pin = replace(pin, epoch=pointer.epoch)  # it stays, and is asked about no more before the next flip
        elif self._turns.may_move(pin.id, node, 0 if revision else pointer.epoch, revision):
            self._moved(kept, *goal, pointer)
        else:
            self._turns.begin(node, turn)
        return kept.pin

    def _standing(self) -> FleetState:
        if (state := self._state()) is None:
            raise StoreUnavailable("store: it holds no pointer, so no session can be pinned")
        return state

    def _label(self, color: str) -> str:
        """Of what stands on a color; "" where nothing does."""
        release = self._standing().releases.get(color)
        return release.label if release is not None else ""

    def _kept(self, key: bytes) -> Kept | None:
        """The pin that the key leads to; what has expired has been swept before."""
        if (kept := self._pins.get(key)) is not None:
            return kept
        alias = self._aliases.get(key)
        return self._pins.get(alias[0]) if alias is not None else None

    def _create(self, pin: Pin, now: float) -> Kept:
        while len(self._pins) + len(self._aliases) >= _MAX_KEYS:
            self._sweep(min(self._buckets))
        if (alias := self._aliases.pop(pin.id, None)) is not None:  # of a pin that has ended
            self._unbucket(pin.id, alias[1])
        return self._hold(Kept(pin, expiry(pin.created, pin.ttl, pin.max_age, now)))

    def _hold(self, kept: Kept) -> Kept:
        pin = kept.pin
        self._pins[pin.id] = kept
        self._buckets.setdefault(kept.expires, {})[pin.id] = None
        self._count(kept, 1)
        return kept

    def _use(self, kept: Kept, now: float) -> None:
        """Prolong the pin, and with it the aliases that live as long as it does."""
        expires = expiry(kept.pin.created, kept.pin.ttl, kept.pin.max_age, now)
        if expires == kept.expires:
            return
        self._count(kept, -1)
        self._rebucket(kept.pin.id, kept.expires, expires)
        kept.expires = expires
        self._count(kept, 1)
        for key in kept.aliases:
            self._rebucket(key, self._aliases[key][1], expires)
            self._aliases[key] = (kept.pin.id, expires)

    def _lead(self, key: bytes, kept: Kept) -> None:
        """The key leads to this pin, as the newest of its aliases."""
        if key in self._aliases:
            self._rebucket(key, self._aliases[key][1], kept.expires)
        else:
            self._buckets.setdefault(kept.expires, {})[key] = None
        self._aliases[key] = (kept.pin.id, kept.expires)
        if key not in kept.aliases:
            kept.aliases = [*kept.aliases, key][-KEPT_ALIASES:]

    def _moved(self, kept: Kept, color: str, release: str, pointer: Pointer) -> None:
        self._count(kept, -1)
        pin, epoch = kept.pin, pointer.epoch
        was_left = pin.epoch < epoch and (pin.color, pin.release) != (pointer.active, self._label(pointer.active))
        if was_left and self._has_moved is not None:
            self._has_moved(epoch)
        kept.pin = replace(pin, color=color, release=release, upstream="", epoch=epoch, moved=pin.moved + 1)
        self._count(kept, 1)
        self._ring(pin.id)

    def _forget(self, kept: Kept) -> None:
        if self._pins.pop(kept.pin.id, None) is None:
            return
        self._count(kept, -1)
        self._unbucket(kept.pin.id, kept.expires)
        # An older alias may outlive its pin: it leads nowhere then, and is swept by its own expiry.
        for key in kept.aliases:
            self._unbucket(key, self._aliases.pop(key)[1])

    def _count(self, kept: Kept, by: int) -> None:
        field = (kept.pin.color, kept.pin.release, kept.expires)
        self._counts[field] = self._counts.get(field, 0) + by
        if self._counts[field] == 0:
            del self._counts[field]

    def _rebucket(self, key: bytes, old: int, new: int) -> None:
        if old != new:
            self._unbucket(key, old)
            self._buckets.setdefault(new, {})[key] = None

    def _unbucket(self, key: bytes, expires: int) -> None:
        bucket = self._buckets[expires]
        del bucket[key]
        if not bucket:
            del self._buckets[expires]

    def _swept(self) -> float:
        """Drop what has expired; the time it is."""
        now = self._clock()
        for expires in [expires for expires in self._buckets if expires <= now]:
            self._sweep(expires)
        return now

    def _sweep(self, expires: int) -> None:
        for key in [*self._buckets.get(expires, ())]:
            if (kept := self._pins.get(key)) is not None:
                self._forget(kept)
            elif key in self._aliases:
                del self._aliases[key]
                self._unbucket(key, expires)

    def _ring(self, pin_id: bytes) -> None:
        for bell in self._bells:
            bell.ring(pin_id)


def _steady_clock() -> Callable[[], float]:
    """Unix seconds that never jump: a clock that is set must not end every session."""
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()
