"""The turns under way on this node that keep sessions from being moved, and the asking whether one may be moved now.

Promises that the store hears of an applied state only with all turns that may hold a session, that an end is never
heard before its beginning, and that what it did not take is told again. It is asked from time to time whether it still
knows this node; only where it does not, or where the line to it was broken, all is told anew. Until then no session
moves. Must not know what a turn does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.pin import Pin
from bgproxy.store.batch import LARGEST, Batch
from bgproxy.store.pinning import NodePins, Turn

log = logging.getLogger(__name__)

_TRIES = 2
_CHECK_INTERVAL = 5.0  # seconds between two questions whether the store still knows this node

Answer = Callable[[Pin | None], None]
"""Called with the pin that stands, None where it is gone."""


class Turns:
    """One serial per turn, so that the end of an earlier one is not taken for the end of a later one."""

    def __init__(self, pins: NodePins, node: str, clock: Callable[[], float]) -> None:
        """`node`: this node's id, as it reports itself to the store."""
        self._pins = pins
        self._node = node
        self._clock = clock
        self._epoch = self._revision = 0  # applied on this node; 0: none yet
        self._turns: dict[bytes, int] = {}  # serials of turns that may hold a session
        self._begun: dict[bytes, int] = {}  # those of them that the store has yet to hear of
        self._over: list[Turn] = []  # likewise
        self._serial = 0
        self._is_lost = True  # the store may know nothing, or nothing right, of this node
        self._is_new = False  # another state was applied
        self._checked_at = 0.0
        self._is_telling = False
        self._asking: dict[bytes, list[tuple[Answer, Callable[[], None]]]] = {}
        self._left: set[bytes] = set()  # of those that are asked for: nobody waits any more
        self._questions = Batch(self._ask, "pins.migrate")

    def __len__(self) -> int:
        return len(self._turns)

    def applied(self, epoch: int, revision: int, busy: Iterable[bytes]) -> None:
        """This node routes by that state now; sessions with a turn under way were admitted by what stood before."""
        self._epoch, self._revision = epoch, revision
        for pin_id in busy:
            self.hold(pin_id)
        self._is_new = True
        self._tell_soon()

    def hold(self, pin_id: bytes) -> None:
        """A turn of this session is under way. The store may not know: it keeps none for which it moved a session."""
        if pin_id not in self._turns:
            self._turns[pin_id] = self._next()
        self._begun[pin_id] = self._turns[pin_id]
        self._tell_soon()

    def idle(self, pin_id: bytes) -> None:
        """No turn of that session is under way or about to begin on this node any more."""
        if pin_id in self._asking:  # the answer may still make the store hold the session for it
            self._left.add(pin_id)
            return
        self._begun.pop(pin_id, None)
        serial = self._turns.pop(pin_id, None)
        if serial is not None:
            self._over.append(Turn(pin_id, serial))
            self._tell_soon()

    def migrate(self, pin: Pin, answer: Answer, away: Callable[[], None]) -> None:
        """May a turn of this session begin on the active color? Either is called once; `away`: the store is."""
        pin_id = pin.id
        self._left.discard(pin_id)
        if (asking := self._asking.get(pin_id)) is not None:
            asking.append((answer, away))
            return
        self._asking[pin_id] = [(answer, away)]
        # Known before it is asked: should all be told again meanwhile, this turn is told with it.
        self._turns.setdefault(pin_id, self._next())
        self._questions.add(pin)

    def lost(self) -> None:
        """The store may have lost what it was told."""
        self._is_lost = True

    async def tell(self) -> None:
        """Tell what is to be told, if it is time. Raises `StoreUnavailable`."""
        if self._is_telling or not self._epoch:
            return
        self._is_telling = True
        try:
            while self._is_lost or self._is_new or self._begun or self._over or self._is_due():
                await self._tell_once()
        finally:
            self._is_telling = False

    def _is_due(self) -> bool:
        return self._clock() - self._checked_at >= _CHECK_INTERVAL

    async def _tell_once(self) -> None:
        """What has begun first, what is over later; never both at once, so that no end can overtake its beginning."""
        if self._is_lost:
            self._is_lost, self._over, mark = False, [], self._next()
            await self._say([*self._turns.items()], anew=True)
            # The store may have been asked for these just before it forgot what it knew. So the state by which sessions
            # move is told with them.
            self._begun, self._is_new = {pin_id: at for pin_id, at in self._turns.items() if at > mark}, True
        elif self._is_new or self._begun or self._is_due():
            begun, self._begun = [*self._begun.items()], {}
            await self._say(begun, anew=False)
        else:
            over = self._over[:LARGEST]
            await self._pins.idle(self._node, over)
            del self._over[: len(over)]

    async def _say(self, begun: list[tuple[bytes, int]], *, anew: bool) -> None:
        """The applied state with these turns, and in the last piece only, so that it never counts without all of them;
        told anew without it.

        What is lost on the way is told with everything else the next time.
        """
        self._is_new, self._checked_at, serial = False, self._clock(), self._serial
        state = (0, 0) if anew else (self._epoch, self._revision)
        try:
            for at in range(0, len(begun) or 1, LARGEST):
                is_last = at + LARGEST >= len(begun)
                said = self._node, *(state if is_last else (0, 0)), [Turn(*turn) for turn in begun[at : at + LARGEST]]
                if not await self._pins.applied(*said, anew=anew, serial=serial):
                    self._is_lost |= not anew
                anew = False
        except BaseException:
            self._is_lost = True
            raise

    def _tell_soon(self) -> None:
        if self._epoch and not self._is_telling:
            tasks.spawn(self._tell_quietly(), "pins.turns")

    async def _tell_quietly(self) -> None:
        with suppress(StoreUnavailable):  # then it is told with the next `tell`
            await self.tell()

    async def _ask(self, pins: list[Pin]) -> None:
        pin_ids = [pin.id for pin in pins]
        answers: list[Pin | None] = []
        try:
            answers = await self._asked([Turn(pin.id, self._turns[pin.id], pin.epoch) for pin in pins])
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

    async def _asked(self, turns: list[Turn]) -> list[Pin | None]:
        """What the store says; nothing where it is away. A turn that it does not know may meet one on another release:
        so a broken line, which need not mean more than that, is no reason yet to begin one unasked."""
        for _ in range(_TRIES):
            with suppress(StoreUnavailable):
                return await self._pins.migrate(self._node, turns)
            self.lost()  # whether it has heard of these turns is not known
        return []

    def _next(self) -> int:
        self._serial += 1
        return self._serial
