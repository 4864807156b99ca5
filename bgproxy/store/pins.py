"""This node's memory of its sessions' pins: a known session costs no round trip, a new one a single one.

Decides when the store has to be asked. Promises:

1. Misses are joined: one session asked for many times is one question, and what is asked in one turn of the loop goes
   in one round trip. What the store does not hold is not remembered.
2. Use is told to the store in batches, once a third of the time to live has passed.
3. What others change is dropped when their bell rings. After the line to the bell was broken, everything is asked for
   again at its next use. What the store has lost meanwhile is told to it again.
4. While the store is away `pin_outage` answers; what it decided is told to the store when that is back, and the first
   writer wins.
5. Memory is bounded by `PinOptions`. A callback is called exactly once, maybe before the call that names it returns.

Must not know what a request is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.pin import Pin
from bgproxy.store.batch import Batch
from bgproxy.store.pin_bell import Overheard, follow
from bgproxy.store.pin_counts import Counted, PinCounts
from bgproxy.store.pin_ends import Ended, Ends
from bgproxy.store.pin_outage import Known, Outage, PinOptions
from bgproxy.store.pin_table import Held, PinTable
from bgproxy.store.pin_turns import Turns
from bgproxy.store.pin_uses import Uses
from bgproxy.store.pinning import PAUSED, Learned, NodePins, Resolved, Want

log = logging.getLogger(__name__)

Done = Callable[[Pin | None, str], None]
"""Called with a pin and found, created, kept, journalled, learned, moved, newer or stays; or with None and why not."""


class _Asked(NamedTuple):
    want: Want
    dones: list[Done]


class PinCache:
    """See this module's promises. All but `start`, `stop` and `tell` are quick calls of the event loop."""

    def __init__(
        self,
        pins: NodePins,
        known: Known,
        node: str,
        options: PinOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        strayed: Callable[[], None] = lambda: None,
    ) -> None:
        """`node`: this node's id, as it reports itself to the store.

        `wall`: unix seconds, for pins that are made while the store, whose clock counts, is away. `strayed` is called
        for each session that was found on another release than this node had it on, though nobody has moved it.
        """
        self.hits = self.misses = self.aliases = self.conflicts = self.refreshed = self.gone = 0
        self.counts = PinCounts()
        options = options or PinOptions()
        self._pins = pins = Counted(pins, self.counts, clock)
        self._known = known
        self._interval = options.refresh_interval
        self._clock = clock
        self._sleep = sleep
        self._strayed = strayed
        self._table = PinTable(options.cache_size)
        self._by_key = self._table.by_key
        self._used = self._table.used
        self._outage = Outage(self._table, known, options, clock, wall)
        self._journal = self._outage.journal
        self._uses = Uses(pins, self._by_key, clock)
        self._due = self._uses.due
        self._turns = Turns(pins, node, clock)
        self._line = 0  # which subscription to the bell stands
        self._asked: dict[tuple[bytes, ...], _Asked] = {}
        self._learning: dict[bytes, list[tuple[Want, Done]]] = {}  # keys on their way to the store, and who waits
        self._overheard = Overheard()
        self._questions = Batch(self._ask, "pins.resolve")
        self._lessons = Batch(self._teach, "pins.learn")
        self._ends = Ends(pins, known)
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<PinCache {len(self._table)} keys, {len(self._journal)} to be written, {len(self._turns)} turns>"

    def __len__(self) -> int:
        return len(self._table)

    def counted(self) -> dict[str, Any]:
        """All that was counted, and under `gauges` what is held now; JSON-able, made to be added up."""
        return {
            **self.counts.as_dict(),
            "hits": self.hits,
            "misses": self.misses,
            "aliases": self.aliases,
            "conflicts": self.conflicts,
            "refreshed": self.refreshed,
            "gone": self.gone,
            "journalled": self._outage.journalled,
            "refused": self._outage.refused,
            "dropped": self._journal.dropped,
            "gauges": {"keys": len(self._table), "waiting": len(self._journal), "turns": len(self._turns)},
        }

    def get(self, keys: Sequence[bytes]) -> Pin | None:
        """The pin that the first key, the most specific, leads to, if that is known for certain; else `resolve`."""
        held = self._by_key.get(keys[0])
        if held is None or held.line != self._line:
            return None
        now = self._clock()
        if now >= held.due:
            if now >= held.until:
                return None
            self._due[keys[0]] = None
        if len(keys) > 1:
            self._attach(held.pin, keys)
        self._used(held.pin.id)
        self.hits += 1
        return held.pin

    def resolve(self, want: Want, done: Done) -> None:
        """The pin of a session that `get` does not know."""
        self.misses += 1
        self._question(want, done)

    def learn(self, learned: Learned, done: Done) -> None:
        """An agent has minted keys; `done` once they count everywhere, or once they are written down.

        Who asks for one of them meanwhile waits too. All of them may belong to other sessions: then it is one of their
        pins that is told, or None (taken).
        """
        self.counts.of(learned.preset, learned.color).learned += len(learned.keys)
        if not self._known.connected:
            self._answer_learned(learned, None, done)
            return
        for key in learned.keys:
            self._learning.setdefault(key, [])
        self._lessons.add((learned, done))

    def migrate(self, pin: Pin, done: Done) -> None:
        """A turn of a session that is to move is about to begin: told the pin, moved, or as it stays for this turn.

        The turn counts as under way from now on: call `idle` when it and all others of that session are over.
        """
        if not self._known.connected:
            self._turns.hold(pin.id)
            self._not_migrated(pin, done)
        else:  # compiled functions within functions would be cycles
            self._turns.migrate(pin, partial(self._migrated, pin, done), partial(self._not_migrated, pin, done))

    def applied(self, epoch: int, revision: int, busy: Iterable[bytes]) -> None:
        """This node routes by that state now, and on these pins' sessions turns are under way that began before."""
        self._turns.applied(epoch, revision, busy)

    def hold(self, pin_id: bytes) -> None:
        """A turn is under way of a session whose pin is from before the state that was applied."""
        self._turns.hold(pin_id)

    def drop(self, pin_ids: Iterable[bytes]) -> None:
        """Where these sessions live is asked for again at their next use."""
        for pin_id in pin_ids:
            self._table.drop(pin_id)
            self._overheard.rang(pin_id)

    def idle(self, pin_id: bytes) -> None:
        """No turn of that session is under way on this node any more. Costs nothing where nobody waits for that."""
        self._turns.idle(pin_id)

    def end(self, pin_id: bytes, done: Ended | None = None) -> None:
        """The session is over. With the store away that is told to it later."""
        if (held := self._table.drop(pin_id)) is not None:
            self.counts.of(held.pin.preset, held.pin.color).ended += 1
        self._journal.forget(pin_id)
        self._ends.add(pin_id, done)

    def touch(self, pin_id: bytes) -> None:
        """The session is in use, as by an open stream; may be called as often as one likes."""
        if (held := self._by_key.get(pin_id)) is None or self._clock() >= held.due:
            self._due[pin_id] = None

    def place(self, pin_id: bytes, upstream: str) -> None:
        """This upstream serves the session from now on, unless another node has placed it elsewhere."""
        if (held := self._by_key.get(pin_id)) is None or held.pin.upstream == upstream:
            return
        before, held.pin = held.pin, replace(held.pin, upstream=upstream)
        if held.kept:
            self._outage.keep(held, (pin_id,))
        tasks.spawn(self._place(before, upstream), "pins.place")

    def start(self) -> None:
        """Listen to the bell, and tell the store what is due, in the background."""
        if not self._tasks:
            bell = follow(self._pins, self._line_is_new, self.drop, self._sleep)
            self._tasks = [tasks.spawn(bell, "pins.bell"), tasks.spawn(self._tell_for_ever(), "pins.tell")]

    async def stop(self) -> None:
        """Tell the store what can still be told, and stop."""
        stopping, self._tasks = self._tasks, []
        await tasks.stop(*stopping)
        await self.tell()

    async def tell(self) -> bool:
        """Write the journal and tell what is in use, now; whether the store took it. Called in the background."""
        if not self._known.connected:
            self._uses.prune()
            return False
        try:
            await self._ends.tell()
            with self._overheard.meanwhile() as rung:
                await self._journal.write(self._pins, partial(self._written, self._clock(), self._line, rung))
            await self._turns.tell()
            self.refreshed += await self._uses.tell(self._lost)
        except StoreUnavailable:
            return False  # the mirror tells of a store that is away
        return True

    def _question(self, want: Want, *dones: Done) -> None:
        if not self._known.connected:
            self._without_store(want, dones)
            return
        for key in want.keys:
            if key in self._learning:  # where it belongs is being told to the store just now
                self._learning[key].extend((want, done) for done in dones)
                return
        if (asked := self._asked.get(want.keys)) is not None:
            asked.dones.extend(dones)
        else:
            self._asked[want.keys] = _Asked(self._with_what_is_known(want), [*dones])
            self._questions.add(want.keys)

    def _with_what_is_known(self, want: Want) -> Want:
        """A pin that this node has good reason to think alive is written again, should the store have lost it."""
        now = self._clock()
        for key in want.keys if want.was is None else ():
            held = self._by_key.get(key)
            if held is not None and (held.kept or now < held.until):
                return want._replace(was=held.pin)
        return want

    async def _ask(self, questions: list[tuple[bytes, ...]]) -> None:
        line, began, answers, rung = self._line, self._clock(), list[Resolved | None](), set[bytes]()
        try:
            with self._overheard.meanwhile() as rung:
                await self._ends.tell()
                answers = await self._pins.resolve([self._asked[keys].want for keys in questions])
        except StoreUnavailable:
            pass  # the mirror tells of a store that is away
        finally:
            for keys, found in zip_longest(questions, answers):
                want, dones = self._asked.pop(keys)
                if found is None:
                    _call(dones, None, PAUSED) if answers else self._without_store(want, dones)
                    continue
                self._remember(want, found, began, line, rung)
                if found.pin.id in rung:  # it changed while the answer was on its way
                    self._question(want, *dones)
                else:
                    _call(dones, found.pin, "created" if found.created else "found")

    def _remember(self, entry: Want | Learned, found: Resolved, began: float, line: int, rung: set[bytes]) -> None:
        """Take over what the store has answered to a question that was put at `began`."""
        pin, keys = found.pin, entry.keys
        if found.created:
            self.counts.of(pin.preset, pin.color).pinned += 1
        self.aliases += found.aliases
        self.conflicts += found.conflicts
        if pin.id in rung:  # it changed while the answer was on its way
            return
        if found.conflicts:  # which of them belong to others is not told; a session's first key is never among them
            keys = keys[:1] if isinstance(entry, Want) else ()
        dies = began + pin.created + pin.max_age - found.now if pin.max_age else float("inf")
        self._table.put(pin, keys).confirmed(pin, began, line, dies)

    def _attach(self, pin: Pin, keys: Sequence[bytes]) -> None:
        """Let further keys lead to a pin that the first one leads to already; nobody waits for it."""
        if any(key not in self._by_key for key in keys):
            want = Want(tuple(keys), pin.route, pin.preset, pin.ttl, pin.max_age)
            if want.keys not in self._asked and not any(key in self._learning for key in keys):
                self._question(want)

    def _without_store(self, want: Want, dones: Sequence[Done]) -> None:
        pin, why = self._outage.resolve(want, self._line)
        if pin is not None and why == "journalled":
            self.counts.of(pin.preset, pin.color).pinned += 1
        _call(dones, pin, why)

    async def _teach(self, lessons: list[tuple[Learned, Done]]) -> None:
        line, began, answers, rung = self._line, self._clock(), list[Resolved](), set[bytes]()
        try:
            with self._overheard.meanwhile() as rung:
                answers = await self._pins.learn([learned for learned, _ in lessons])
        except StoreUnavailable:
            pass  # the mirror tells of a store that is away
        finally:
            for (learned, done), found in zip_longest(lessons, answers):
                if found is not None:
                    self._remember(learned, found, began, line, rung)
                self._answer_learned(learned, found, done)
            for key in [key for learned, _ in lessons for key in learned.keys]:
                for want, asking in self._learning.pop(key, ()):
                    self._question(want, asking)

    def _answer_learned(self, learned: Learned, found: Resolved | None, done: Done) -> None:
        if found is not None:
            _call([done], found.pin, "learned")
        elif (pin := self._outage.learn(learned, self._line)) is not None:
            _call([done], pin, "journalled")
        else:
            _call([done], None, "taken")

    def _not_migrated(self, pin: Pin, done: Done) -> None:
        _call([done], *self._outage.migrate(pin, self._line))

    def _migrated(self, asked: Pin, done: Done, standing: Pin | None) -> None:
        if standing is None:  # it has expired, or the store has lost it: a new one is made where it was to go
            self._table.drop(asked.id)
            self._question(Want((asked.id,), asked.route, asked.preset, asked.ttl, asked.max_age), done)
            return
        self._stands(asked.id, standing)
        is_it = standing.id == asked.id  # else its key leads to another session by now, of which no turn has begun
        why = "newer" if not is_it or standing.epoch > asked.epoch else "stays"
        if is_it and (standing.color, standing.release) != (asked.color, asked.release):
            self.counts.of(standing.preset, standing.color).moved += 1
            why = "moved"
        _call([done], standing, why)

    def _stands(self, key: bytes, standing: Pin) -> None:
        """What the store says of a pin that is held. Where its key leads to another by now, that is asked for again."""
        if (held := self._by_key.get(key)) is not None and held.pin.id == standing.id:
            held.pin = standing
        elif held is not None:
            self._table.drop(held.pin.id)

    def _written(self, began: float, line: int, rung: set[bytes], entry: Want | Learned, found: Resolved) -> None:
        """The journal has reached the store; where that holds something else, it was first and wins."""
        if isinstance(entry, Want) and entry.was is not None:
            was, pin = entry.was, found.pin
            if (was.color, was.release) != (pin.color, pin.release):
                self.conflicts += 1
                if pin.moved <= was.moved:
                    self._strayed()
        counted = isinstance(entry, Want)  # when it was written down
        self._remember(entry, found._replace(created=found.created and not counted), began, line, rung)
        if found.pin.id in rung:  # it has changed since
            self.drop([held.pin.id for key in entry.keys if (held := self._by_key.get(key)) is not None])

    def _lost(self, key: bytes, held: Held) -> None:
        """The store knows nothing of a pin that is in use here, and nobody has ended it: it is written again."""
        self.gone += 1
        pin = held.pin
        if self._clock() < held.dies:
            keys = (pin.id,) if key == pin.id else (pin.id, key)
            self._question(Want(keys, pin.route, pin.preset, pin.ttl, pin.max_age, was=pin))
        else:
            self._table.drop(pin.id)

    def _line_is_new(self) -> None:
        """What rang while the line was broken was not heard: everything is asked for again at its next use."""
        self._line += 1
        self._turns.lost()

    async def _place(self, pin: Pin, upstream: str) -> None:
        with suppress(StoreUnavailable):
            standing = await self._pins.place(pin, upstream)
            if standing is not None:
                self._stands(pin.id, standing)

    async def _tell_for_ever(self) -> None:
        while True:
            await self._sleep(self._interval * random.uniform(0.75, 1.0))
            try:
                await self.tell()
            except Exception:
                log.exception("pins could not be told to the store")


def _call(dones: Sequence[Done], pin: Pin | None, why: str) -> None:
    for done in dones:
        try:
            done(pin, why)
        except Exception:
            log.exception("what waited for a pin failed")
