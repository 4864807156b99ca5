"""Pins of a single process whose changes are noted in a log, so that they outlive it.

Knows which pins a verb may have changed, and what there is to write of one. Must not know how and when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Pin
from bgproxy.store.memory_pins import Kept, MemoryPins
from bgproxy.store.pin_record import Read, Standing, alias_line, pin_line
from bgproxy.store.pinning import Learned, Resolved, Turn, Want


class LoggedPins(MemoryPins):
    """See `PinStore`."""

    def __init__(
        self,
        state: Callable[[], FleetState | None],
        nodes: Callable[[], Iterable[str]],
        clock: Callable[[], float] | None = None,
        has_moved: Callable[[int], None] | None = None,
        *,
        changed: Callable[[Iterable[bytes]], None],
    ) -> None:
        """As `MemoryPins`; `changed` is told the keys of what there is to write."""
        super().__init__(state, nodes, clock, has_moved)
        self._changed = changed

    async def resolve(self, wants: Sequence[Want]) -> list[Resolved | None]:
        """See `PinStore.resolve`."""
        found = await super().resolve(wants)
        self._changed([one.pin.id for one in found if one is not None])
        return found

    async def learn(self, learned: Sequence[Learned]) -> list[Resolved]:
        """See `PinStore.learn`."""
        found = await super().learn(learned)
        self._changed([one.pin.id for one in found])
        return found

    async def refresh(self, keys: Sequence[bytes]) -> list[bytes]:
        """See `PinStore.refresh`."""
        gone = await super().refresh(keys)
        self._changed(self._ids(keys))
        return gone

    async def end(self, keys: Sequence[bytes]) -> list[bool]:
        """See `PinStore.end`."""
        ids = self._ids(keys)
        ended = await super().end(keys)
        self._changed(ids)
        return ended

    async def place(self, pin: Pin, upstream: str) -> Pin | None:
        """See `PinStore.place`."""
        standing = await super().place(pin, upstream)
        self._changed([pin.id])
        return standing

    async def migrate(self, node: str, turns: Sequence[Turn]) -> list[Pin | None]:
        """See `PinStore.migrate`."""
        standing = await super().migrate(node, turns)
        self._changed([pin.id for pin in standing if pin is not None])
        return standing

    async def move(self, key: bytes) -> Pin | None:
        """See `PinStore.move`."""
        standing = await super().move(key)
        self._changed([standing.id] if standing is not None else [])
        return standing

    def changes(self, keys: Iterable[bytes]) -> bytes:
        """What there is to write of these; aliases last, so that they are read as those of the pins before them."""
        found = [*keys]
        pins = [self._line(key) for key in found if key not in self._aliases]
        return b"".join([*pins, *[self._alias_line(key) for key in found if key in self._aliases]])

    def size(self) -> int:
        """How many lines all of it has, at most."""
        return len(self._pins) + len(self._aliases)

    def lines(self) -> Iterator[bytes]:
        """All of it, each line as it is when it is asked for; it may be empty. What is over by then is left out."""
        for pin_id in [*self._pins]:
            yield self._line(pin_id) if pin_id in self._pins else b""
        for key in [*self._aliases]:
            yield self._alias_line(key) if key in self._aliases else b""

    def restore(self, read: Read) -> None:
        """Take over what an earlier process has left, as far as it lives still and is not known better."""
        now = self._swept()
        for pin, expires, aliases in read.pins.values():
            if expires > now and pin.id not in self._pins:
                kept = self._hold(Kept(pin, expires))
                for key in aliases:
                    self._lead(key, kept)
        for key, (pin_id, expires) in read.aliases.items():
            if expires > now and pin_id in self._pins and self._kept(key) is None:
                self._aliases[key] = pin_id, expires
                self._buckets.setdefault(expires, {})[key] = None

    def _lead(self, key: bytes, kept: Kept) -> None:
        before = kept.aliases
        super()._lead(key, kept)
        self._changed([alias for alias in before if alias not in kept.aliases])

    def _line(self, pin_id: bytes) -> bytes:
        kept = self._pins.get(pin_id)
        return pin_line(pin_id, Standing(kept.pin, kept.expires, tuple(kept.aliases)) if kept is not None else None)

    def _alias_line(self, key: bytes) -> bytes:
        """Nothing for one that its pin's line has, or that leads nowhere."""
        pin_id, expires = self._aliases[key]
        kept = self._pins.get(pin_id)
        return alias_line(key, pin_id, expires) if kept is not None and key not in kept.aliases else b""

    def _ids(self, keys: Sequence[bytes]) -> list[bytes]:
        """The ids of the pins that these keys lead to."""
        return [kept.pin.id for key in keys if (kept := self._kept(key)) is not None]
