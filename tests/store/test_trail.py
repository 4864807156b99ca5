"""The audit's chain in both stores: made with each commit, walked as a whole, and every hand in between found."""
# ruff: noqa: ASYNC240 - small files, looked at by a test that nothing else waits for

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from bgproxy.errors import BadInput, StoreBroken
from bgproxy.rules.chain import GENESIS, Report
from bgproxy.store import memory, trail
from bgproxy.store.base import Conflict, Store
from bgproxy.store.document import entry_document
from bgproxy.store.trail import verify

Opened = Callable[..., Awaitable[Store]]
Rows = list[tuple[bytes, dict[bytes, bytes]]]


async def written(store: Store, flips: Any, count: int = 6) -> None:
    """So many changes on record, the fleet's first state among them."""
    state, _ = await store.commit(flips.first(), create=True)
    for number in range(count - 1):
        state, _ = await store.commit(flips.flip(state, reason=f"why {number} ☃"))


async def test_every_change_is_a_link(url: str, opened: Opened, flips: Any) -> None:
    store = await opened(url)
    assert await store.head() is None
    assert await verify(store) == Report(0, None, None, "", "", 0, None)
    state, first = await store.commit(flips.first(), create=True)
    state, second = await store.commit(flips.flip(state, actor="a\tb", reason='" ☃ \0 😀'))
    _, third = await store.commit(flips.stage(state, "blue", "v3"))
    assert [entry.seq for entry in (first, second, third)] == [1, 2, 3]
    assert (first.prev, second.prev, third.prev) == (GENESIS, first.hash, second.hash)
    assert await store.audit(limit=9) == [third, second, first]
    assert await verify(store) == Report(3, 1, 3, third.hash, "", 0, None)


async def test_the_trail_is_oldest_first_and_in_pages(url: str, opened: Opened, flips: Any) -> None:
    store = await opened(url)
    await written(store, flips)
    everything = [entry_document(entry) for entry in await store.audit(limit=9)][::-1]
    assert await store.trail(limit=9) == everything
    assert await store.trail(limit=2) == everything[:2]
    assert await store.trail(limit=3, after=everything[1]["id"]) == everything[2:5]
    assert await store.trail(limit=3, after=everything[-1]["id"]) == []
    for bad in ("", "x", "-", "(0", "1-"):
        with pytest.raises(BadInput, match="after"):
            await store.trail(limit=1, after=bad)


async def test_who_loses_a_race_leaves_no_link(url: str, opened: Opened, flips: Any) -> None:
    store = await opened(url)
    state, _ = await store.commit(flips.first(), create=True)
    for _ in range(5):
        found = await asyncio.gather(*(store.commit(flips.flip(state)) for _ in range(9)), return_exceptions=True)
        (won,) = (one for one in found if not isinstance(one, BaseException))
        assert sum(isinstance(one, Conflict) for one in found) == 8
        state = won[0]
    assert (await verify(store)).last == 6
    assert (await verify(store)).fault is None


