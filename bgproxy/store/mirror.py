"""This process's copy of the fleet's state, kept as new as the store can make it.

Order of work: subscribe, then read, then apply what is newer; each bell leads to a reading; a slow periodic reading
stands behind the bells. Traffic is routed by the copy alone, so the store may vanish: the last known state stands.

Promises: a state is only ever replaced by a newer one; what contradicts it is an alarm (`rules/restore.py`), put right
elsewhere; `listen` callbacks run synchronously inside `apply`, so that when it returns the process has flipped; the
loops survive whatever the store does; a change of circumstances is logged once. Must not know what the listeners do,
nor what a Redis is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from math import inf
from pathlib import Path
from typing import Final, cast

from bgproxy import tasks
from bgproxy.errors import BgproxyError, StoreUnavailable
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.restore import Contradiction, Verdict, judge
from bgproxy.store.base import Holding, Store
from bgproxy.store.document import parsed, state_document, state_from, write_safely
from bgproxy.store.fence import Fence

log = logging.getLogger(__name__)

Listener = Callable[[FleetState], None]
Reading = Callable[[], Awaitable[FleetState | None]]

UNDECIDED: Final = 1.5
"""Seconds in which each node reads the store, and writes back what it holds."""

_UNTIL_READ = 0.2  # seconds in which a line that has broken is mostly there again
_FIRST_PAUSE = 0.05  # seconds before the first reconnect; doubled at each failure
_LONGEST_PAUSE = 2.0
_SAVED_AFTER = 0.1  # seconds: the disk is left alone while a flip is under way, and sees its last state only


class Mirror:
    """The state that this process routes by. `state` is None until the first one has come in."""

    def __init__(
        self,
        store: Store,
        *,
        read_interval: float = 1.0,
        last_state_path: Path | None = None,
        fence: Fence | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`read_interval` in seconds; `last_state_path`: where to keep the last known state, for `load`; `fence`: to be
        told of readings."""
        self.state: FleetState | None = None
        self.connected = False  # the last reading went well
        self.subscribed = False  # bells come in
        self.alarms = 0  # states that contradict what is held
        self.contradiction: Contradiction | None = None  # how the store is at odds with what is held, which stands
        self._at_odds_since = 0.0
        self.problem = ""  # why the store cannot be read; empty while it can
        self.contradicted: Callable[[Contradiction], None] | None = None  # called at each alarm
        self.last_state_path = last_state_path
        self._store = store
        self._read_interval = read_interval
        self._fence = fence or Fence()
        self._clock = clock
        self._sleep = sleep
        self.returned: Callable[[float], None] = _nobody_asks  # told for how many seconds the store was away
        self._lost = 0.0  # since when it is away; 0: it is not
        self.came_back: Callable[[], object] = _nothing  # called at the first reading after the line to it broke
        self._broken = False  # nothing has been read since it did
        self._breaks_seen = 0
        self._incarnation: str | None = None  # of the store, when it was read last after that
        self._mended = -inf  # when something was
        self.rung_again = asyncio.Event()  # set where one revision rings twice, see `Store.hold`; who waits clears it
        self._rung = 0  # the revision that rang last
        self.rung_to_hold: Callable[[Holding], Awaitable[object]] = self._look_at  # called where a bell tells that
        self.held_early = False  # new admissions wait by what a bell has told, and no reading yet
        self._listeners: list[Listener] = []
        self._provisional = False  # the state came from a file: whatever the store says first replaces it
        self._heard = clock()
        self._troubles: dict[str, str] = {}  # what is known to be wrong, so that it is logged once
        self._follower: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._saver: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        held = f"revision {self.state.revision}, epoch {self.state.pointer.epoch}" if self.state else "nothing held"
        return f"<Mirror {held}, {'connected' if self.connected else 'not connected'}, {self.alarms} alarms>"

    @property
    def fenced(self) -> bool:
        """What is held may be so old that nothing new is to be admitted by it."""
        return self._fence.is_closed()

    @property
    def age(self) -> float:
        """Seconds since the store was last heard (or since this mirror was made)."""
        return max(0.0, self._clock() - self._heard)

    @property
    def alarm(self) -> str:
        """How the store contradicts what is held, for people; empty where it does not."""
        return self.contradiction.text if self.contradiction is not None else ""

    @property
    def at_odds_for(self) -> float:
        """Seconds since the store was first seen to contradict what is held; 0 where it does not."""
        return self._clock() - self._at_odds_since if self.contradiction is not None else 0.0

    @property
    def unsettled(self) -> float:
        """Seconds until this node may move the pointer by what the store says, or give up a flip that another prepared.

        A store that was away may be another by now, that has lost what was done last without this node's knowing: what
        came of a flip, or that a node has joined. Whoever knows more writes it back first, and each node beats at once.
        Where only the line broke, and the same server is at its end, nothing is waited for. Which it is shows the next
        reading: until then it is soon worth another look.
        """
        if self._broken:
            return _UNTIL_READ
        return max(0.0, round(self._mended + UNDECIDED - self._clock(), 3))  # what a sleep may be too short by is none

    def listen(self, callback: Listener) -> None:
        """Call back at every newer state, synchronously. What a callback raises is logged and goes no further."""
        self._listeners.append(callback)

    def load(self, path: Path | None = None, *, binding: bool = False) -> bool:
        """Hold the last known state of an earlier process, until the store says something; whether there was one.

        `binding`: as if this process had held it itself, so that an older state of the store is an alarm. A file that
        cannot be understood is logged and left: it is a fallback, no truth.
        """
        path = path or self.last_state_path
        if path is None or self.state is not None:
            return False
        try:
            state = state_from(parsed(path.read_bytes(), str(path)), str(path))
        except FileNotFoundError:
            return False
        except (OSError, BgproxyError) as error:
            log.warning("the last known state cannot be used: %s", error)
            return False
        self._provisional = not binding
        self._hold(state)
        return True

    def apply(self, state: FleetState) -> bool:
        """Hold the state if it is newer; whether it was. Raises an alarm where it contradicts the one that is held.

        Then the held state stands: a pointer never goes back unasked.
        """
        held = self.state
        if held is None or self._provisional:
            if held is not None and held.pointer.epoch > state.pointer.epoch:
                log.error("%s: this process was started anew, so the store's counts", _behind_the_file(held, state))
            self._provisional = False
            self._hold(state)
            return True
        verdict = judge(held, state)
        if verdict is Verdict.SAME:
            self._agrees()
            return False
        if verdict in (Verdict.NEWER, Verdict.CHANGED):
            if verdict is Verdict.CHANGED:
                log.error("the store holds another revision %d than was held; it counts", state.revision)
            self._agrees()
            self._hold(state)
            return True
        self._alarm(Contradiction(verdict, held, state))
        return False

    def learn(self, state: FleetState) -> bool:
        """Like `apply`, for a state that may simply have come late: an older one is no alarm."""
        held = self.state
        if held is not None and not self._provisional and state.revision <= held.revision:
            return False
        return self.apply(state)

    async def start(self) -> None:
        """Take one reading (a store that is away is no error) and keep following from then on."""
        if self._follower is None:
            await self.look()
            self._follower = tasks.spawn(self._follow_for_ever(), "mirror.follow")
            self._reader = tasks.spawn(self._read_for_ever(), "mirror.read")

    async def stop(self) -> None:
        """Stop following; the held state stays, and is on the disk where that was asked for."""
        await tasks.stop(self._follower, self._reader)
        self._follower = self._reader = None
        if self._saver is not None:
            await asyncio.gather(self._saver, return_exceptions=True)

    async def refresh(self, read: Reading | None = None) -> FleetState | None:
        """Read the store and apply what is newer; what the store holds. Raises `StoreUnavailable` and its kinds.

        `read`: in place of the store's own.
        """
        read = read or self._store.read
        for _ in range(3):
            before, begun, seen = self.state, self._fence.lease.begin_reading(), self._breaks_seen
            state = await read()
            self._heard = self._clock()
            self.connected = True
            if self._broken or self._incarnation is None:
                await self._recognise(seen)
            if state is None:
                if self.state is not None and not self._provisional:
                    self._alarm(Contradiction(Verdict.BEHIND, self.state, None))
                self._fence.lease.has_read(begun)
                return None
            # While this reading was under way something newer may have been applied: then it is late, not wrong.
            if self.state is before or state.revision >= cast("FleetState", self.state).revision:
                self.apply(state)
                self._fence.lease.has_read(begun)
                return state
        return self.state

    async def _recognise(self, seen: int) -> None:
        """After a reading that was begun when so many breaks had been seen: may the store have lost anything?

        It is asked after the reading: who is the same then was so when it was read.
        """
        found = await self._store.incarnation()
        if seen != self._breaks_seen:
            return  # the reading after the next break tells
        known, self._incarnation = self._incarnation, found
        if not self._broken:
            return
        self._broken = False
        if not known or known != found:
            self._mended = self._clock()
        self.came_back()

    async def look(self, read: Reading | None = None) -> bool:
        """One reading whose failure is told once and survived; whether it went well. `read`: see `refresh`."""
        try:
            await self.refresh(read)
        except Exception as error:
            if self.connected:
                self._lost = self._clock()
            self.connected = False
            self._breaks()
            self.problem = str(error)
            self._trouble("reading", error)
            return False
        self.problem = ""
        self._well("reading")
        if self._lost:
            seconds, self._lost = self._clock() - self._lost, 0.0
            self.returned(seconds)
        return True

    async def _read_for_ever(self) -> None:
        while True:
            # Never later than the interval; jittered, so that many nodes do not ask in step.
            await self._sleep(self._read_interval * random.uniform(0.75, 1.0))
            await self.look()

    async def _follow_for_ever(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._follow()
                error: Exception = StoreUnavailable("the subscription ended")
            except Exception as failure:
                error = failure
            self._trouble("subscription", error)
            if self.subscribed:
                pause = _FIRST_PAUSE
                self.subscribed = False
                self._breaks()
                await self.look()  # is it the store that is away? Nobody should have to wait for the next reading
            await self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _follow(self) -> None:
        """One subscription, until it breaks."""
        bells = cast("AsyncGenerator[int, None]", self._store.watch())
        async with contextlib.aclosing(bells):
            async for revision in bells:
                if revision == self._rung:
                    self.rung_again.set()
                self._rung = revision
                if revision == 0:
                    self.subscribed = True
                    self._well("subscription")
                if self.state is not None and revision == self.state.revision:
                    self._heard = self._clock()  # our own commit, or one that a reading has brought already
                elif self.state is not None and revision > self.state.revision and isinstance(revision, Holding):
                    await self.rung_to_hold(revision)
                else:
                    await self.look()

    async def _look_at(self, _: Holding) -> None:
        await self.look()

    def _hold(self, state: FleetState) -> None:
        self.state = state
        self._route()
        for listener in self._listeners:
            try:
                listener(state)
            except Exception:
                log.exception("a listener failed at revision %d", state.revision)
        if self.last_state_path is not None and not self._provisional:
            self._save_soon(self.last_state_path)

    def _save_soon(self, path: Path) -> None:
        """Write the last known state in the background; several changes in a row become one more writing."""
        if self._saver is not None and not self._saver.done():
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # applied before a loop runs: the next change is written
        self._saver = tasks.spawn(self._save(path), "mirror.save")

    async def _save(self, path: Path) -> None:
        written: FleetState | None = None
        while self.state is not written:
            await asyncio.sleep(_SAVED_AFTER)
            state = self.state
            assert state is not None, "it was held when this began"
            try:
                await asyncio.to_thread(write_safely, path, state_document(state))
                self._well("saving")
            except OSError as error:
                self._trouble("saving", error)
                return
            written = state

    def _breaks(self) -> None:
        self._broken = True
        self._breaks_seen += 1
        if self.state is not None:
            self._route()

    def _alarm(self, found: Contradiction) -> None:
        """Counted each time, logged once until the store agrees again or contradicts otherwise."""
        self.alarms += 1
        before, self.contradiction = self.contradiction, found
        if before is None:
            self._at_odds_since = self._clock()
        self._route()
        if before is None or before.verdict is not found.verdict:
            log.error("ALARM: %s", found.text)
        if self.contradicted is not None:
            self.contradicted(found)

    def _agrees(self) -> None:
        """The store says what is held, or something newer."""
        if self.contradiction is not None:
            self.contradiction = None
            log.info("store: it agrees with what is held again")
        self._route()

    def _route(self) -> None:
        """Say by which epochs new sessions may be placed. A flip that this node holds for, and that the store may have
        lost, may have been made: then not by the pointer before it."""
        assert self.state is not None, "it is held, or about to be contradicted"
        found, is_behind = self.contradiction, self.unsettled > 0
        is_behind = is_behind or (found is not None and found.verdict is Verdict.BEHIND)
        is_open = self.state.pending is not None or self.held_early
        self._store.routes_by(self.state.pointer.epoch + (is_open and is_behind))

    def _trouble(self, what: str, error: Exception) -> None:
        """Logged when it begins and when it becomes another kind of trouble, not at each try."""
        kind = type(error).__name__
        if self._troubles.get(what) != kind:
            self._troubles[what] = kind
            expected = isinstance(error, (BgproxyError, OSError))
            log.warning("store, %s: %s (%s)", what, error, kind, exc_info=None if expected else error)

    def _well(self, what: str) -> None:
        if self._troubles.pop(what, None) is not None:
            log.info("store, %s: well again", what)


def _nobody_asks(_: float) -> None:
    """Nobody wants to know of outages."""


def _nothing() -> None:
    """Nobody wants to know of lines."""


def _behind_the_file(held: FleetState, state: FleetState) -> str:
    store, known = state.pointer, held.pointer
    return (
        f"the store is at epoch {store.epoch}, active {store.active}, but the last state that was known here at epoch "
        f"{known.epoch}, active {known.active}"
    )
