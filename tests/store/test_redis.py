"""What only a real Redis can show: its refusals by name, its outages, its return."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bgproxy.errors import CannotJoin, NotRedis, SchemaTooNew, StoreAuth, StoreBroken, StoreUnavailable
from bgproxy.store.base import Conflict, NodeReport, Store, StoreOptions, open_store
from bgproxy.store.mirror import Mirror
from tests.store import rights
from tests.store.rights import QUOTED, SECRET

pytestmark = pytest.mark.redis

Opened = Callable[..., Awaitable[Store]]
NODE = NodeReport("n", "h", 1, "0.1", 1)


def everything_said(error: BaseException) -> str:
    """An error's text and representation, and those of all that led to it, as a traceback would show them."""
    said = [str(error), repr(error)]
    if (cause := error.__cause__) is not None:
        said.append(everything_said(cause))
    if not error.__suppress_context__ and (context := error.__context__) is not None:
        said.append(everything_said(context))
    return "\n".join(said)


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """A port where something else listens: it gives this answer to whatever comes, or none at all."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(1_000)
        if answer is not None:
            writer.write(answer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in writers:
            writer.close()
        server.close()


class TestTheWrongPlace:
    async def test_nothing_listens(self, opened: Opened, own_redis: Any) -> None:
        own_redis.kill()
        with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{own_redis.port}") as away:
            await opened(own_redis.url)
        assert type(away.value) is StoreUnavailable

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\x00\x01\x02",
            b"-ERR unknown command 'HELLO'\r\n",
        ],
    )
    async def test_something_else_speaks(self, opened: Opened, answer: bytes) -> None:
        async with answering(answer) as url:
            with pytest.raises(NotRedis, match=r"Redis"):
                await opened(url)

    async def test_something_is_silent(self, opened: Opened) -> None:
        async with answering(None) as url:
            began = asyncio.get_running_loop().time()
            with pytest.raises(StoreUnavailable, match=r"no answer within 0\.2 s.*no Redis"):
                await opened(url, connect_timeout=0.2)
            assert asyncio.get_running_loop().time() - began < 1

    async def test_something_closes_without_a_word(self, opened: Opened) -> None:
        async with answering(b"") as url:
            with pytest.raises(StoreUnavailable, match="rediss://"):
                await opened(url)

    async def test_tls_where_none_is_spoken(self, opened: Opened, redis_server: Any) -> None:
        # It waits for more of such a command, or answers at once if it happens to have a line's end in it.
        with pytest.raises(StoreUnavailable, match=r"speaks no TLS.* redis://|speaks no TLS \(redis://\)"):
            await opened(redis_server.url.replace("redis:", "rediss:"), connect_timeout=0.2)

    async def test_an_answer_that_repeats_what_was_sent_is_not_passed_on(self, opened: Opened) -> None:
        echo = f"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `{SECRET}`\r\n"
        async with answering(echo.encode()) as url:
            with pytest.raises(NotRedis) as refused:
                await opened(url.replace("redis://", f"redis://:{QUOTED}@"))
        assert SECRET not in everything_said(refused.value)

    async def test_a_password_in_any_other_answer_is_covered(self, opened: Opened) -> None:
        async with answering(f"-ERR what is {SECRET}?\r\n".encode()) as url:
            with pytest.raises(StoreUnavailable, match=r"what is \*\*\*") as refused:
                await opened(url.replace("redis://", f"redis://:{QUOTED}@"))
        assert SECRET not in everything_said(refused.value)


class TestCredentials:
    @pytest.fixture
    def guarded(self, own_redis: Any) -> Any:
        own_redis.command("CONFIG", "SET", "requirepass", SECRET)
        return own_redis

    def url(self, server: Any, credentials: str) -> str:
        return f"redis://{credentials}@127.0.0.1:{server.port}/0"

    async def test_the_right_password_with_special_characters(self, opened: Opened, guarded: Any, flips: Any) -> None:
        store = await opened(self.url(guarded, f":{QUOTED}"))
        await store.commit(flips.first(), create=True)
        assert SECRET not in repr(store)
        assert QUOTED not in repr(store)

    @pytest.mark.parametrize("credentials", ["", ":wrong-one", "nobody:wrong-one", f"nobody:{QUOTED}"])
    async def test_the_wrong_one(self, opened: Opened, guarded: Any, credentials: str) -> None:
        url = self.url(guarded, credentials) if credentials else guarded.url
        with pytest.raises(StoreAuth, match="user or password is refused") as refused:
            await opened(url)
        for secret in ("wrong-one", SECRET, QUOTED):
            assert secret not in everything_said(refused.value)

    async def test_the_wrong_one_on_a_socket(self, opened: Opened, guarded: Any) -> None:
        with pytest.raises(StoreAuth) as refused:
            await opened(f"unix://:wrong-one@{guarded.socket_path}")
        assert "wrong-one" not in everything_said(refused.value)

    async def test_a_password_that_was_changed_meanwhile(self, opened: Opened, own_redis: Any) -> None:
        store = await opened(own_redis.url)
        own_redis.kill()
        own_redis.arguments = ("--requirepass", SECRET)
        own_redis.start()
        await asyncio.sleep(0.02)  # the loop must have seen the old connection end
        with pytest.raises(StoreAuth):
            await store.read()

    async def test_a_user_who_may_read_but_not_write(self, opened: Opened, own_redis: Any, flips: Any) -> None:
        own_redis.command("ACL", "SETUSER", "bg", "on", f">{SECRET}", "~*", "&*", "+@all", "-hset")
        store = await opened(self.url(own_redis, f"bg:{QUOTED}"))
        with pytest.raises(StoreAuth, match="may not do this"):
            await store.commit(flips.first(), create=True)
        assert await store.read() is None


class TestData:
    async def keys(self, opened: Opened, server: Any, flips: Any) -> tuple[Store, str]:
        store = await opened(server.url)
        await store.commit(flips.first(), create=True)
        return store, f"bgproxy:{{{store._options.fleet}}}:state"  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("pointer", "{"),
            ("pointer", "[]"),
            ("pointer", '{"active":"blue"}'),
            ("pointer", ""),
            ("colors", "blue"),
            ("colors", '["pink"]'),
            ("release:blue", "null"),
            ("release:pink", "{}"),
            ("revision", "x"),
            ("schema", "one"),
        ],
    )
    async def test_a_broken_field_is_named_and_left(
        self, opened: Opened, redis_server: Any, flips: Any, field: str, value: str
    ) -> None:
        store, key = await self.keys(opened, redis_server, flips)
        redis_server.command("HSET", key, field, value)
        before = sorted(redis_server.command("HGETALL", key).splitlines())  # a hash has no order
        with pytest.raises(StoreBroken, match=r"state.* cannot be understood"):
            await store.read()
        with pytest.raises((StoreBroken, Conflict)):
            await store.commit(flips.first(), create=True)
        assert sorted(redis_server.command("HGETALL", key).splitlines()) == before

    async def test_a_missing_field(self, opened: Opened, redis_server: Any, flips: Any) -> None:
        store, key = await self.keys(opened, redis_server, flips)
        redis_server.command("HDEL", key, "pointer")
        with pytest.raises(StoreBroken, match="pointer"):
            await store.read()

    async def test_bytes_that_are_no_text(self, opened: Opened, redis_server: Any, flips: Any) -> None:
        store, key = await self.keys(opened, redis_server, flips)
        redis_server.command("EVAL", f"return redis.call('HSET', '{key}', '\\255\\254', '1')", "0")
        with pytest.raises(StoreBroken):
            await store.read()

    async def test_a_key_that_is_something_else(self, opened: Opened, redis_server: Any, fleet_name: str) -> None:
        redis_server.command("SET", f"bgproxy:{{{fleet_name}}}:state", "x")
        with pytest.raises(StoreBroken, match=rf"key bgproxy:{{{fleet_name}}}:state holds something else"):
            await opened(redis_server.url)

    async def test_a_newer_schema(self, opened: Opened, redis_server: Any, flips: Any, fleet_name: str) -> None:
        store, key = await self.keys(opened, redis_server, flips)
        state = await store.read()
        redis_server.command("HSET", key, "schema", "2")
        with pytest.raises(SchemaTooNew, match=r"newer bgproxy \(schema 2"):
            await store.read()
        with pytest.raises(SchemaTooNew):
            await store.commit(flips.flip(state))
        with pytest.raises(SchemaTooNew):
            await store.commit(flips.first(), create=True)
        with pytest.raises(SchemaTooNew):
            await opened(redis_server.url)
        redis_server.command("HSET", key, "schema", "1")
        assert await store.read() == state

    async def test_a_node_whose_report_is_not_understood_is_there_all_the_same(
        self, opened: Opened, redis_server: Any, fleet_name: str
    ) -> None:
        store = await opened(redis_server.url)
        await store.beat(NODE)
        key = f"bgproxy:{{{fleet_name}}}:nodes"
        redis_server.command(
            "HSET", key, "list", "[]", "none", "x", "odd", f'{{"id":"else","serial":7,"at":{time.time()}}}'
        )
        found = await store.nodes()
        assert [(node.id, node.live, node.epoch) for node in found] == [
            ("list", False, 0),
            ("n", True, 1),
            ("none", False, 0),
            ("odd", True, 0),
        ]
        assert [node.serial for node in found] == [0, 0, 0, 7]
        assert await store.leave("odd", 7) is True
        assert await store.leave("none", 0) is True

    async def test_a_live_node_of_an_older_bgproxy_keeps_others_out(
        self, opened: Opened, redis_server: Any, fleet_name: str
    ) -> None:
        store = await opened(redis_server.url)
        report = f'{{"id":"old","version":"0.0.9 \\"protocol\\":1,\\"schema\\":1","at":{time.time()}}}'
        redis_server.command("HSET", f"bgproxy:{{{fleet_name}}}:nodes", "old", report)
        with pytest.raises(CannotJoin, match=r'old \(0\.0\.9 "protocol":1,"schema":1, schema 0, protocol 0\)'):
            await store.beat(NODE)

    @pytest.mark.parametrize("payload", ["", "x", "-1", "1.5", "9" * 400, "٣"])
    async def test_who_rings_the_bell_cannot_flip(
        self, opened: Opened, redis_server: Any, flips: Any, payload: str, fleet_name: str
    ) -> None:
        store, _ = await self.keys(opened, redis_server, flips)
        mirror = Mirror(store, read_interval=60)
        await mirror.start()
        await asyncio.sleep(0.05)
        held = mirror.state
        redis_server.command("PUBLISH", f"bgproxy:{{{fleet_name}}}:bell", payload)
        await asyncio.sleep(0.05)
        assert mirror.state == held
        assert mirror.subscribed
        assert mirror.alarms == 0
        await mirror.stop()


async def test_a_watch_has_begun_only_when_redis_has_confirmed_it(fleet_name: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"HELLO")
        writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        await reader.read()  # SUBSCRIBE stays without an answer
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = open_store(StoreOptions(url=f"redis://127.0.0.1:{port}", fleet=fleet_name, connect_timeout=0.2))
    with pytest.raises(StoreUnavailable, match="no answer within"):
        await anext(store.watch())  # type: ignore[call-overload]
    await store.close()
    server.close()


async def test_by_socket(opened: Opened, redis_server: Any, flips: Any) -> None:
    for url in (f"unix:{redis_server.socket_path}", f"unix://{redis_server.socket_path}?db=1"):
        store = await opened(url)
        state, _ = await store.commit(flips.first(), create=True)
        assert await store.read() == state


async def test_databases_keep_apart(opened: Opened, redis_server: Any, flips: Any) -> None:
    store = await opened(redis_server.url.replace("/0", "/2"))
    await store.commit(flips.first(), create=True)
    assert await (await opened(redis_server.url)).read() is None
    with pytest.raises(StoreUnavailable, match=r"(?i)db|database"):
        await opened(redis_server.url.replace("/0", "/9999"))


async def test_it_speaks_resp3_with_few_connections(opened: Opened, own_redis: Any, flips: Any) -> None:
    store = await opened(own_redis.url)
    await store.commit(flips.first(), create=True)
    await asyncio.gather(*(store.read() for _ in range(200)))
    clients = own_redis.command("CLIENT", "LIST").decode()
    ours = clients.count(" addr=127") - 1  # one is the test's own
    assert 1 <= ours <= 16
    assert clients.count("resp=3") == ours or "resp=" not in clients  # Redis 6 does not list it


async def test_scripts_that_were_flushed_are_sent_again(opened: Opened, own_redis: Any, flips: Any) -> None:
    store = await opened(own_redis.url)
    state, _ = await store.commit(flips.first(), create=True)
    own_redis.command("SCRIPT", "FLUSH")
    assert (await store.commit(flips.flip(state)))[0].revision == 2


async def test_a_replica_says_so(opened: Opened, own_redis: Any, flips: Any) -> None:
    store = await opened(own_redis.url)
    own_redis.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable, match="read-only replica"):
        await store.commit(flips.first(), create=True)


async def test_a_stalled_redis_fails_each_call_in_time(opened: Opened, own_redis: Any, flips: Any) -> None:
    store = await opened(own_redis.url, command_timeout=0.1)
    own_redis.command("CLIENT", "PAUSE", "5000", "ALL")
    loop = asyncio.get_running_loop()
    for call in (store.read, lambda: store.audit(limit=1), lambda: store.beat(NODE), store.nodes):
        began = loop.time()
        with pytest.raises(StoreUnavailable, match=r"no answer within 0\.1 s"):
            await call()
        assert loop.time() - began < 0.5
    with pytest.raises(StoreUnavailable, match="whether the change was made is not known"):
        await store.commit(flips.first(), create=True)


async def test_the_clients_own_loggers_stay_quiet(
    opened: Opened, redis_server: Any, flips: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = await opened(redis_server.url)
    await store.commit(flips.first(), create=True)
    assert caplog.records == []


async def test_a_store_that_could_not_open_serves_later(own_redis: Any, fleet_name: str) -> None:
    own_redis.kill()
    store = open_store(StoreOptions(url=own_redis.url, fleet=fleet_name))
    with pytest.raises(StoreUnavailable):
        await store.open()
    own_redis.start()
    assert await store.read() is None
    await store.close()


async def test_a_server_is_the_same_until_it_is_started_anew_or_has_followed_another(
    opened: Opened, own_redis: Any, redis_server: Any
) -> None:
    store = await opened(own_redis.url)
    before = await store.incarnation()
    own_redis.command("CLIENT", "KILL", "TYPE", "normal")
    with contextlib.suppress(StoreUnavailable):
        await store.read()
    assert await store.incarnation() == before != ""
    own_redis.command("REPLICAOF", "127.0.0.1", str(redis_server.port))
    own_redis.command("REPLICAOF", "NO", "ONE")
    led = await store.incarnation()
    assert led != before
    own_redis.kill()
    with pytest.raises(StoreUnavailable):
        await store.incarnation()
    own_redis.start()
    assert len({before, led, await store.incarnation()}) == 3


async def test_a_user_who_may_not_know_whether_a_server_is_the_same(
    opened: Opened, redis_server: Any, fleet_name: str
) -> None:
    user = f"narrow-{fleet_name}"
    rights.give(redis_server, fleet_name, user=user)
    assert await (await opened(rights.with_user(redis_server.url, user))).incarnation() == ""
    rights.give(redis_server, fleet_name, [*rights.documented(), "+info"], user)
    assert await (await opened(rights.with_user(redis_server.url, user))).incarnation() != ""


async def test_pooled_connections_survive_a_restart(opened: Opened, own_redis: Any, flips: Any) -> None:
    store = await opened(own_redis.url)
    await asyncio.gather(*(store.read() for _ in range(10)))
    own_redis.kill()
    with pytest.raises(StoreUnavailable):
        await store.read()
    own_redis.start()
    await store.commit(flips.first(), create=True)
    assert len(await asyncio.gather(*(store.read() for _ in range(10)))) == 10
