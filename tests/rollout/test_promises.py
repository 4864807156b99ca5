"""The word that nothing new is admitted by a revision: kept until the commit on it is made, or never can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bgproxy.errors import Split, StoreUnavailable
from bgproxy.rollout import promises as module
from bgproxy.rollout.barrier import FlipOptions
from bgproxy.rollout.promises import Promise
from bgproxy.rules.barrier import Move, forestall
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.restore import Contradiction, Verdict
from bgproxy.store.base import Conflict, StoreOptions, open_store
from bgproxy.store.mirror import Mirror
from tests.rollout.near import Near, begun, come, turns

PATIENCE = 60.0  # seconds that no test waits for


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BELL", 0.0)
    monkeypatch.setattr(module, "_AGAIN", 0.0)


@pytest.fixture
async def node() -> AsyncIterator[Near]:
    [node] = await begun("n1", hold_timeout=PATIENCE)
    yield node
    await node.stop()


def given(node: Near) -> Promise:
    promise = node.promises.give(node.state.revision)
    assert promise is not None
    return promise


def flip(state: FleetState) -> Change:
    change = Move("flip", "green", "ada", "why").decided(state, 1.0)
    assert change is not None
    return change


async def test_nothing_is_admitted_until_a_later_revision_is_applied(node: Near) -> None:
    given(node)
    assert (node.is_shut, node.mirror.held_early) == (True, True)
    node.mirror.learn(node.state)
    await turns()
    assert node.is_shut
    await node.ledger.make(flip)
    assert (node.state.pointer.active, node.is_shut, node.mirror.held_early) == ("green", False, False)
    assert node.doors == [False, True, False]


async def test_a_later_revision_by_which_all_hold_keeps_it_shut(node: Near) -> None:
    given(node)
    await node.barrier.pause(5.0, actor="ada", reason="")
    assert node.doors == [False, True]
    await node.barrier.resume(actor="ada", reason="")
    assert node.doors == [False, True, False]


async def test_who_asked_may_say_that_nothing_came_of_it(node: Near) -> None:
    promise, revision = given(node), node.state.revision
    node.promises.end(promise, nothing_came=True)
    assert (node.is_shut, node.mirror.held_early) == (False, False)
    await turns()
    assert (node.state.revision, await node.verbs()) == (revision, [])


async def test_the_door_opens_when_all_who_asked_have_said_so(node: Near) -> None:
    first, second = given(node), given(node)
    node.promises.end(first, nothing_came=True)
    node.promises.end(first, nothing_came=True)
    assert node.is_shut
    node.promises.end(second, nothing_came=True)
    assert not node.is_shut


async def test_one_that_was_given_before_a_state_was_read_that_it_is_about(node: Near) -> None:
    assert node.promises.give(node.state.revision + 1) is not None
    await node.ledger.make(flip)
    assert node.is_shut, "another may commit on that one"
    await node.ledger.move(Move("flip", "blue", "ada", ""))
    assert not node.is_shut


async def test_it_is_not_given_where_more_is_known_or_the_store_is_at_odds(node: Near) -> None:
    before = node.state
    await node.ledger.make(flip)
    assert node.promises.give(before.revision) is None
    node.mirror.contradiction = Contradiction(Verdict.BEHIND, node.state, before)
    assert node.promises.give(node.state.revision) is None
    assert node.doors == [False]
    nobody = Near("n2", open_store(StoreOptions()), FlipOptions())
    assert nobody.promises.give(1) is None


async def test_who_asked_and_died_cannot_commit_any_more_before_the_door_opens(node: Near) -> None:
    base = node.state
    node.promises.end(given(node), nothing_came=False)
    assert node.is_shut
    await come(lambda: not node.is_shut)
    assert (await node.verbs(), node.state.pointer) == (["abandon"], base.pointer)
    with pytest.raises(Conflict):
        await node.store.commit(flip(base))


async def test_who_asked_and_died_after_its_commit_has_flipped(node: Near) -> None:
    promise = given(node)
    await node.store.commit(flip(node.state))  # of which this node hears nothing
    node.promises.end(promise, nothing_came=False)
    await come(lambda: not node.is_shut)
    assert (await node.verbs(), node.state.pointer.active) == (["flip"], "green")


async def test_who_asked_and_says_nothing_is_not_waited_for_longer_than_a_flip_may_hold(node: Near) -> None:
    base = node.state
    node.barrier.options = FlipOptions(hold_timeout=0.01)
    given(node)
    await come(lambda: not node.is_shut)
    assert await node.verbs() == ["abandon"]
    with pytest.raises(Conflict):
        await node.store.commit(flip(base))


async def test_without_the_store_it_goes_on_holding(node: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(node.store, "commit", away)
        broken.setattr(node.store, "read", away)
        node.promises.end(given(node), nothing_came=False)
        await turns()
        assert node.is_shut
    await come(lambda: not node.is_shut)
    assert await node.verbs() == ["abandon"]


async def test_after_an_outage_those_come_first_who_know_what_it_hides(
    node: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flip was made, and a failover has lost it: nothing goes to the old color until it is written back."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds == 1.5:
            await node.ledger.make(flip)  # as another node writes it back
            await asyncio.sleep(60)

    monkeypatch.setattr(node.promises, "_sleep", sleep)
    promise = given(node)
    monkeypatch.setattr(Mirror, "unsettled", 1.5)
    assert node.promises.give(node.state.revision) is None, "not before it knows what the outage hides"
    node.promises.end(promise, nothing_came=False)
    await come(lambda: not node.is_shut)
    assert (await node.verbs(), node.state.pointer.active) == (["flip"], "green")


async def test_what_a_failover_has_left_and_is_written_anew_is_no_later_revision(
    node: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flip was made and lost: the state before it is written back first, by who has not heard of it."""
    promise = given(node)
    with monkeypatch.context() as behind:
        behind.setattr(Mirror, "unsettled", 1.5)
        await node.ledger.make(lambda state: forestall(state, state.revision, actor="restore"))
        assert node.is_shut
    node.promises.end(promise, nothing_came=False)
    await come(lambda: not node.is_shut)
    assert await node.verbs() == ["abandon"], "nothing more has to be made"
    given(node)
    monkeypatch.setattr(Mirror, "unsettled", 1.5)
    await node.ledger.make(flip)
    assert not node.is_shut, "the pointer has moved"


async def test_where_the_store_has_another_history_nothing_can_come_of_it(
    node: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def make(*_: object, **__: object) -> None:
        raise Split("two pointers")

    monkeypatch.setattr(node.ledger, "make", make)
    node.promises.end(given(node), nothing_came=False)
    await come(lambda: not node.is_shut)


async def test_a_node_that_ends_does_not_open(node: Near) -> None:
    given(node)
    await node.promises.stop()
    await turns()
    assert node.is_shut


async def test_a_bell_and_a_promise_are_two_reasons(node: Near) -> None:
    """A bell that told of nothing does not open what a promise keeps shut."""
    promise = given(node)
    await node.mirror.rung_to_hold(node.state.revision + 1)  # type: ignore[arg-type]
    assert node.is_shut
    node.promises.end(promise, nothing_came=True)
    assert not node.is_shut


def test_a_later_revision_needs_none(node: Near) -> None:
    assert forestall(node.state, node.state.revision - 1, actor="bgproxy") is None
    for revision in (node.state.revision, node.state.revision + 1):
        change = forestall(node.state, revision, actor="bgproxy")
        assert change is not None
        assert (change.state.revision, change.state.pointer) == (node.state.revision + 1, node.state.pointer)
