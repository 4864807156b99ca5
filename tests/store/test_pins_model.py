"""No session is ever on two releases unless it was moved, and never in two places at once: searched for by chance.

Nodes come and go, hear of flips late, get their answers and bells late, and lose their line; sessions hop between them.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bgproxy.rules import fleet
from bgproxy.rules.by_hand import move_session
from bgproxy.rules.choose import choose
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import OnRollback, Pin, Policy
from bgproxy.rules.pointer import Pointer
from bgproxy.store.pinning import BEGUN
from bgproxy.store.pins import PinCache
from tests.store.conftest import Fleet
from tests.store.pin_rig import Line, Rig, key, learned, settle, want

FEW = 3  # sessions at once: so their turns meet
BUDGET = 500.0  # seconds that may pass in one run: less than the ttl, so no session idles out


class Session:
    def __init__(self, name: str) -> None:
        self.keys = [name]
        self.place: tuple[str, str] | None = None  # where it has last run
        self.running: list[Turn] = []
        self.asking = 0
        self.is_split_by_an_outage = False
        self.goals: set[tuple[str, str]] = set()  # where an operator has ever wanted it

    def was_told(self, why: str) -> None:
        """What is written down without the store is counted, and no promise: the node may die before it is told."""
        if why == "journalled":
            self.is_split_by_an_outage = True


class Node:
    def __init__(self, name: str, cache: PinCache, line: Line) -> None:
        self.name, self.cache, self.line = name, cache, line
        self.turns: Counter[bytes] = Counter()
        self.is_dead = False


class Turn:
    """One exchange of a session on a node, as the data path goes about it."""

    def __init__(self, model: Model, node: Node, session: Session) -> None:
        self.model, self.node, self.session = model, node, session
        self.pin: Pin | None = None
        self.counted = b""  # the id that it is counted by
        session.asking += 1

    def begin(self, keys: tuple[str, ...]) -> None:
        pin = self.node.cache.get([*map(key, keys)])
        if pin is not None:
            self.choose(pin, "hit")
        else:
            self.node.cache.resolve(want(*keys), self.choose)

    def choose(self, pin: Pin | None, why: str) -> None:
        assert pin is not None
        self.session.was_told(why)
        self.pin = pin
        self.node.turns[pin.id] += 1  # from here on: what is asked for is a turn already
        self.decide(pin, why)

    def decide(self, pin: Pin | None, why: str) -> None:
        state = self.node.line.state
        assert pin is not None
        assert state is not None
        policy, on_rollback = self.model.policies
        order = state.orders.get(pin.id)
        if why not in BEGUN and choose(state.pointer, state.releases, pin, policy, on_rollback, order).why != "pinned":
            self.node.cache.migrate(pin, self.decide)
        else:
            self.run(pin, why)

    def run(self, pin: Pin | None, why: str) -> None:
        assert pin is not None
        self.session.asking -= 1
        if self.node.is_dead:
            return
        self.counted, self.pin = self.pin.id if self.pin else b"", pin
        self.model.ran(self.session, (pin.color, pin.release))
        self.session.running.append(self)

    def end(self) -> None:
        self.session.running.remove(self)
        self.node.turns[self.counted] -= 1
        if not self.node.turns[self.counted]:
            self.node.cache.idle(self.counted)


class Model(RuleBasedStateMachine):
    policies = (Policy.PINNED, OnRollback.STAY)
    outages = False
    by_hand = False
    examples = 40

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.problems: list[str] = []
        self.names = iter(range(1_000_000))
        self.spent = 0.0

    @initialize()
    def begin(self) -> None:
        self.rig = Rig(Fleet)
        self.sessions: list[Session] = []
        self.nodes: list[Node] = []
        for _ in range(2):
            self.join()

    def do(self, act: Callable[[], Any]) -> None:
        async def acted() -> None:
            act()
            await settle()

        self.loop.run_until_complete(acted())

    def join(self) -> None:
        def start() -> None:
            name = f"node-{next(self.names)}"
            cache, line = self.rig.node(name, cache_size=6, refresh_interval=1.0)
            cache.start()
            self.nodes.append(Node(name, cache, line))
            cache.applied(self.pointer.epoch, self.state.revision, ())

        self.do(start)

    def hear(self, node: Node) -> None:
        """As the data path goes about it."""
        before, node.line.state = node.line.state, self.state
        assert before is not None
        is_new = before.pointer.epoch != self.pointer.epoch
        busy = [pin_id for pin_id, count in node.turns.items() if count and (is_new or pin_id in self.state.orders)]
        if is_new or before.orders != self.state.orders:
            self.do(lambda: node.cache.applied(self.pointer.epoch, self.state.revision, busy))
            orders = {**before.orders, **self.state.orders}
            changed = [pin_id for pin_id in orders if before.orders.get(pin_id) != self.state.orders.get(pin_id)]
            self.do(lambda: node.cache.drop(changed))

    @property
    def state(self) -> FleetState:
        assert self.rig.state is not None
        return self.rig.state

    @property
    def pointer(self) -> Pointer:
        return self.state.pointer

    def ran(self, session: Session, place: tuple[str, str]) -> None:
        if session.is_split_by_an_outage:
            return
        if any((turn.pin.color, turn.pin.release) != place for turn in session.running if turn.pin):
            self.problems.append(f"{session.keys} runs in two places at once")
        may_move = self.policies != (Policy.PINNED, OnRollback.STAY)
        if session.place not in (None, place) and not may_move and place not in session.goals:
            self.problems.append(f"{session.keys} was on {session.place}, and now is on {place}")
        session.place = place

    @invariant()
    def nothing_is_split(self) -> None:
        assert self.problems == []

    @precondition(lambda self: len(self.sessions) < FEW)
    @rule(data=st.data())
    def new_session(self, data: st.DataObject) -> None:
        session = Session(f"s{next(self.names)}")
        self.sessions.append(session)
        turn = Turn(self, data.draw(st.sampled_from(self.nodes)), session)
        self.do(lambda: turn.begin((session.keys[0],)))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        keys = data.draw(st.lists(st.sampled_from(session.keys), min_size=1, max_size=2, unique=True))
        turn = Turn(self, data.draw(st.sampled_from(self.nodes)), session)
        self.do(lambda: turn.begin(tuple(keys)))

    @precondition(lambda self: any(session.running for session in self.sessions))
    @rule(data=st.data())
    def turn_ends(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from([turn for session in self.sessions for turn in session.running]))
        self.do(turn.end)

    @precondition(lambda self: any(session.running for session in self.sessions))
    @rule(data=st.data())
    def agent_mints(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from([turn for session in self.sessions for turn in session.running]))
        name, pin = f"m{next(self.names)}", turn.pin
        assert pin is not None

        def told(standing: Pin | None, why: str) -> None:
            turn.session.keys.append(name)
            turn.session.was_told(why)

        place = {"color": pin.color, "release": pin.release, "epoch": pin.epoch}
        self.do(lambda: turn.node.cache.learn(learned(name, pin=pin.id, **place), told))

    @precondition(lambda self: len(self.sessions) < FEW)
    @rule(data=st.data())
    def agent_mints_a_session(self, data: st.DataObject) -> None:
        """An exchange without any key, on the color that its node holds for active."""
        node = data.draw(st.sampled_from(self.nodes))
        name, state = f"s{next(self.names)}", node.line.state
        assert state is not None
        assert state.active is not None
        session = Session(name)
        session.place = (state.pointer.active, state.active.label)
        place = {"color": state.pointer.active, "release": state.active.label, "epoch": state.pointer.epoch}

        def told(standing: Pin | None, why: str) -> None:
            self.sessions.append(session)
            session.was_told(why)

        self.do(lambda: node.cache.learn(learned(name, **place), told))

    @precondition(lambda self: any(not session.running and not session.asking for session in self.sessions))
    @rule(data=st.data())
    def session_ends(self, data: st.DataObject) -> None:
        quiet = [session for session in self.sessions if not session.running and not session.asking]
        session = data.draw(st.sampled_from(quiet))
        self.sessions.remove(session)
        self.do(lambda: data.draw(st.sampled_from(self.nodes)).cache.end(key(session.keys[0])))

    @rule(data=st.data())
    def flip(self, data: st.DataObject) -> None:
        """The one that has flipped hears of it first."""
        self.do(lambda: self.rig.flip(heard=False))
        self.hear(data.draw(st.sampled_from(self.nodes)))

    @precondition(lambda self: self.by_hand and self.sessions)
    @rule(data=st.data())
    def operator_moves(self, data: st.DataObject) -> None:
        """Some nodes hear of it at once, and the admin plane tries right away."""
        session = data.draw(st.sampled_from(self.sessions))
        if (kept := self.rig.pins._kept(key(session.keys[0]))) is None:
            return
        to = "green" if kept.pin.color == "blue" else "blue"
        if (change := move_session(self.state, kept.pin, to, actor="ada", reason="")) is not None:
            self.rig.state = change.state
            session.goals.add((to, self.state.releases[to].label))
        for node in data.draw(st.sets(st.sampled_from(self.nodes))):
            self.hear(node)
        self.admin_tries(session)

    @precondition(lambda self: self.sessions and self.state.orders)
    @rule(data=st.data())
    def admin_tries_again(self, data: st.DataObject) -> None:
        for node in self.nodes:
            self.hear(node)
        self.admin_tries(data.draw(st.sampled_from(self.sessions)))

    def admin_tries(self, session: Session) -> None:
        async def tried() -> None:
            await self.rig.pins.move(key(session.keys[0]))
            await settle()

        self.loop.run_until_complete(tried())

    @precondition(lambda self: self.pointer.previous is not None)
    @rule()
    def roll_back(self) -> None:
        self.rig.state = fleet.rollback(self.state, actor="ada", reason="bad", at=3.0, force=True).state

    @rule(data=st.data())
    def node_hears(self, data: st.DataObject) -> None:
        self.hear(data.draw(st.sampled_from(self.nodes)))

    @rule()
    def all_hear(self) -> None:
        for node in self.nodes:
            self.hear(node)

    @rule(data=st.data(), answers=st.booleans())
    def line_is_slow(self, data: st.DataObject, answers: bool) -> None:
        line = data.draw(st.sampled_from(self.nodes)).line
        if not answers:
            line.ears.clear()
        elif line.gate is None:
            line.gate = asyncio.Event()

    @rule(data=st.data())
    def line_is_quick_again(self, data: st.DataObject) -> None:
        line = data.draw(st.sampled_from(self.nodes)).line
        self.do(lambda: _quick(line))

    @rule(data=st.data())
    def node_dies(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.nodes))
        self.nodes.remove(node)
        del self.rig.nodes[node.name]
        node.is_dead = True
        for session in self.sessions:
            session.running = [turn for turn in session.running if turn.node is not node]
        self.join()

    @precondition(lambda self: self.spent < BUDGET - 60)
    @rule(seconds=st.sampled_from([1, 10, 60]))
    def time_passes(self, seconds: int) -> None:
        self.spent += seconds
        self.rig.clock.now += seconds
        self.loop.run_until_complete(self.rig.wake())

    @precondition(lambda self: self.outages)
    @rule(data=st.data())
    def line_is_cut(self, data: st.DataObject) -> None:
        self.do(data.draw(st.sampled_from(self.nodes)).line.cut)

    @precondition(lambda self: self.outages)
    @rule(data=st.data())
    def line_is_mended(self, data: st.DataObject) -> None:
        self.do(data.draw(st.sampled_from(self.nodes)).line.mend)
        self.loop.run_until_complete(self.rig.wake())

    def teardown(self) -> None:
        async def stop() -> None:
            for node in getattr(self, "nodes", ()):
                _quick(node.line)
            await settle()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.loop.run_until_complete(stop())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        gc.collect()


def _quick(line: Line) -> None:
    line.ears.set()
    if line.gate is not None:
        line.gate.set()
        line.gate = None


class Outages(Model):
    outages = True


class ByHand(Model):
    by_hand = True
    examples = 80


class ByHandAndOnRollback(ByHand):
    policies = (Policy.PINNED, OnRollback.MOVE)


class MovesOnRollback(Model):
    policies = (Policy.PINNED, OnRollback.MOVE)


class Follows(Model):
    policies = (Policy.FOLLOW, OnRollback.MOVE)


@pytest.mark.parametrize("model", [Model, Outages, ByHand, ByHandAndOnRollback, MovesOnRollback, Follows])
def test_no_session_is_ever_on_two_releases_unless_it_was_moved(model: type[Model]) -> None:
    gc.collect()
    gc.freeze()  # or each example's collection would look through all that the other tests have loaded
    try:
        run_state_machine_as_test(
            model,
            settings=settings(
                max_examples=model.examples,
                stateful_step_count=40,
                deadline=None,
                database=None,
                derandomize=True,  # a release is not to fail by chance; search by more examples without this
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            ),
        )
    finally:
        gc.unfreeze()
