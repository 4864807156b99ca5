"""A node holds from the bell on, and says so with the reading: never while it does not, whatever is lost or late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.rollout import barrier as module
from bgproxy.rollout.barrier import FlipOptions
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import FleetState
from bgproxy.store.base import Held, Holding, NodeReport, StoreOptions, open_store
from tests.rollout.near import RELEASES, Near, turns
from tests.store.conftest import Fleet as Flips

Call = Callable[[], Awaitable[Any]]


class Node(Near):
    """It hears bells where the test rings them."""

    async def ring(self, revision: int) -> None:
        """As the bell tells of a state that makes all hold."""
        await self.mirror.rung_to_hold(Holding(revision))

    async def says(self, held: Held) -> bool:
        return await self.store.asleep(held) == []


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.0)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    store = open_store(StoreOptions())
    node = Node("n1", store, FlipOptions())
    await node.ledger.bootstrap(("blue", "green"), "blue", RELEASES, actor="test")
    await store.beat(NodeReport("n1", "host", 1, "0", 1))
    yield node
    await node.barrier.stop()


async def prepared(node: Node, to: str = "green") -> FleetState:
    """A flip that another node has begun."""
    state = await node.store.read()
    assert state is not None
    move = Move("flip", to, "ada", "")
    change = barrier.prepare(state, move, at=1.0, exclude=(), hold_timeout=60.0, key="k" * 64, request="")
    assert change is not None
    return (await node.store.commit(change))[0]


async def completed(node: Node, state: FleetState) -> None:
    change = barrier.complete(state, state.revision, at=2.0)
    assert change is not None
    await node.store.commit(change, held=Held(state.revision))


def instead(node: Node, monkeypatch: pytest.MonkeyPatch, act: Callable[[Call], Awaitable[Any]]) -> None:
    """`act` in place of the call that reads and says so; it is given the call."""
    straight: Any = node.store.hold_and_read

    async def call(*given: Any) -> Any:
        async def go() -> Any:
            return await straight(*given)

        return await act(go)

    monkeypatch.setattr(node.store, "hold_and_read", call)


async def test_it_holds_before_it_asks_and_one_call_says_so(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(go: Call) -> Any:
        assert node.is_shut
        return await go()

    async def say_so(revision: int, _: float) -> None:
        alone.append(revision)

    alone: list[int] = []
    monkeypatch.setattr(node.barrier, "_say_so", say_so)
    state = await prepared(node)
    instead(node, monkeypatch, act)
    await node.ring(state.revision)
    assert node.state == state
    assert await node.says(Held(state.revision))
    await turns()
    assert alone == []
    await completed(node, state)
    await node.mirror.look()
    assert node.doors == [False, True, False], "once, not once more in between"


async def test_what_was_said_of_a_revision_of_another_history_is_said_again(node: Node) -> None:
    """The store has lost the flip that it had heard of, and begins another one under the same number."""
    state = await prepared(node)
    await node.ring(state.revision)
    await node.store.leave("n1")
    await node.store.beat(NodeReport("n1", "host", 1, "0", 1))
    assert state.pending is not None
    assert node.mirror.apply(replace(state, pending=replace(state.pending, actor="bob")))
    await turns()
    assert await node.says(Held(state.revision))


async def test_what_was_not_said_with_the_reading_is_said_after_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had missed a flip: the store cannot know whether what it held until now was this fleet's."""
    await node.store.commit(Flips.flip(node.state))
    state = await prepared(node, "blue")

    async def act(go: Call) -> Any:
        found = await go()
        assert found == (state, 0)
        return found

    instead(node, monkeypatch, act)
    await node.ring(state.revision)
    assert node.doors == [False, True]
    await turns()
    assert await node.says(Held(state.revision))


@pytest.mark.parametrize("revision", [2, 7])
async def test_a_bell_that_lied_is_found_out_at_once(node: Node, revision: int) -> None:
    """Whoever may ring it can delay new admissions by one reading, and no more."""
    await node.ring(revision)
    await turns()
    assert node.doors == [False, True, False]
    assert not await node.says(Held(1))


async def test_a_flip_that_was_made_meanwhile_lets_it_go(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    state = await prepared(node)
    await node.store.hold("n1", state.revision)  # as if by an earlier call
    await completed(node, state)
    await node.ring(state.revision)
    assert node.state.pointer.active == "green"
    assert node.doors == [False, True, False]


async def test_an_older_reading_that_comes_in_late_opens_no_door(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has been told that the node holds, so it must, whatever it reads of the time before."""
    paused, _ = await node.store.commit(barrier.pause(node.state, max_hold=1.0, actor="ada", reason=""))
    resumed = barrier.resume(paused, actor="ada", reason="")
    assert resumed is not None
    late, _ = await node.store.commit(resumed)
    state = await prepared(node)

    async def act(go: Call) -> Any:
        found = await go()
        assert await node.says(Held(state.revision))
        assert node.mirror.apply(late)
        assert node.is_shut
        return found

    instead(node, monkeypatch, act)
    await node.ring(state.revision)
    assert node.state == state
    assert node.doors == [False, True]


async def test_it_goes_on_holding_where_the_answer_is_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has heard it, and the flip may be made at any moment."""
    state, readings, reached = await prepared(node), asyncio.Event(), asyncio.Event()

    async def act(go: Call) -> Any:
        await go()
        raise StoreUnavailable("the line broke")

    async def read() -> FleetState | None:
        reached.set()
        await readings.wait()
        return await straight()

    straight = node.store.read
    instead(node, monkeypatch, act)
    await node.ring(state.revision)
    assert node.is_shut
    assert not node.state.is_held
    monkeypatch.setattr(node.store, "read", read)
    await reached.wait()
    await completed(node, state)
    await turns()
    assert node.is_shut
    readings.set()
    await turns()
    assert node.state.pointer.active == "green"
    assert node.doors == [False, True, False]


async def test_a_reading_for_an_earlier_bell_does_not_open_what_a_later_one_has_shut(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call failed; while that is looked after, the next is on its way, and the store has heard it."""
    answers, calls = asyncio.Event(), iter(range(2))

    async def act(go: Call) -> Any:
        if next(calls) == 0:
            raise StoreUnavailable("the line broke")
        found = await go()
        await answers.wait()
        return found

    instead(node, monkeypatch, act)
    await node.ring(2)  # nothing stands by then
    state = await prepared(node)
    before, late = node.state, asyncio.Event()

    async def read() -> FleetState | None:
        await late.wait()
        return before

    monkeypatch.setattr(node.store, "read", read)
    later = tasks.spawn(node.ring(state.revision), "later")
    await turns()
    assert await node.says(Held(state.revision))
    late.set()
    await turns()
    assert node.is_shut
    answers.set()
    await later
    assert node.state == state
    assert node.doors == [False, True]
