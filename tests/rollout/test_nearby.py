"""A flip in one commit where all nodes are of one host: none admits by the old color after another by the new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bgproxy import tasks
from bgproxy.errors import NotReady, StaleEpoch, StoreUnavailable
from bgproxy.rollout import nearby, promises
from bgproxy.rules.barrier import Move, forestall
from bgproxy.rules.restore import Contradiction, Verdict
from bgproxy.store.base import NodeReport
from bgproxy.store.neighbours import LOOK_INTERVAL
from bgproxy.store.once import Once
from tests.rollout.near import Near, begun, come

FLIP = Move("flip", "green", "ada", "why")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "_BELL", 0.0)
    monkeypatch.setattr(promises, "_AGAIN", 0.0)


@pytest.fixture
async def host() -> AsyncIterator[list[Near]]:
    nodes = await begun("n1", "n2", "n3")
    for node in nodes:
        node.host.others = [other for other in nodes if other is not node]
        node.barrier.nearby = node.nearby
        await node.start()
    yield nodes
    for node in nodes:
        await node.stop()


async def agreed(host: list[Near], active: str, epoch: int) -> None:
    wanted = (active, epoch, False, False)
    await come(
        lambda: all(
            (one.state.pointer.active, one.state.pointer.epoch, one.is_shut, one.mirror.held_early) == wanted
            for one in host
        )
    )


def held_in_commits(host: list[Near], monkeypatch: pytest.MonkeyPatch) -> list[list[bool]]:
    """Which nodes' doors are shut in each commit to come."""
    seen: list[list[bool]] = []
    straight: Any = host[0].store.commit

    async def commit(*given: Any, **named: Any) -> Any:
        seen.append([one.is_shut for one in host])
        return await straight(*given, **named)

    monkeypatch.setattr(host[0].store, "commit", commit)
    return seen


