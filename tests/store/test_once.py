"""Idempotency keys in both stores, and through the door: what was done under one is not done again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgproxy.errors import KeyReused, NotReady, StoreUnavailable
from bgproxy.rules.release import Phase, Release
from bgproxy.store import once as once_module
from bgproxy.store import redis as redis_module
from bgproxy.store.base import Conflict, Store
from bgproxy.store.ledger import Ledger
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import AlreadyDone, Done, Once

Opened = Callable[..., Awaitable[Store]]
KEY = Once("a key ☃".encode().hex(), "flip green")
OTHER = Once("another", "flip blue")
WHO: dict[str, Any] = {"actor": "ada", "reason": "because"}


@pytest.fixture(params=["memory", "snapshot", "handover", pytest.param("redis", marks=pytest.mark.redis)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What opens the same store again."""
    file = f"{tmp_path}/state.json"
    if request.param == "redis":
        return {"url": str(request.getfixturevalue("redis_server").url)}
    return {
        "memory": {"url": "memory://"},
        "snapshot": {"url": f"memory://{file}"},
        "handover": {"url": "memory://", "handover": file},
    }[request.param]


@pytest.fixture
async def store(place: dict[str, str], opened: Opened) -> Store:
    return await opened(**place)


async def numbers(store: Store) -> list[int]:
    """Of the changes on record."""
    return [entry.revision for entry in await store.audit(limit=99)][::-1]


