"""The promises of `store/base.py`, kept by all stores alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from bgproxy.errors import BadInput, CannotJoin
from bgproxy.rules.deadline import set_deadline
from bgproxy.rules.restore import Contradiction, Verdict, restored
from bgproxy.store.base import Conflict, NodeReport, Store
from bgproxy.store.trail import verify

Opened = Callable[..., Awaitable[Store]]
stores = ("memory", "snapshot", "handed", "redis", "sentinel", "cluster")

NODE = NodeReport("host-1", "host", 12, "0.1", 3, {"blue": 1}, {"green": 2}, {"blue": 0}, 0.0, 9, {"blue": 3.25})


@pytest.fixture
async def store(url: str, opened: Opened) -> Store:
    return await opened(url)


def bells(store: Store) -> AsyncGenerator[int, None]:
    return cast("AsyncGenerator[int, None]", store.watch())


async def test_it_keeps_the_protocol(store: Store) -> None:
    assert isinstance(store, Store)
    assert store.shared is (store.kind == "redis")


async def test_a_new_store_holds_nothing(store: Store) -> None:
    assert await store.read() is None
    assert await store.audit(limit=10) == []
    assert await store.nodes() == []


async def test_what_was_committed_is_what_is_read(store: Store, flips: Any) -> None:
    first, _ = await store.commit(flips.first(), create=True)
    assert await store.read() == first
    second, _ = await store.commit(flips.flip(first))
    assert await store.read() == second
    assert (second.pointer.active, second.pointer.epoch, second.revision) == ("green", 2, 2)
    third, _ = await store.commit(flips.stage(second, "blue", "v3"))
    assert await store.read() == third
    assert (third.pointer, third.revision) == (second.pointer, 3)


async def test_times_are_the_stores(store: Store, flips: Any) -> None:
    before = time.time()
    first, entry = await store.commit(flips.first(), create=True)
    assert before - 1 < entry.at < time.time() + 1
    assert first.pointer.at == entry.at
    assert {release.at for release in first.releases.values()} == {entry.at}
    second, later = await store.commit(flips.stage(first, "green", "v3"))
    assert later.at >= entry.at
    assert second.pointer.at == first.pointer.at
    assert second.releases["blue"].at == first.releases["blue"].at
    assert second.releases["green"].at == later.at


async def test_a_deadline_counts_from_the_stores_time_and_stays_as_it_is(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    state, _ = await store.commit(flips.flip(state))
    for seconds in (0.0, 7.123, 86_400.0):
        change = set_deadline(state, "blue", seconds, actor="ada", reason="", at=1.0)
        assert change is not None
        state, entry = await store.commit(change)
        assert await store.read() == state
        assert state.releases["blue"].deadline == pytest.approx(entry.at + seconds, abs=2e-6)
        assert state.releases["blue"].at == entry.at
    standing = state.releases["blue"].deadline
    state, _ = await store.commit(flips.stage(state, "blue", "v3"))
    assert (state.releases["blue"].deadline, standing > 0) == (0.0, True)
    assert await store.read() == state


async def test_texts_come_back_as_they_went(store: Store, flips: Any) -> None:
    first, _ = await store.commit(flips.first(), create=True)
    reason = 'quote " brace } ,"at":1} newline\n nul \0 snow ☃ 😀'
    state, entry = await store.commit(flips.flip(first, actor="a\tb", reason=reason))
    assert state.pointer.reason == reason
    assert await store.read() == state
    assert await store.audit(limit=1) == [entry]
    assert entry.actor == "a\tb"


async def test_only_one_beginning(store: Store, flips: Any) -> None:
    first, _ = await store.commit(flips.first(), create=True)
    with pytest.raises(Conflict) as lost:
        await store.commit(flips.first("green"), create=True)
    assert lost.value.current == first
    assert await store.read() == first


async def test_nothing_to_change_where_nothing_is(store: Store, flips: Any) -> None:
    with pytest.raises(Conflict) as lost:
        await store.commit(flips.flip(flips.first().state))
    assert lost.value.current is None
    assert await store.read() is None
    assert await store.audit(limit=10) == []


async def test_a_change_of_an_older_revision_loses(store: Store, flips: Any) -> None:
    first, _ = await store.commit(flips.first(), create=True)
    second, _ = await store.commit(flips.flip(first))
    with pytest.raises(Conflict) as lost:
        await store.commit(flips.flip(first))
    assert lost.value.current == second
    assert await store.read() == second
    assert len(await store.audit(limit=10)) == 2


async def test_a_change_of_a_revision_that_never_was_loses(store: Store, flips: Any) -> None:
    first, _ = await store.commit(flips.first(), create=True)
    with pytest.raises(Conflict):
        await store.commit(flips.flip(replace(first, revision=7)))


async def test_a_change_of_another_history_loses_though_the_revision_is_the_same(store: Store, flips: Any) -> None:
    first, _ = await store.commit(flips.first(), create=True)
    second, _ = await store.commit(flips.flip(first))
    for elsewhere in ({"epoch": 1}, {"active": "blue"}, {"at": second.pointer.at + 0.000001}):
        pointer = replace(second.pointer, **elsewhere)
        with pytest.raises(Conflict) as lost:
            await store.commit(replace(flips.flip(second), base=replace(second, pointer=pointer)))
        assert lost.value.current == second
    assert (await store.commit(flips.stage(second, "blue", "v3")))[0].revision == 3


async def test_what_is_written_whole_leaves_nothing_of_what_stood(store: Store, flips: Any) -> None:
    first, _ = await store.commit(flips.first(), create=True)
    lost = replace(flips.stage(first, "green", "v9").state, revision=7, colors=("blue", "green", "red"))
    found, _ = await store.commit(restored(Contradiction(Verdict.BEHIND, lost, first), actor="a", reason="b"))
    assert await store.read() == found
    assert (found.revision, found.releases["green"].label) == (8, "v9")
    held = replace(found, revision=20, releases={"blue": first.releases["blue"]})
    again = restored(Contradiction(Verdict.BEHIND, held, found), actor="a", reason="b")
    state, entry = await store.commit(again)
    assert await store.read() == state
    assert (state.revision, [*state.releases]) == (21, ["blue"])
    assert entry.facts["dropped"] == {"green": "v9, staged"}
    with pytest.raises(Conflict):  # somebody else was faster
        await store.commit(again)
    assert (await verify(store)).fault is None


async def test_many_commit_and_one_wins_each_epoch(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    for epoch in range(2, 7):
        attempts = [store.commit(flips.flip(state, actor=f"actor-{n}")) for n in range(40)]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        won = [result for result in results if not isinstance(result, BaseException)]
        lost = [result for result in results if isinstance(result, Conflict)]
        assert (len(won), len(lost)) == (1, 39)
        state, entry = won[0]
        assert state.pointer.epoch == epoch
        assert state.pointer.actor == entry.actor
        assert all(conflict.current == state for conflict in lost)
        assert await store.read() == state
    assert [entry.epoch for entry in await store.audit(limit=100)] == [6, 5, 4, 3, 2, 1]


async def test_the_audit_is_newest_first_and_in_pages(store: Store, flips: Any) -> None:
    state, first = await store.commit(flips.first(), create=True)
    entries = [first]
    for _ in range(6):
        state, entry = await store.commit(flips.flip(state))
        entries.append(entry)
    newest_first = entries[::-1]
    assert await store.audit(limit=100) == newest_first
    page = await store.audit(limit=3)
    assert page == newest_first[:3]
    assert await store.audit(limit=3, before=page[-1].id) == newest_first[3:6]
    assert await store.audit(limit=3, before=first.id) == []
    assert await store.audit(limit=0) == []
    assert entries[1].verb == "flip"
    assert entries[1].facts["phases"] == {"blue": ["active", "standby"], "green": ["ready", "active"]}


@pytest.mark.parametrize("before", ["", "x", "1-", "-1", "1 0", "+", "(1-0", "٣", "9" * 30])
async def test_an_id_that_is_none(store: Store, before: str) -> None:
    with pytest.raises(BadInput, match="before"):
        await store.audit(limit=3, before=before)


async def test_the_audit_does_not_grow_for_ever(url: str, opened: Opened, flips: Any) -> None:
    store = await opened(url, audit_keep=5)
    state, _ = await store.commit(flips.first(), create=True)
    for _ in range(300):
        state, _ = await store.commit(flips.flip(state))
    kept = await store.audit(limit=1_000)
    assert 5 <= len(kept) <= 250  # Redis trims whole blocks
    assert kept[0].revision == state.revision


async def test_every_commit_rings_and_the_first_ring_is_the_subscription(store: Store, flips: Any) -> None:
    async with aclosing(bells(store)) as mine, aclosing(bells(store)) as other:
        assert await anext(mine) == 0
        assert await anext(other) == 0
        state, _ = await store.commit(flips.first(), create=True)
        assert (await anext(mine), await anext(other)) == (1, 1)
        state, _ = await store.commit(flips.flip(state))
        assert (await anext(mine), await anext(other)) == (2, 2)


async def test_what_loses_does_not_ring(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    async with aclosing(bells(store)) as mine:
        assert await anext(mine) == 0
        with pytest.raises(Conflict):
            await store.commit(flips.first(), create=True)
        await store.commit(flips.flip(state))
        assert await anext(mine) == 2


async def test_a_watcher_that_left_is_forgotten(store: Store, flips: Any) -> None:
    watching = bells(store)
    assert await anext(watching) == 0
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await watching.aclose()
    await store.commit(flips.first(), create=True)


async def test_the_time_is_the_one_of_the_record(store: Store, flips: Any) -> None:
    before = await store.now()
    _, entry = await store.commit(flips.first(), create=True)
    assert before <= entry.at <= await store.now() < before + 60


async def test_nodes_come_and_go(store: Store) -> None:
    assert await store.beat(NODE) is False
    assert await store.beat(replace(NODE, id="host-0", epoch=4)) is False
    zero, one = await store.nodes()
    assert (zero.id, zero.epoch, one.id) == ("host-0", 4, "host-1")
    assert replace(one, age=0.0) == NODE
    assert 0 <= one.age < 1
    assert await store.beat(replace(NODE, epoch=5, serial=2, finishing=True)) is True
    assert [node.finishing for node in await store.nodes()] == [False, True]
    assert [(node.epoch, node.serial) for node in await store.nodes()] == [(4, 0), (5, 2)]
    assert await store.leave("host-1") is True
    assert await store.leave("host-1") is False
    assert [node.id for node in await store.nodes()] == ["host-0"]
    assert await store.beat(NODE) is False


async def test_a_silent_node_stays_registered(url: str, opened: Opened) -> None:
    store = await opened(url, node_ttl=0.1)
    await store.beat(NODE)
    await store.beat(replace(NODE, id="other", serial=7))
    assert [node.live for node in await store.nodes()] == [True, True]
    await asyncio.sleep(0.15)
    assert await store.beat(NODE) is True
    heard, silent = await store.nodes()
    assert (heard.id, heard.live, silent.id, silent.live) == ("host-1", True, "other", False)
    assert silent.age > 0.1
    assert replace(silent, age=0.0, live=True) == replace(NODE, id="other", serial=7)
    assert await store.beat(replace(NODE, id="other")) is True
    assert [node.live for node in await store.nodes()] == [True, True]


async def test_a_node_that_has_beaten_since_is_not_taken_off(store: Store) -> None:
    await store.beat(replace(NODE, serial=3))
    assert await store.leave("host-1", 2) is False
    assert len(await store.nodes()) == 1
    assert await store.leave("host-1", 3) is True
    assert await store.leave("host-1", 3) is False
    assert await store.nodes() == []


async def test_what_a_dead_node_still_has_on_its_way_does_not_count(store: Store) -> None:
    await store.beat(NODE)
    assert await store.leave("host-1", dead=True) is True
    with pytest.raises(CannotJoin, match="node host-1 was signed off as dead"):
        await store.beat(replace(NODE, serial=9))
    assert await store.nodes() == []
    assert await store.leave("host-1", dead=True) is False
    assert await store.leave("host-2", dead=True) is False  # its first beat is on its way
    with pytest.raises(CannotJoin):
        await store.beat(replace(NODE, id="host-2"))
    assert await store.beat(replace(NODE, id="host-3")) is False


@pytest.mark.parametrize("other", [{"schema": 99}, {"protocol": 99}, {"schema": 0, "protocol": 0}])
async def test_nodes_that_speak_otherwise_do_not_join_one_another(
    url: str, opened: Opened, other: dict[str, Any]
) -> None:
    store = await opened(url, node_ttl=0.2)
    await store.beat(NODE)
    foreign = replace(NODE, id="new", version="7.1", **other)
    with pytest.raises(
        CannotJoin, match=r"\(7\.1, schema \d+, protocol \d+\).*: host-1 \(0\.1, schema 1, protocol 1\)"
    ):
        await store.beat(foreign)
    assert [node.id for node in await store.nodes()] == ["host-1"]
    assert await store.beat(replace(NODE, id="next", version="7.1")) is False  # another version alone is no reason
    await asyncio.sleep(0.25)
    assert await store.beat(foreign) is False  # the silent are not asked
    assert await store.beat(NODE) is True  # and whoever is registered stays
    assert [node.live for node in await store.nodes()] == [True, True, False]


async def test_an_error_names_some_of_many_nodes(store: Store) -> None:
    for number in range(10):
        await store.beat(replace(NODE, id=f"host-{number}"))
    with pytest.raises(CannotJoin, match=r"host-7 \(.*\) and 2 more; run their version here"):
        await store.beat(replace(NODE, id="new", protocol=99))


async def test_closing_twice_is_no_error(store: Store) -> None:
    await store.close()
    await store.close()


async def test_what_is_told_of_a_topic_is_read_by_all(store: Store) -> None:
    assert await store.told("r1:bake:2") == {}
    await store.tell("r1:bake:2", "one", '{"a": "ü"}')
    await store.tell("r1:bake:2", "two", "b")
    await store.tell("r1:bake:2", "one", "c")
    await store.tell("r2", "one", "d")
    assert await store.told("r1:bake:2") == {"one": "c", "two": "b"}
    assert await store.told("r2") == {"one": "d"}