async def test_all_hold_in_the_one_commit_and_follow(host: list[Near], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = held_in_commits(host, monkeypatch)
    outcome = await host[0].barrier.move(FLIP)
    assert (outcome.changed, outcome.state.pointer.active, outcome.replay) == (True, "green", None)
    assert outcome.entry is not None
    assert (outcome.entry.verb, outcome.entry.actor, outcome.entry.facts.get("left_behind")) == ("flip", "ada", None)
    await agreed(host, "green", 2)
    assert (await host[1].barrier.move(Move("rollback", "", "bob", ""))).state.pointer.active == "blue"
    await agreed(host, "blue", 3)
    assert (seen, await host[0].verbs()) == ([[True] * 3] * 2, ["flip", "rollback"])
    assert [one.doors for one in host] == [[False, True, False, True, False]] * 3


async def test_a_node_without_siblings_holds_too(host: list[Near], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may join right behind the commit, and admit by the new color before this one has heard its answer."""
    first, *others = host
    for other in others:
        await other.stop()
        await first.store.leave(other.name)
    first.host.others = []
    straight: Any = first.store.commit

    async def commit(*given: Any, **named: Any) -> Any:
        done = await straight(*given, **named)
        assert first.is_shut
        return done

    monkeypatch.setattr(first.store, "commit", commit)
    await first.barrier.move(FLIP)
    assert (first.doors, await first.verbs()) == ([False, True, False], ["flip"])


async def test_a_node_of_another_host_makes_it_go_the_general_way(host: list[Near]) -> None:
    first, second, stranger = host
    for one in (first, second):
        one.host.others.remove(stranger)
    outcome = await first.barrier.move(FLIP)
    assert (outcome.state.pointer.active, first.host.asked[0].nothing_came) == ("green", True)
    assert await first.verbs() == ["prepare", "flip"]
    await agreed(host, "green", 2)
    await first.barrier.move(Move("flip", "blue", "ada", ""))
    assert (len(first.host.asked), await first.verbs()) == (1, ["prepare", "flip"] * 2), "it is known: nobody is asked"
    first.now, first.listed = LOOK_INTERVAL, 3
    await first.barrier.move(FLIP)
    assert len(first.host.asked) == 1
    first.listed = 2
    await first.store.leave(stranger.name)
    await first.barrier.move(Move("flip", "blue", "ada", ""))
    assert (len(first.host.asked), (await first.verbs())[-2:]) == (2, ["flip", "flip"])


async def test_a_node_that_joins_meanwhile_is_waited_for(host: list[Near], monkeypatch: pytest.MonkeyPatch) -> None:
    straight: Any = host[0].store.now

    async def now() -> float:
        await host[0].store.beat(NodeReport("n4", "elsewhere", 1, "0", 1))
        return float(await straight())

    monkeypatch.setattr(host[0].store, "now", now)
    assert await host[0].nearby.move(FLIP) is None
    assert [one.is_shut for one in host] == [False] * 3
    assert await host[0].verbs() == []


async def test_one_that_does_not_give_its_word(host: list[Near], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host[2].promises, "give", lambda _: None)
    assert (await host[0].barrier.move(FLIP)).state.pointer.active == "green"
    assert (await host[0].verbs(), host[0].host.asked[0].nothing_came) == (["prepare", "flip"], True)
    await agreed(host, "green", 2)


@pytest.mark.parametrize(
    ("move", "error"),
    [
        (Move("flip", "green", "ada", "", if_epoch=7), StaleEpoch),
        (Move("flip", "green", "ada", "", problem="down"), NotReady),
    ],
)
async def test_what_is_refused_is_refused_by_what_stands(host: list[Near], move: Move, error: type[Exception]) -> None:
    with pytest.raises(error):
        await host[0].barrier.move(move)
    assert host[0].host.asked[0].nothing_came
    await agreed(host, "blue", 1)


async def test_nothing_to_do_is_no_flip(host: list[Near]) -> None:
    assert not (await host[0].barrier.move(Move("flip", "blue", "ada", ""))).changed
    assert await host[0].verbs() == []
    await agreed(host, "blue", 1)


async def test_what_another_has_changed_meanwhile_is_not_built_upon(
    host: list[Near], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word was given for the revision before."""
    straight: Any = host[0].store.now

    async def now() -> float:
        await host[2].ledger.make(lambda state: forestall(state, state.revision, actor="bob"))
        return float(await straight())

    monkeypatch.setattr(host[0].store, "now", now)
    assert await host[0].nearby.move(FLIP) is None
    assert (await host[0].verbs(), host[0].host.asked[0].nothing_came) == (["abandon"], True)
    await agreed(host, "blue", 1)


async def test_two_operators_at_once(host: list[Near]) -> None:
    asked = [node.barrier.move(Move("flip", "green", node.name, "", if_epoch=1)) for node in host]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes).count("Outcome") == 1
    await agreed(host, "green", 2)
    assert (await host[0].verbs()).count("flip") == 1


async def test_twins_under_one_key_are_one_flip(host: list[Near]) -> None:
    once = Once("deploy-7", "to green")
    outcomes = await asyncio.gather(*(node.barrier.move(FLIP, once) for node in host))
    assert {one.state.pointer.epoch for one in outcomes} == {2}
    assert (await host[0].verbs()).count("flip") == 1
    again = await host[1].barrier.move(FLIP, once)
    assert (again.replay is not None, again.state.pointer.epoch) == (True, 2)
    await agreed(host, "green", 2)


async def test_a_commit_whose_answer_is_lost_is_found_out_by_each(
    host: list[Near], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight: Any = host[0].store.commit

    async def commit(*given: Any, **named: Any) -> Any:
        await straight(*given, **named)
        monkeypatch.undo()
        raise StoreUnavailable("the answer was lost")

    monkeypatch.setattr(host[0].store, "commit", commit)
    with pytest.raises(StoreUnavailable):
        await host[0].nearby.move(FLIP)
    assert host[0].host.asked[0].nothing_came is False
    await agreed(host, "green", 2)


async def test_a_commit_that_never_came_is_made_impossible(host: list[Near], monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Callable[[], Any]] = []
    straight: Any = host[0].store.commit

    async def commit(*given: Any, **named: Any) -> Any:
        late.append(lambda: straight(*given, **named))
        monkeypatch.undo()
        raise StoreUnavailable("it was lost")

    monkeypatch.setattr(host[0].store, "commit", commit)
    with pytest.raises(StoreUnavailable):
        await host[0].nearby.move(FLIP)
    assert [one.is_shut for one in host] == [True] * 3, "none of them may go on before that is known"
    await agreed(host, "blue", 1)
    assert "abandon" in await host[0].verbs()
    with pytest.raises(Exception, match="revision"):
        await late[0]()


async def test_who_asks_dies_before_its_commit(host: list[Near], monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = host
    under_way, never = asyncio.Event(), asyncio.Event()

    async def now() -> float:
        under_way.set()
        await never.wait()
        return 0.0

    monkeypatch.setattr(first.store, "now", now)
    monkeypatch.setattr(nearby, "_PATIENCE", 60.0)
    flip = tasks.spawn(first.barrier.move(FLIP), "flip")
    await under_way.wait()
    assert [one.is_shut for one in host] == [True] * 3
    monkeypatch.setattr(first.host.asked[0], "end", lambda **_: None)
    flip.cancel()
    await asyncio.wait([flip])
    await first.stop()
    first.host.asked[0].__class__.end(first.host.asked[0], nothing_came=False)  # its lines have ended
    await agreed(others, "blue", 1)
    assert set(await first.verbs()) == {"abandon"}


async def test_a_caller_who_goes_away_before_the_commit_leaves_nothing(
    host: list[Near], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, never = asyncio.Event(), asyncio.Event()

    async def now() -> float:
        under_way.set()
        await never.wait()
        return 0.0

    monkeypatch.setattr(host[0].store, "now", now)
    flip = tasks.spawn(host[0].barrier.move(FLIP), "flip")
    await under_way.wait()
    flip.cancel()
    await asyncio.wait([flip])
    assert (host[0].host.asked[0].nothing_came, [one.is_shut for one in host]) == (True, [False] * 3)


async def test_a_store_that_does_not_answer_is_asked_for_no_commit(
    host: list[Near], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For nobody could tell what came of it, and all would hold until somebody can."""

    async def now() -> float:
        raise StoreUnavailable("away")

    seen = held_in_commits(host, monkeypatch)
    monkeypatch.setattr(host[0].store, "now", now)
    assert await host[0].nearby.move(FLIP) is None
    assert (seen, [one.is_shut for one in host]) == ([], [False] * 3)
    monkeypatch.setattr(host[0].store, "now", asyncio.Event().wait)
    monkeypatch.setattr(nearby, "_PATIENCE", 0.01)
    assert await host[0].nearby.move(FLIP) is None
    assert (seen, [one.is_shut for one in host]) == ([], [False] * 3)


@pytest.mark.parametrize("whose", [0, 1])
async def test_nobody_gives_its_word_whose_line_to_the_store_has_just_broken(
    host: list[Near], whose: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold until it hears what came of the flip, or knows what the store has lost."""
    monkeypatch.setattr(host[whose].mirror, "_broken", True)
    assert await host[0].nearby.move(FLIP) is None
    assert ([one.is_shut for one in host], await host[0].verbs()) == ([False] * 3, [])


async def test_a_store_that_breaks_off_while_they_give_their_word_may_be_another_by_then(
    host: list[Near], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not know of a node which has just joined: each beats again first."""
    straight: Any = host[0].store.now

    async def now() -> float:
        told = float(await straight())
        monkeypatch.setattr(host[0].mirror, "_broken", True)
        return told

    seen = held_in_commits(host, monkeypatch)
    monkeypatch.setattr(host[0].store, "now", now)
    assert await host[0].nearby.move(FLIP) is None
    assert (seen, [one.is_shut for one in host]) == ([], [False] * 3)


async def test_it_is_not_tried_in_a_pause_nor_while_the_store_is_at_odds(host: list[Near]) -> None:
    await host[0].barrier.pause(5.0, actor="ada", reason="")
    assert await host[0].nearby.move(FLIP) is None
    await host[0].barrier.resume(actor="ada", reason="")
    host[0].mirror.contradiction = Contradiction(Verdict.BEHIND, host[0].state, None)
    assert await host[0].nearby.move(FLIP) is None
    assert host[0].host.asked == []


async def test_who_is_excluded_is_left_behind_the_general_way(host: list[Near]) -> None:
    await host[2].stop()
    outcome = await host[0].barrier.move(FLIP, exclude=("n3",))
    assert outcome.entry is not None
    assert (outcome.entry.facts["left_behind"], host[0].host.asked) == (["n3"], [])