async def test_a_change_under_a_key_is_made_once(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    assert await store.recall(KEY.key) is None
    state, entry = await store.commit(flips.flip(state), once=KEY)
    done = await store.recall(KEY.key)
    assert done == Done("flip green", True, "green", "blue", 2, 2, entry.at)
    with pytest.raises(AlreadyDone) as known:
        await store.commit(flips.flip(state), once=KEY)
    assert known.value.done == done
    with pytest.raises(AlreadyDone):  # it is looked at before the revision is
        await store.commit(flips.flip(flips.first().state), once=KEY)
    assert await store.read() == state
    assert await numbers(store) == [1, 2]
    state, _ = await store.commit(flips.flip(state), once=OTHER)
    state, _ = await store.commit(flips.flip(state))
    assert await numbers(store) == [1, 2, 3, 4]


async def test_who_loses_a_race_has_not_used_its_key(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    await store.commit(flips.flip(state))
    with pytest.raises(Conflict):
        await store.commit(flips.flip(state), once=KEY)
    assert await store.recall(KEY.key) is None


async def test_of_many_at_once_one_does_it(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    attempts = [store.commit(flips.flip(state, actor=f"{n}"), once=KEY) for n in range(30)]
    found = await asyncio.gather(*attempts, return_exceptions=True)
    won = [one for one in found if not isinstance(one, BaseException)]
    assert (len(won), sum(isinstance(one, AlreadyDone) for one in found)) == (1, 29)


async def test_the_first_answer_stays(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    await store.commit(flips.flip(state), once=KEY)
    done = await store.recall(KEY.key)
    assert done is not None
    assert await store.keep(KEY.key, replace(done, body='{"ü": "1"}')) == replace(done, body='{"ü": "1"}')
    assert (await store.keep(KEY.key, replace(done, body="second"))).body == '{"ü": "1"}'
    assert await store.recall(KEY.key) == replace(done, body='{"ü": "1"}')


async def test_an_answer_of_another_outcome_is_not_put_to_it(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    await store.commit(flips.flip(state), once=KEY)
    done = await store.recall(KEY.key)
    assert done is not None
    assert await store.keep(KEY.key, replace(done, changed=False, body="nothing to do")) == done
    assert await store.keep(KEY.key, replace(done, request="flip blue", body="nothing to do")) == done


async def test_what_changed_nothing_is_kept_too(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    kept = await store.keep(KEY.key, Done.of(KEY.request, state, changed=False))
    assert replace(kept, at=0.0) == Done("flip green", False, "blue", None, 1, 1)
    assert kept.at == pytest.approx(await store.now(), abs=5)
    with pytest.raises(AlreadyDone):
        await store.commit(flips.flip(state), once=KEY)
    assert await store.recall(KEY.key) == kept


async def test_it_outlives_a_restart(place: dict[str, str], opened: Opened, flips: Any) -> None:
    if place == {"url": "memory://"}:
        pytest.skip("nothing outlives a store without a file")
    store = await opened(**place)
    state, _ = await store.commit(flips.first(), create=True)
    state, _ = await store.commit(flips.flip(state), once=KEY)
    done = await store.recall(KEY.key)
    assert done is not None
    await store.close()
    again = await opened(**place)
    assert await again.recall(KEY.key) == done
    await again.keep(KEY.key, replace(done, body="told"))
    await again.keep(OTHER.key, Done.of(OTHER.request, state, changed=False))
    await again.close()
    third = await opened(**place)
    assert await third.recall(KEY.key) == replace(done, body="told")
    assert await third.recall(OTHER.key) is not None
    with pytest.raises(AlreadyDone):
        await third.commit(flips.flip(state), once=KEY)


@pytest.fixture
def limit(place: dict[str, str], opened: Opened, store: Store, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store with other limits from now on."""

    async def limit(ttl: float, kept: int = 3) -> Store:
        monkeypatch.setattr(once_module, "KEPT_KEYS", kept)
        monkeypatch.setattr(once_module, "KEY_TTL", ttl)
        script = f"local ONCE_TTL, ONCE_KEPT = {ttl}, {kept}\n" + redis_module._ONCE.partition("\n")[2]
        monkeypatch.setattr(redis_module, "_ONCE", script)
        return await opened(**place) if store.shared else store

    return limit


async def test_only_so_many_are_kept_and_only_so_long(limit: Any, flips: Any) -> None:
    store = await limit(3600)
    state, _ = await store.commit(flips.first(), create=True)
    keys = [Once(f"key {number}", "flip") for number in range(5)]
    for key in keys:
        state, _ = await store.commit(flips.flip(state), once=key)
    assert [await store.recall(key.key) is not None for key in keys] == [False, False, True, True, True]
    done = await store.recall(keys[2].key)
    assert (await store.keep(keys[2].key, replace(done, body="old"))).body == "old"
    await asyncio.sleep(0.31)
    store = await limit(0.3)
    assert [await store.recall(key.key) for key in keys] == [None] * 5
    # A key that is used anew after its time is the newest; what the next ones drive out is the old record, not this.
    state, _ = await store.commit(flips.flip(state), once=keys[2])
    store = await limit(3600)
    for key in keys[:2]:
        state, _ = await store.commit(flips.flip(state), once=key)
    assert [await store.recall(key.key) is not None for key in keys] == [True, True, True, False, False]
    assert (await store.recall(keys[2].key)).body == ""


@pytest.mark.redis
async def test_a_fleet_that_uses_no_keys_any_more_keeps_none(
    redis_server: Any, opened: Opened, flips: Any, fleet_name: str
) -> None:
    store = await opened(redis_server.url)
    await store.commit(flips.first(), create=True, once=KEY)
    left = int(redis_server.command("PTTL", f"bgproxy:{{{fleet_name}}}:once")[1:])
    assert 86_300_000 < left <= 86_400_000


class Node:
    """A mirror and a ledger on a store, as each process has them."""

    def __init__(self, store: Store) -> None:
        self.mirror = Mirror(store)
        self.ledger = Ledger(store, self.mirror, clock=lambda: 5.0, timeout=5.0)


@pytest.fixture
async def nodes(store: Store, place: dict[str, str], opened: Opened) -> list[Node]:
    """Two: on a store that is a single process they share it."""
    found = [Node(store), Node(await opened(**place) if store.shared else store)]
    releases = {
        "blue": Release("v1", ("http://127.0.0.1:1",), phase=Phase.READY, origin="config"),
        "green": Release("v2", ("http://127.0.0.1:2",), phase=Phase.READY, origin="config"),
    }
    for node in found:
        await node.ledger.bootstrap(("blue", "green", "empty"), "blue", releases, actor="config")
    return found


class TestThroughTheDoor:
    async def test_a_retry_is_told_the_first_outcome_whatever_came_since(self, nodes: list[Node]) -> None:
        one, two = nodes
        first = await one.ledger.flip("green", **WHO, once=KEY)
        assert (first.changed, first.replay) == (True, None)
        await one.ledger.rollback(**WHO)
        again = await two.ledger.flip("green", **WHO, once=KEY)
        assert again.replay is not None
        assert (again.replay.active, again.replay.epoch, again.changed) == ("green", 2, True)
        assert again.state.pointer.epoch == 3
        assert two.mirror.state == again.state
        recalled = await two.ledger.recall(KEY)
        assert recalled is not None
        assert recalled.replay == again.replay
        assert await two.ledger.recall(OTHER) is None

    async def test_a_retry_whose_first_answer_was_lost(
        self, nodes: list[Node], store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = store.commit

        async def lossy(*given: Any, **terms: Any) -> Any:
            await straight(*given, **terms)
            raise StoreUnavailable("no answer; whether the change was made is not known")

        monkeypatch.setattr(store, "commit", lossy)
        with pytest.raises(StoreUnavailable):
            await nodes[0].ledger.flip("green", **WHO, once=KEY)
        monkeypatch.setattr(store, "commit", straight)
        again = await nodes[1].ledger.flip("green", **WHO, once=KEY)
        assert again.replay is not None
        assert (again.replay.epoch, again.state.pointer.epoch) == (2, 2)

    async def test_a_retry_is_no_stale_one(self, nodes: list[Node]) -> None:
        await nodes[0].ledger.flip("green", **WHO, if_epoch=1, once=KEY)
        again = await nodes[1].ledger.flip("green", **WHO, if_epoch=1, once=KEY)
        assert again.replay is not None

    async def test_a_twin_that_came_between_the_look_and_the_decision(
        self, nodes: list[Node], store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def late(key: str) -> None:
            return None

        await nodes[0].ledger.flip("green", **WHO, once=KEY)
        monkeypatch.setattr(store, "recall", late)
        again = await nodes[0].ledger.flip("green", **WHO, once=KEY)  # where nothing is to do
        assert (again.changed, again.replay is not None) == (True, True)
        await nodes[0].ledger.rollback(**WHO)
        again = await nodes[0].ledger.flip("green", **WHO, once=KEY)  # where something would be
        assert (again.state.pointer.epoch, again.replay is not None) == (3, True)

    async def test_a_rollback_that_is_asked_for_twice_does_not_go_forth_again(self, nodes: list[Node]) -> None:
        await nodes[0].ledger.flip("green", **WHO)
        await nodes[0].ledger.rollback(**WHO, once=KEY)
        again = await nodes[1].ledger.rollback(**WHO, once=KEY)
        assert again.replay is not None
        assert (again.state.pointer.active, again.state.pointer.epoch) == ("blue", 3)

    async def test_many_at_once_over_two_nodes_are_one(self, nodes: list[Node], store: Store) -> None:
        await nodes[0].ledger.flip("green", **WHO)
        asked = [nodes[number % 2].ledger.rollback(**WHO, once=KEY) for number in range(16)]
        outcomes = await asyncio.gather(*asked)
        assert sum(outcome.replay is None for outcome in outcomes) == 1
        assert {outcome.replay.epoch for outcome in outcomes if outcome.replay} == {3}
        assert await numbers(store) == [1, 2, 3]

    async def test_many_at_once_with_nothing_to_do(self, nodes: list[Node], store: Store) -> None:
        outcomes = await asyncio.gather(*(nodes[n % 2].ledger.flip("blue", **WHO, once=KEY) for n in range(8)))
        assert not any(outcome.changed for outcome in outcomes)
        await nodes[0].ledger.flip("green", **WHO)
        late = await nodes[1].ledger.flip("blue", **WHO, once=KEY)
        assert late.replay is not None
        assert (late.changed, late.state.pointer.active) == (False, "green")

    async def test_another_request_under_the_key_is_refused_by_name(self, nodes: list[Node], store: Store) -> None:
        await nodes[0].ledger.flip("green", **WHO, once=KEY)
        with pytest.raises(KeyReused, match=KEY.name):
            await nodes[1].ledger.recall(Once(KEY.name, "else"))
        with pytest.raises(KeyReused, match=KEY.name):
            await nodes[1].ledger.rollback(**WHO, once=Once(KEY.name, "else"))
        assert await numbers(store) == [1, 2]

    async def test_what_was_refused_is_judged_anew(self, nodes: list[Node]) -> None:
        with pytest.raises(NotReady):
            await nodes[0].ledger.flip("empty", **WHO, once=KEY)
        await nodes[0].ledger.stage("empty", Release("v3", ("http://127.0.0.1:3",)), **WHO, once=OTHER)
        staged = await nodes[1].ledger.stage("empty", Release("v3", ("http://127.0.0.1:3",)), **WHO, once=OTHER)
        assert staged.replay is not None
        flipped = await nodes[1].ledger.flip("empty", **WHO, force=True, once=KEY)
        assert (flipped.changed, flipped.replay) == (True, None)

    async def test_no_key_is_no_memory(self, nodes: list[Node]) -> None:
        assert (await nodes[0].ledger.flip("green", **WHO)).replay is None
        assert (await nodes[0].ledger.rollback(**WHO)).changed
        assert (await nodes[0].ledger.rollback(**WHO)).changed
