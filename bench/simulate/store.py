"""A store that fails by plan: the memory store in a process of its own, at the other end of lines that lose things.

Each node has a line. Over it calls and answers are late, come in another order, are lost on their way there (nothing
happened) or back (it did), and a call may take effect long after its caller has given up. Bells may be lost. The store
itself can be stopped, killed, and started again with its data, with none, or as a replica that lacks
what was done last.

What the store promises it keeps, as it is the very store that `tests/store/test_contract.py` holds against Redis.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from copy import copy
from typing import Any

from bench.simulate.world import Process, World
from bgproxy.errors import BgproxyError, StoreUnavailable
from bgproxy.rules.fleet import FleetState
from bgproxy.store.base import StoreOptions
from bgproxy.store.memory import MemoryStore
from bgproxy.store.memory_pins import Kept

USUAL = 0.0003  # seconds that a message takes on average
TAIL, LONG = 0.03, 0.05  # so many of them take up to so many seconds
SLOW = 0.4  # on a slow line, at most
_VALUES = ("_state", "_head", "_flips", "_once", "_last_id", "_missing_until")  # of a store, beside dicts; immutable
DETECTED = 3.0  # seconds after which a line that is cut is found to be, at most


class Server:
    """The store's process."""

    def __init__(self, world: World, options: StoreOptions, committed: Callable[[FleetState], None]) -> None:
        """`committed` hears of each change, in the moment in which it is made."""
        self.left_behind = 0  # flips that were made without a node
        self.at_once = 0  # flips by one commit, for which no node held by a state
        self.world = world
        self.options = options
        self.process = world.process("store")
        self.is_up = True
        self.memory = MemoryStore(options, clock=self.process.time)
        self.incarnation = 0
        self.tells = True  # whether it is the same, see `Store.incarnation`
        self._committed = committed
        self._subscribers: dict[Subscription, None] = {}
        self._follow()

    @property
    def epoch(self) -> int:
        """Of the pointer that stands; 0: none does."""
        return self.memory._state.pointer.epoch if self.memory._state is not None else 0

    @property
    def active(self) -> str:
        """The color of that pointer; empty where there is none."""
        return self.memory._state.pointer.active if self.memory._state is not None else ""

    def kill(self) -> None:
        """Its process dies; its data are on a disk."""
        self.world.say("store", "is killed")
        self.is_up = False
        self.incarnation += 1
        subscribers, self._subscribers = [*self._subscribers], {}
        for each in subscribers:
            each.line.lose(each)

    def replica(self) -> MemoryStore:
        """Another store with all that was done until now, and nothing of what is done from now on."""
        copied = MemoryStore(self.options, clock=self.process.time)
        for of, to in ((self.memory, copied), (self.memory._nodes, copied._nodes), (self.memory._pins, copied._pins)):
            for name, value in vars(of).items():
                if isinstance(value, dict | deque) or (name in _VALUES and not callable(value)):
                    setattr(to, name, copy(value))
        pins, turns, theirs = copied._pins, copied._pins._turns, self.memory._pins._turns
        pins._pins = {pin_id: _kept_alike(kept) for pin_id, kept in pins._pins.items()}
        pins._buckets = {expires: dict(keys) for expires, keys in pins._buckets.items()}
        turns.states, turns.under_way = dict(theirs.states), dict(theirs.under_way)
        return copied

    def start(self, *, keep: bool = True, replica: MemoryStore | None = None) -> None:
        """It is there again; without `keep` it has forgotten everything. `replica`: which takes its place."""
        data = "empty" if not keep else "with its data" if replica is None else "as its replica"
        self.world.say("store", f"starts {data}")
        if not keep or replica is not None:
            self.memory = replica or MemoryStore(self.options, clock=self.process.time)
        self.is_up = True
        self.incarnation += 1
        self.process.resume()
        self._follow()

    def serve(self, call: Call) -> None:
        """Carry out a call, in this process, and send the answer."""
        if not self.is_up or call.incarnation != self.incarnation:
            call.fails("the line broke" if self.is_up else "nobody listens")
            return
        target = self.memory.pins if call.of_pins else self.memory
        try:
            if call.verb == "resolve" and self._is_behind(call.line.least_epoch):
                raise StoreUnavailable("store: it has lost the pointer")
            if call.verb == "incarnation" and self.tells:
                answer = str(self.incarnation)
            else:
                answer = _at_once(getattr(target, call.verb)(*call.args, **call.named))
        except BgproxyError as error:
            if self.world.is_traced:
                self.world.say("store", f"{call.line.node.name} {call.verb}: {error!r}")
            call.answers(error)
            return
        if call.verb == "commit":
            held = call.named.get("held")
            self.at_once += held is not None and held.revision > answer[0].revision
            self.left_behind += "left_behind" in answer[1].facts
            self._committed(answer[0])
        if self.world.is_traced and call.verb not in ("read", "now"):
            self.world.say("store", f"{call.line.node.name} {call.verb}")
        call.answers(answer)

    def _is_behind(self, least_epoch: int) -> bool:
        """By such a pointer a store makes no pin; this one does not even tell those that it has."""
        state = self.memory._state
        return state is None or state.pointer.epoch < least_epoch

    def subscribe(self, subscription: Subscription) -> None:
        """From now on it hears the bell."""
        self._subscribers[subscription] = None

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscribers.pop(subscription, None)

    def _follow(self) -> None:
        self.process.spawn(self._ring(self.memory.watch(), False, self.incarnation))
        self.process.spawn(self._ring(self.memory.pins.watch(), True, self.incarnation))

    async def _ring(self, bells: AsyncIterator[Any], of_pins: bool, incarnation: int) -> None:
        async for rung in bells:
            if incarnation != self.incarnation:
                break
            if rung:
                for each in [*self._subscribers]:
                    if each.of_pins == of_pins:
                        each.line.ring(each, rung)
        await bells.aclose()  # type: ignore[attr-defined]


