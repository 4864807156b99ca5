"""The turns under way on this node that keep sessions from being moved, and the asking whether one may be moved now.

Promises that the store hears of an applied epoch and of all turns that may hold a session together, that an end is
never heard before its beginning, and that all is told until the store has taken it, and again from time to time, as the
store may have lost it. Until then no session moves. Must not know what a turn does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.pin import Pin
from bgproxy.store.batch import LARGEST, Batch
from bgproxy.store.pinning import NodePins, Turn

log = logging.getLogger(__name__)

_TELL_AGAIN = 5.0  # seconds

Answer = Callable[[Pin | None], None]
"""Called with the pin that stands, None where it is gone."""


class Turns:
    """One serial per turn, so that the end of an earlier one is not taken for the end of a later one."""

    def __init__(self, pins: NodePins, node: str, clock: Callable[[], float]) -> None:
        """`node`: this node's id, as it reports itself to the store."""
        self._pins = pins
        self._node = node
        self._clock = clock
        self._epoch = 0  # applied on this node; 0: none yet
        self._turns: dict[bytes, int] = {}  # serials of turns that may hold a session
        self._over: list[Turn] = []  # still to be told
        self._serial = 0
        self._told_at: float | None = None  # when the store last took all of it; None: there is news
        self._is_telling = False
        self._asking: dict[bytes, list[tuple[Answer, Callable[[], None]]]] = {}
        self._left: set[bytes] = set()  # of those that are asked for: nobody waits any more
        self._questions = Batch(self._ask, "pins.migrate")

    def __len__(self) -> int:
        return len(self._turns)

    def applied(self, epoch: int, busy: Iterable[bytes]) -> None:
        """This node routes by that epoch now; sessions with a turn under way were admitted by what stood before."""
        self._epoch = epoch
        for pin_id in busy:
            if pin_id not in self._turns:
                self._turns[pin_id] = self._next()
        self._told_at = None
        self._tell_soon()

    def idle(self, pin_id: bytes) -> None:
        """No turn of that session is under way or about to begin on this node any more."""
        if pin_id in self._asking:  # the answer may still make the store hold the session for it
            self._left.add(pin_id)
            return
        serial = self._turns.pop(pin_id, None)
        if serial is not None:
            self._over.append(Turn(pin_id, serial))
            self._tell_soon()

    def migrate(self, pin_id: bytes, answer: Answer, away: Callable[[], None]) -> None:
        """May a turn of this session begin on the active color? Either is called once; `away`: the store is."""
        self._left.discard(pin_id)
        if (asking := self._asking.get(pin_id)) is not None:
            asking.append((answer, away))
            return
        self._asking[pin_id] = [(answer, away)]
        # Known before it is asked: should all be told again meanwhile, this turn is told with it.
        self._turns[pin_id] = self._next()
        self._questions.add(pin_id)

    def lost(self) -> None:
        """The store may have lost what it was told."""
        self._told_at = None

    async def tell(self) -> None:
        """Tell what is to be told, if it is time. Raises `StoreUnavailable`."""
        if self._is_telling or not self._epoch:
            return
        self._is_telling = True
        try:
            while self._is_due() or self._over:
                await self._tell_once()
        finally:
            self._is_telling = False

    def _is_due(self) -> bool:
        return self._told_at is None or self._clock() - self._told_at >= _TELL_AGAIN

    async def _tell_once(self) -> None:
        """All of it, or the turns that are over; never both at once, so that an end cannot overtake its beginning."""
        if self._is_due():
            self._told_at, self._over = self._clock(), []  # news that come from here on make it None again
            try:
                await self._pins.applied(self._node, self._epoch, [Turn(*turn) for turn in self._turns.items()])
            except BaseException:
                self._told_at = None
                raise
            return
        over = self._over[:LARGEST]
        await self._pins.idle(self._node, over)
        del self._over[: len(over)]

    def _tell_soon(self) -> None:
        if self._epoch and not self._is_telling:
            tasks.spawn(self._tell_quietly(), "pins.turns")

    async def _tell_quietly(self) -> None:
        try:
            await self.tell()
        except StoreUnavailable:
            self.lost()  # told again with the next `tell`

    async def _ask(self, pin_ids: list[bytes]) -> None:
        answers: list[Pin | None] = []
        try:
            answers = await self._pins.migrate(self._node, [Turn(pin_id, self._turns[pin_id]) for pin_id in pin_ids])
        except StoreUnavailable:
            pass  # the mirror tells of a store that is away
        finally:
            asked = [self._asking.pop(pin_id) for pin_id in pin_ids]
            for at, callbacks in enumerate(asked):
                for answer, away in callbacks:
                    try:
                        answer(answers[at]) if answers else away()
                    except Exception:
                        log.exception("what waited for a session's move failed")
            for pin_id in self._left.intersection(pin_ids):
                self._left.discard(pin_id)
                self.idle(pin_id)

    def _next(self) -> int:
        self._serial += 1
        return self._serial
