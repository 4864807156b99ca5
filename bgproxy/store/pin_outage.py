"""What holds for sessions while the store is away: known pins, then the last known active color, or a refusal.

Decides that from what this node remembers, and writes each decision down for the store. Must not know when the store
is away, nor when it is back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Pin
from bgproxy.store.pin_journal import Journal
from bgproxy.store.pin_table import Held, PinTable
from bgproxy.store.pinning import FENCED, Learned, Want, pin_of, place_of


@dataclass(frozen=True, slots=True)
class PinOptions:
    """How much a node remembers, and what it does without the store. Times in seconds."""

    cache_size: int = 100_000  # keys that a node remembers
    journal_size: int = 10_000  # pins made, kept or learned while the store is away
    refresh_interval: float = 0.5  # how often use is told to the store
    on_store_outage: Literal["admit", "refuse"] = "admit"


class Known(Protocol):
    """What the mirror knows: the state that this process routes by, and whether the store is there."""

    @property
    def state(self) -> FleetState | None:
        """None until the first one has come in."""

    @property
    def connected(self) -> bool:
        """The last reading went well."""

    @property
    def fenced(self) -> bool:
        """Nothing new may be admitted by what is known."""

    @property
    def held_early(self) -> bool:
        """A bell has told of a state by which new admissions wait, and it has not been read yet."""


class Outage:
    """Answers in the store's stead. `journal` holds what is to be told to it; `refused` counts."""

    def __init__(
        self,
        table: PinTable,
        known: Known,
        options: PinOptions,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.journal = Journal(options.journal_size)
        self.journalled = self.refused = 0
        self._table = table
        self._by_key = table.by_key
        self._known = known
        self._is_admitting = options.on_store_outage == "admit"
        self._clock = clock
        self._wall = wall

    def resolve(self, want: Want, line: int) -> tuple[Pin | None, str]:
        """A known pin, however old that knowledge is; else a new one. With the reason, as callbacks are told it."""
        now = self._clock()
        for key in want.keys:
            held = self._by_key.get(key)
            if held is not None and now < held.dies:
                held = self._table.put(held.pin, [key for key in want.keys if key not in self._by_key])
                held.prolonged(now)
                held.line = line
                self.keep(held, want.keys)
                return held.pin, "kept"
        state = self._known.state
        # While a flip is being made the store may have moved the pointer already: a new session cannot be placed.
        if state is None or state.is_held or self._known.held_early:
            self.refused += 1
            return None, "refused"
        if why := self._why_not():
            self.refused += 1
            return None, why
        color, label = place_of(want, state)
        upstream = want.offer[1] if want.offer[0] == color else ""
        pin = pin_of(want, want.keys[0], color, label, upstream, state.pointer.epoch, self._wall())
        self.keep(self._hold(pin, want.keys, line), want.keys)
        return pin, "journalled"

    def learn(self, learned: Learned, line: int) -> Pin | None:
        """Lead the keys that are free on this node to the exchange's pin; None: none was free."""
        free = tuple(key for key in learned.keys if key not in self._by_key)
        held = self._by_key.get(learned.pin_id) if learned.pin_id is not None else None
        if held is None:
            place = (learned.color, learned.release)
            others = (self._by_key[key] for key in learned.keys if key in self._by_key)
            held = next((other for other in others if (other.pin.color, other.pin.release) == place), None)
        if held is not None:
            self._table.put(held.pin, free)
        elif learned.pin_id is None and not free:
            return None
        else:
            place_and_time = learned.color, learned.release, learned.upstream, learned.epoch, self._wall()
            held = self._hold(pin_of(learned, learned.pin_id or free[0], *place_and_time), free, line)
        self.journal.add(learned)
        self.journalled += 1
        return held.pin

    def migrate(self, pin: Pin, line: int) -> tuple[Pin | None, str]:
        """Without the store no session moves, but from a release that is not there any more.

        The store may have moved it, though its answer was lost, or may do so for another node, which knows nothing of
        this turn: so one that stays can run on two releases at once, and is refused where new ones are.
        """
        state = self._known.state
        if state is None:
            return pin, "kept"
        own, active = state.releases.get(pin.color), state.active
        is_there = own is not None and own.label == pin.release
        if is_there and self._is_admitting:
            return pin, "kept"
        if why := self._why_not():
            self.refused += 1
            return None, why
        color, label = state.pointer.active, active.label if active is not None else ""
        epoch = state.pointer.epoch
        moved = replace(pin, color=color, release=label, upstream="", epoch=epoch, moved=pin.moved + 1)
        self._hold(moved, (), line)  # not written down: the store moves it by the same rule when it is asked again
        return moved, "moved"

    def _why_not(self) -> str:
        """Why nothing is sent to the last known active color, or ""."""
        if not self._is_admitting:
            return "refused"
        return FENCED if self._known.fenced else ""

    def keep(self, held: Held, keys: tuple[bytes, ...]) -> None:
        """Tell the store of this pin when it is back: it is to be written again if it was lost."""
        held.kept = True
        pin = held.pin
        self.journal.add(Want(keys, pin.route, pin.preset, pin.ttl, pin.max_age, was=pin))
        self.journalled += 1

    def _hold(self, pin: Pin, keys: tuple[bytes, ...], line: int) -> Held:
        """Remember a pin that the store has not confirmed."""
        held, now = self._table.put(pin, keys), self._clock()
        held.confirmed(pin, now, line, now + pin.max_age if pin.max_age else float("inf"))
        held.kept = True
        return held