class Call:
    """One call on its way."""

    __slots__ = ("args", "future", "incarnation", "line", "named", "of_pins", "verb")

    def __init__(self, line: Line, of_pins: bool, verb: str, terms: tuple[Any, Any], future: Any) -> None:
        """`terms`: the arguments without names, and those with; `future`: the caller waits for it."""
        self.line = line
        self.of_pins = of_pins
        self.verb = verb
        self.args, self.named = terms
        self.future = future
        self.incarnation = line.server.incarnation

    def answers(self, answer: Any) -> None:
        """From the store's side."""
        line = self.line
        if line.dice.random() < line.loses_answers:
            line.say(f"{self.verb}: done, its answer is lost")
            self.fails("the line broke")
        else:
            line.bring_back(lambda: self._takes(answer))

    def fails(self, why: str) -> None:
        """The caller gets to know that the line is broken."""
        self.line.bring_back(lambda: self._takes(StoreUnavailable(f"store: {why}")))

    def _takes(self, answer: Any) -> None:
        self.line.node.give(self._ends, answer)

    def _ends(self, answer: Any) -> None:
        if not self.future.done():
            if isinstance(answer, BgproxyError):
                self.future.set_exception(answer)
            else:
                self.future.set_result(answer)


class Line:
    """One node's line to the store, and what is wrong with it; all of it the truth of this world."""

    def __init__(self, world: World, node: Process, server: Server) -> None:
        self.world = world
        self.dice = world.dice
        self.node = node
        self.server = server
        self.cut_until = 0.0
        self.slow_until = 0.0
        self.loses_calls = self.loses_answers = self.loses_bells = 0.0  # how often, of 1
        self.least_epoch = 0  # by which the node at its end routes

    def say(self, what: str) -> None:
        self.world.say(self.node.name, what)

    def cut(self, seconds: float) -> None:
        """Nothing comes through for so long, in neither direction; what is on its way may arrive after that."""
        self.cut_until = max(self.cut_until, self.world.now + seconds)

    def slow(self, seconds: float) -> None:
        self.slow_until = max(self.slow_until, self.world.now + seconds)

    def bring(self, call: Call) -> None:
        """A call to the store."""
        if self.dice.random() < self.loses_calls:
            self.say(f"{call.verb}: lost on its way")
            call.fails("the line broke")
            return
        self._over(lambda: self.server.process.give(self.server.serve, call))

    def bring_back(self, arrive: Callable[[], None]) -> None:
        """Something to the node."""
        self._over(arrive)

    def ring(self, subscription: Subscription, rung: Any) -> None:
        """A bell to the node."""
        if self.dice.random() < self.loses_bells:
            self.say(f"bell {rung!r} is lost")
        else:
            self._over(lambda: subscription.hears(rung), subscription)

    def lose(self, subscription: Subscription) -> None:
        """The node is to know that the store has gone from under a subscription."""
        self._over(subscription.breaks, subscription)

    def _over(self, arrive: Callable[[], None], subscription: Subscription | None = None) -> None:
        now = self.world.now
        if now < self.cut_until:
            if self.dice.random() < 0.5:  # sent again, once the line is mended
                self.world.at(self.cut_until + self.dice.random() * 0.3, arrive)
            elif subscription is not None:
                self.world.after(self.dice.random() * DETECTED, subscription.breaks)
            return
        self.world.at(now + self._latency(), arrive)

    def _latency(self) -> float:
        if self.world.now < self.slow_until:
            return self.dice.random() * SLOW
        if self.dice.random() < TAIL:
            return self.dice.random() * LONG
        return self.dice.expovariate(1 / USUAL)