async def test_it_is_walked_while_changes_go_on(
    url: str, opened: Opened, flips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PAGE", 3)
    store = await opened(url, audit_keep=100)
    await written(store, flips)
    state = await store.read()

    async def change() -> None:
        nonlocal state
        for _ in range(30):
            state, _ = await store.commit(flips.flip(state))
            await asyncio.sleep(0)

    changing = asyncio.ensure_future(change())
    while not changing.done():
        assert (await verify(store)).fault is None
    assert (await verify(store)).last == 36


async def test_what_retention_takes_from_under_the_walk_is_not_missing(
    opened: Opened, flips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PAGE", 2)
    store = await opened("memory://", audit_keep=6)
    await written(store, flips)
    straight, busy = store.trail, 1

    async def between(**asked: Any) -> Any:
        nonlocal busy
        if "after" in asked and busy:
            busy -= 1
            for _ in range(5):
                await store.commit(flips.flip(await store.read()))
        return await straight(**asked)

    monkeypatch.setattr(store, "trail", between)
    report = await verify(store)
    assert (report.first, report.last, report.fault) == (6, 11, None)


async def test_retention_keeps_the_rest_verifiable(url: str, opened: Opened, flips: Any) -> None:
    store = await opened(url, audit_keep=5)
    await written(store, flips, 250)
    report = await verify(store)
    assert report.fault is None
    assert report.first is not None
    assert report.first > 1
    assert (report.last, report.entries) == (250, 251 - report.first)
    assert len(report.anchor) == 64
    assert report.anchor == (await store.trail(limit=1))[0]["prev"]


@pytest.mark.redis
async def test_the_hash_of_the_script_is_the_standards(redis_server: Any) -> None:
    script = files("bgproxy.store").joinpath("sha256.lua").read_text() + "return sha256(ARGV[1])"
    with Redis.from_url(redis_server.url) as client:
        made = client.register_script(script)
        for size in [*range(200), 1_000]:
            text = os.urandom(size)
            assert made(args=[text]).decode() == hashlib.sha256(text).hexdigest(), size


@pytest.mark.redis
class TestHandsInRedis:
    @pytest.fixture
    def keys(self, fleet_name: str) -> tuple[str, str]:
        return f"bgproxy:{{{fleet_name}}}:audit", f"bgproxy:{{{fleet_name}}}:state"

    @pytest.fixture
    def client(self, redis_server: Any) -> Any:
        with Redis.from_url(redis_server.url) as client:
            yield client

    @pytest.fixture
    async def store(self, redis_server: Any, opened: Opened, flips: Any) -> Store:
        store = await opened(redis_server.url)
        await written(store, flips)
        return store

    def rewrite(self, client: Any, key: str, rows: Rows) -> None:
        """A stream can only be edited by being written anew."""
        client.delete(key)
        for number, (_, fields) in enumerate(rows):
            client.xadd(key, fields, id=f"{number + 1}-0")

    @pytest.mark.parametrize(
        "name", [b"verb", b"actor", b"reason", b"facts", b"epoch", b"revision", b"at", b"seq", b"prev", b"hash"]
    )
    @pytest.mark.parametrize("value", [b"", b"1", b"{}", b"\xff", None])
    async def test_an_edit(self, store: Store, client: Any, keys: Any, name: bytes, value: bytes | None) -> None:
        rows: Rows = client.xrange(keys[0])
        fields = rows[2][1]
        if value is None:
            del fields[name]
        else:
            fields[name] = value
        self.rewrite(client, keys[0], rows)
        found = (await verify(store)).fault
        assert found is not None
        assert (found.kind, found.id) == ("edited", "3-0")

    async def test_a_member_more(self, store: Store, client: Any, keys: Any) -> None:
        rows: Rows = client.xrange(keys[0])
        rows[2][1][b"note"] = b"was always there"
        self.rewrite(client, keys[0], rows)
        found = (await verify(store)).fault
        assert found is not None
        assert (found.kind, found.seq) == ("edited", 3)

    @pytest.mark.parametrize("at", range(6))
    async def test_a_deletion(self, store: Store, client: Any, keys: Any, at: int, flips: Any) -> None:
        client.xdel(keys[0], client.xrange(keys[0])[at][0])
        found = (await verify(store)).fault
        assert found is not None
        assert (found.kind, found.seq) == ("missing", at + 1)
        await store.commit(flips.flip(await store.read()))
        assert (await verify(store)).fault == found or at == 5, "the next change does not cover it up"
        assert (await verify(store)).fault is not None

    async def test_another_order_and_a_stranger(self, store: Store, client: Any, keys: Any) -> None:
        rows: Rows = client.xrange(keys[0])
        self.rewrite(client, keys[0], [*rows[:2], rows[3], rows[2], *rows[4:]])
        found = (await verify(store)).fault
        assert found is not None
        assert (found.kind, found.seq) == ("out_of_order", 3)
        bare = {name: value for name, value in rows[2][1].items() if name not in (b"seq", b"prev", b"hash")}
        self.rewrite(client, keys[0], [*rows[:2], (b"", bare), *rows[2:]])
        found = (await verify(store)).fault
        assert found is not None
        assert (found.kind, found.id) == ("inserted", "3-0")

    async def test_the_head_is_part_of_it(self, store: Store, client: Any, keys: Any, flips: Any) -> None:
        head = client.hget(keys[1], "chain").decode()
        client.hdel(keys[1], "chain")
        found = (await verify(store)).fault
        assert found is not None
        assert found.kind == "inserted"
        await store.commit(flips.flip(await store.read()))
        assert (await verify(store)).fault is None, "it goes on behind what is on record"
        client.hset(keys[1], "chain", head.replace("6 1", "six 1"))
        with pytest.raises(StoreBroken, match="chain"):
            await verify(store)

    async def test_a_state_that_was_lost_alone(self, store: Store, client: Any, keys: Any, flips: Any) -> None:
        client.delete(keys[1])
        _, entry = await store.commit(flips.first(), create=True)
        assert entry.seq == 7
        assert (await verify(store)).fault is None
        client.delete(keys[1])
        client.xtrim(keys[0], maxlen=3, approximate=False)
        await store.commit(flips.first(), create=True)
        report = await verify(store)
        assert (report.first, report.last, report.fault) == (5, 8, None)
        client.xdel(keys[0], client.xrange(keys[0], count=1)[0][0])
        assert (await verify(store)).fault is not None

    async def test_data_from_before_the_chain(
        self, store: Store, client: Any, keys: Any, opened: Opened, flips: Any
    ) -> None:
        rows: Rows = client.xrange(keys[0])
        for _, fields in rows:
            for name in (b"seq", b"prev", b"hash"):
                del fields[name]
        self.rewrite(client, keys[0], rows)
        client.hdel(keys[1], "chain")
        assert (await verify(store)) == Report(0, None, None, "", "", 6, None)
        _, entry = await store.commit(flips.flip(await store.read()))
        report = await verify(store)
        assert (report.before, report.entries, report.fault, entry.seq) == (6, 1, None, 1)
        assert [one.seq for one in await store.audit(limit=9)] == [1, 0, 0, 0, 0, 0, 0]

    async def test_what_is_no_stream_stops_before_anything_is_written(
        self, store: Store, client: Any, keys: Any, flips: Any
    ) -> None:
        standing = await store.read()
        client.set(keys[0], "x")
        with pytest.raises(StoreBroken):
            await store.commit(flips.flip(standing))
        assert await store.read() == standing


class TestHandsInASnapshot:
    @pytest.fixture
    async def path(self, tmp_path: Path, opened: Opened, flips: Any) -> Path:
        path = tmp_path / "state.json"
        store = await opened(f"memory://{path}")
        await written(store, flips)
        await store.close()
        return path

    async def reopened(self, path: Path, opened: Opened, edit: Callable[[dict[str, Any]], Any], **more: Any) -> Store:
        document = orjson.loads(path.read_bytes())
        edit(document)
        path.write_bytes(orjson.dumps(document))
        return await opened(f"memory://{path}", **more)

    async def test_it_is_the_same_after_a_restart(self, path: Path, opened: Opened, flips: Any) -> None:
        store = await self.reopened(path, opened, lambda document: None)
        await store.commit(flips.flip(await store.read()))
        report = await verify(store)
        assert (report.entries, report.last, report.fault) == (7, 7, None)

    @pytest.mark.parametrize("file", ["snapshot", "handover"])
    async def test_the_file_has_the_newest_and_says_so(
        self, tmp_path: Path, opened: Opened, flips: Any, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        monkeypatch.setattr(memory, "_SNAPSHOT_AUDIT", 3)
        monkeypatch.setattr(memory, "_HANDOVER_AUDIT", 3)
        place = {file: f"{tmp_path}/{file}.json"}
        store = await opened("memory://", **place)
        await written(store, flips)
        await store.close()
        report = await verify(await opened("memory://", **place))
        assert (report.first, report.last, report.fault) == (4, 6, None)

    async def test_fewer_may_be_kept_by_then(self, path: Path, opened: Opened, flips: Any) -> None:
        store = await self.reopened(path, opened, lambda document: None, audit_keep=2)
        assert (await verify(store)).fault is None
        await store.commit(flips.flip(await store.read()))
        report = await verify(store)
        assert (report.first, report.last, report.fault) == (6, 7, None)

    async def test_data_from_before_the_chain(self, path: Path, opened: Opened, flips: Any) -> None:
        def unchain(document: dict[str, Any]) -> None:
            del document["chain"]
            for entry in document["audit"]:
                del entry["seq"], entry["prev"], entry["hash"]

        store = await self.reopened(path, opened, unchain)
        await store.commit(flips.flip(await store.read()))
        report = await verify(store)
        assert (report.before, report.first, report.last, report.fault) == (6, 1, 1, None)

    @pytest.mark.parametrize(
        ("edit", "kind", "seq"),
        [
            (lambda audit: audit[2].update(actor="eve"), "edited", 3),
            (lambda audit: audit[5]["facts"].update(to="blue"), "edited", 6),
            (lambda audit: audit[0].update(at=1.0), "edited", 1),
            (lambda audit: audit.pop(0), "missing", 1),
            (lambda audit: audit.pop(3), "missing", 4),
            (lambda audit: audit.pop(5), "missing", 6),
            (lambda audit: audit.insert(2, audit.pop(3)), "out_of_order", 3),
            (lambda audit: audit.insert(4, dict(audit[1])), "out_of_order", 2),
        ],
    )
    async def test_hands(self, path: Path, opened: Opened, edit: Any, kind: str, seq: int) -> None:
        def renumbered(document: dict[str, Any]) -> None:
            edit(document["audit"])
            for number, entry in enumerate(document["audit"], 1):
                entry["id"] = str(number)

        found = (await verify(await self.reopened(path, opened, renumbered))).fault
        assert found is not None
        assert (found.kind, found.seq) == (kind, seq)


@pytest.mark.redis
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["cut", "double", "verb", "at", "facts"]), st.binary(max_size=4)),
        min_size=1,
        max_size=2,
    )
)
def test_whatever_is_done_to_a_stream_is_found(edits: Any, redis_server: Any, fleet_name: str, flips: Any) -> None:
    from bgproxy.store.base import StoreOptions, open_store

    async def tried() -> None:
        store = open_store(StoreOptions(url=redis_server.url, fleet=fleet_name))
        key, state_key = f"bgproxy:{{{fleet_name}}}:audit", f"bgproxy:{{{fleet_name}}}:state"
        with Redis.from_url(redis_server.url) as client:
            client.delete(key, state_key)
            await written(store, flips)
            rows: Rows = client.xrange(key)
            before = [dict(fields) for _, fields in rows]
            for at, what, value in edits:
                place = at % len(rows)
                if what == "cut":
                    del rows[place]
                elif what == "double":
                    rows.append(rows[place])
                else:
                    rows[place] = (b"", {**rows[place][1], what.encode(): value})
            client.delete(key)
            for number, (_, fields) in enumerate(rows):
                client.xadd(key, fields, id=f"{number + 1}-0")
            assert ([fields for _, fields in rows] == before) is ((await verify(store)).fault is None)
        await store.close()

    asyncio.run(tried())
