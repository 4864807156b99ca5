"""The pins that this node remembers: a bounded table from keys to pins, the longest unused given up first.

Decides what is forgotten. Promises that its size is bounded in keys and that all keys of a pin are dropped together.
Must not know the store, nor the time: moments come in, in seconds of the node's own clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from bgproxy.rules.pin import Pin

_MOST_ALIASES = 32  # keys of one pin that are remembered besides its id: a chain of answers may be endless


class Held:
    """A pin as this node knows it.

    `until`: so long the store has it for certain; `due`: from then on its use is told to the store; `dies`: when it
    reaches its age, whatever is done. `line`: the subscription under which it was learned, a later one knows more.
    `kept`: it was used or made while the store was away, which has yet to be told.
    """

    __slots__ = ("aliases", "dies", "due", "kept", "line", "pin", "until")

    def __init__(self, pin: Pin) -> None:
        self.pin = pin
        self.aliases: tuple[bytes, ...] = ()
        self.until = 0.0
        self.due = 0.0
        self.dies = float("inf")
        self.line = 0
        self.kept = False

    def confirmed(self, pin: Pin, now: float, line: int, dies: float) -> None:
        """The store has said so, asked at `now`."""
        self.pin = pin
        self.dies = dies
        self.line = line
        self.kept = False
        self.prolonged(now)

    def prolonged(self, now: float) -> None:
        """Used at `now`, and the store knows; or the store is away, and that has to do."""
        self.until = min(now + self.pin.ttl, self.dies)
        self.due = min(now + self.pin.ttl / 3, self.until)


class PinTable:
    """Keys to `Held`; `by_key` is for reading, on the hot path too."""

    def __init__(self, size: int) -> None:
        """`size`: how many keys are remembered at most, at least one."""
        self.by_key: dict[bytes, Held] = {}
        self._order: OrderedDict[bytes, Held] = OrderedDict()  # by pin id, the longest unused first
        self.used = self._order.move_to_end  # the pin of this id, which the table must hold, is in use
        self._size = max(1, size)

    def __len__(self) -> int:
        return len(self.by_key)

    def put(self, pin: Pin, keys: Iterable[bytes]) -> Held:
        """Remember the pin under its id and these keys, whatever they led to before."""
        held = self._order.get(pin.id)
        if held is None:
            self._loosen(pin.id)
            held = self._order[pin.id] = self.by_key[pin.id] = Held(pin)
        else:
            held.pin = pin
            self.used(pin.id)
        for key in keys:
            if self.by_key.get(key) is not held:
                self._loosen(key)
                self.by_key[key] = held
                held.aliases = (*held.aliases, key)
        while len(held.aliases) > _MOST_ALIASES:
            del self.by_key[held.aliases[0]]
            held.aliases = held.aliases[1:]
        while len(self.by_key) > self._size and len(self._order) > 1:
            self.drop(next(iter(self._order)))
        return held

    def drop(self, pin_id: bytes) -> Held | None:
        """Forget a pin with all its keys; what was held."""
        held = self._order.pop(pin_id, None)
        if held is not None:
            for key in (pin_id, *held.aliases):
                del self.by_key[key]
        return held

    def _loosen(self, key: bytes) -> None:
        """Take a key from the pin that it led to."""
        held = self.by_key.get(key)
        if held is None:
            return
        if held.pin.id == key:
            self.drop(key)
        else:
            del self.by_key[key]
            held.aliases = tuple(alias for alias in held.aliases if alias != key)