class Subscription:
    """What one watcher hears."""

    def __init__(self, line: Line, of_pins: bool) -> None:
        self.line = line
        self.of_pins = of_pins
        self._rung: deque[Any] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._is_broken = False

    def hears(self, rung: Any) -> None:
        """From the world's side."""
        self.line.node.give(self._hears, rung)

    def breaks(self) -> None:
        """The line is found to be broken."""
        self.line.node.give(self._hears, None)

    def _hears(self, rung: Any) -> None:
        if rung is None:
            self._is_broken = True
        else:
            self._rung.append(rung)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next(self) -> Any:
        """What rings next. Raises `StoreUnavailable` where the line is broken."""
        while not self._rung:
            if self._is_broken:
                raise StoreUnavailable("store: the subscription broke")
            self._waiting = self.line.node.create_future()
            await self._waiting
        return self._rung.popleft()


class FarStore:
    """The store as one node has it: `Store` and, as `pins`, `PinStore`, over its line."""

    kind = "redis"
    shared = True

    def __init__(self, line: Line, options: StoreOptions, *, of_pins: bool = False) -> None:
        self.line = line
        self._options = options
        self._of_pins = of_pins
        if not of_pins:
            self.pins = FarStore(line, options, of_pins=True)

    async def open(self) -> None:
        """See `Store.open`."""
        await self._call("now", (), {}, self._options.connect_timeout)

    async def close(self) -> None:
        """See `Store.close`."""

    async def watch(self) -> AsyncIterator[Any]:
        """See `Store.watch` and `PinStore.watch`."""
        subscription = Subscription(self.line, self._of_pins)
        await self._call("now", (), {}, self._options.connect_timeout)
        server = self.line.server
        if not server.is_up:
            raise StoreUnavailable("store: the subscription broke")
        server.subscribe(subscription)
        try:
            yield () if self._of_pins else 0
            while True:
                yield await subscription.next()
        finally:
            server.unsubscribe(subscription)

    def routes_by(self, epoch: int) -> None:
        """See `Store.routes_by`."""
        self.line.least_epoch = epoch

    def __getattr__(self, verb: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if verb.startswith("_"):
            raise AttributeError(verb)

        async def call(*args: Any, **named: Any) -> Any:
            return await self._call(verb, args, named, self._options.command_timeout)

        return call

    async def _call(self, verb: str, args: Any, named: Any, timeout: float) -> Any:
        line = self.line
        if line.world.is_over:
            raise StoreUnavailable("store: this world is over")
        future = line.node.create_future()
        line.bring(Call(line, self._of_pins and verb != "now", verb, (args, named), future))
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise StoreUnavailable(f"store: {verb} took longer than {timeout:g} s") from None


def _kept_alike(kept: Kept) -> Kept:
    alike = Kept(kept.pin, kept.expires)
    alike.aliases = [*kept.aliases]
    return alike


def _at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine comes to that waits for nothing, as the memory store's do."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise RuntimeError(f"{work} waits for something: then it is no single step of the store")
