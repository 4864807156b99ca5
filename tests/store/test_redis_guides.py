"""Whom the client believes about where the primary is, when it asks again, and what is told where nobody knows."""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import NotRedis, StoreAuth, StoreUnavailable
from bgproxy.store.address import Host, store_address
from bgproxy.store.base import Store
from bgproxy.store.redis_client import Primary
from bgproxy.store.redis_guides import ClusterNodes, NoPrimary, Sentinels
from tests.redis_servers import SERVICE
from tests.store import rights
from tests.store.rights import QUOTED, SECRET

Opened = Callable[..., Awaitable[Store]]
Until = Callable[..., Awaitable[float]]
KEY = "bgproxy:{agents}:state"
SLOT = crc_hqx(b"agents", 0) % 16_384  # the CRC16 of the Redis Cluster specification, of what stands in the braces


class Guide:
    """Knows what it is told; `gate`: answers only when that opens."""

    def __init__(self, *addresses: Host) -> None:
        self.addresses = [*addresses]
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def primary(self) -> Host:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if not self.addresses:
            raise NoPrimary(StoreUnavailable("nobody knows"))
        return self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]

    def follow(self, told: Callable[[Host], Awaitable[None]]) -> None:
        self.told = told

    async def close(self) -> None: ...


class TestPrimary:
    async def test_it_is_asked_for_once_by_all_who_want_it(self) -> None:
        guide = Guide(("a", 1))
        guide.gate = asyncio.Event()
        primary = Primary(guide, None)
        wanted = [asyncio.ensure_future(primary.address()) for _ in range(5)]
        await asyncio.sleep(0)
        guide.gate.set()
        assert await asyncio.gather(*wanted) == [("a", 1)] * 5
        assert await primary.address() == ("a", 1)
        assert guide.asked == 1

    async def test_a_doubt_asks_again_and_only_a_move_is_told(self) -> None:
        told = []

        async def moved() -> None:
            told.append(await primary.address())

        primary = Primary(Guide(("a", 1), ("a", 1), ("b", 2)), None)
        primary.moved = moved
        for _ in range(3):
            await primary.address()
            primary.doubt()
        assert told == [("b", 2)]
        assert repr(primary) == "<Primary ('b', 2) (in doubt)>"

    async def test_what_is_heard_counts_at_once(self) -> None:
        guide = Guide(("a", 1))
        primary = Primary(guide, None)
        await primary.address()
        await guide.told(("b", 2))
        assert (await primary.address(), guide.asked) == (("b", 2), 1)

    async def test_where_nobody_knows_the_next_one_asks_again(self) -> None:
        guide = Guide()
        primary = Primary(guide, None)
        for _ in range(2):
            with pytest.raises(NoPrimary):
                await primary.address()
        guide.addresses.append(("a", 1))
        assert await primary.address() == ("a", 1)

    async def test_after_a_while_it_is_looked_whether_it_still_is(self, settle: Callable[..., Awaitable[None]]) -> None:
        now = [0.0]
        guide = Guide(("a", 1), ("b", 2))
        primary = Primary(guide, 5.0, clock=lambda: now[0])
        assert await primary.address() == ("a", 1)
        now[0] = 5.1
        assert await primary.address() == ("a", 1)  # nobody waits for that
        await settle()
        assert (await primary.address(), guide.asked) == (("b", 2), 2)
        guide.addresses.clear()
        now[0] = 10.3
        await primary.address()
        await settle()
        assert (await primary.address(), guide.asked) == (("b", 2), 3)  # it works: that nobody can say so is no fault
        await primary.close()


def state(port: int, epoch: int, **more: bool) -> dict[str, Any]:
    return {
        "ip": "10.0.0.1",
        "port": port,
        "config-epoch": epoch,
        "is_master": True,
        "is_sdown": False,
        "is_odown": False,
        **more,
    }


class TestSentinels:
    @pytest.fixture
    async def told(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Three sentinels who say what they are told to; None: they are silent."""
        guide = Sentinels(store_address(f"redis+sentinel://a,b,c/{SERVICE}"), 0.05)

        def tell(*answers: dict[str, Any] | Exception | None) -> Sentinels:
            for client, answer in zip(guide._clients, answers, strict=True):

                async def say(_: str, answer: Any = answer) -> Any:
                    if answer is None:
                        await asyncio.Event().wait()
                    if isinstance(answer, Exception):
                        raise answer
                    return answer

                monkeypatch.setattr(client, "sentinel_master", say)
            return guide

        yield tell
        await guide.close()

    async def test_the_latest_failover_counts(self, told: Any) -> None:
        assert await told(state(1, 4), state(2, 5), state(1, 4)).primary() == ("10.0.0.1", 2)

    async def test_one_that_is_silent_or_gone_holds_nobody_up(self, told: Any) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await told(None, state(2, 5), state(2, 5)).primary() == ("10.0.0.1", 2)
        assert loop.time() - began < 0.04
        assert await told(None, None, state(2, 5)).primary() == ("10.0.0.1", 2)
        assert await told(ConnectionRefusedError(), OSError(), state(2, 5)).primary() == ("10.0.0.1", 2)

    async def test_a_failover_that_was_heard_of_is_not_forgotten_for_those_who_have_not_heard(self, told: Any) -> None:
        assert await told(state(2, 5), state(2, 5), None).primary() == ("10.0.0.1", 2)
        assert await told(state(1, 4), state(1, 4), state(2, 5)).primary() == ("10.0.0.1", 2)
        assert await told(state(1, 0), state(1, 0), state(1, 0)).primary() == ("10.0.0.1", 1)  # they began anew

    @pytest.mark.parametrize("flag", ["is_sdown", "is_odown"])
    async def test_a_primary_that_is_down_is_none(self, told: Any, flag: str) -> None:
        down = state(1, 4, **{flag: True})
        assert await told(down, state(2, 5), down).primary() == ("10.0.0.1", 2)
        with pytest.raises(NoPrimary, match="say that mymaster is down; a failover may be under way"):
            await told(down, down, None).primary()

    async def test_nobody_answers(self, told: Any) -> None:
        with pytest.raises(NoPrimary, match="no sentinel answers"):
            await told(None, OSError(), None).primary()


class TestCluster:
    @pytest.fixture
    async def told(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        guide = ClusterNodes(store_address("redis+cluster://a:1,b:2,c:3"), 0.05, KEY)

        def tell(*maps: list[Any] | Exception) -> ClusterNodes:
            for client, answer in zip([*guide._clients.values()], maps, strict=False):

                async def say(_: str, answer: Any = answer) -> Any:
                    if isinstance(answer, Exception):
                        raise answer
                    return answer

                monkeypatch.setattr(client, "execute_command", say)
            return guide

        yield tell
        await guide.close()

    async def test_most_of_the_maps_count(self, told: Any) -> None:
        old = [[0, 16383, [b"old", 1, b"id"], [b"new", 2, b"id"]]]
        new = [[0, SLOT - 1, [b"other", 5, b"id"]], [SLOT, 16383, [b"new", 2, b"id"]]]
        assert await told(new, new, old).primary() == ("new", 2)
        assert {("a", 1), ("b", 2), ("c", 3), ("other", 5), ("new", 2)} <= set(told()._clients)

    async def test_a_node_that_does_not_name_itself_is_the_one_that_was_asked(self, told: Any) -> None:
        for nameless in (None, b"", b"?"):
            assert await told([[0, 16383, [nameless, 7, b"id"]]], OSError(), OSError()).primary() == ("a", 7)

    async def test_a_slot_that_nobody_serves(self, told: Any) -> None:
        bare = [[0, SLOT - 1, [b"x", 1, b"id"]]]
        with pytest.raises(NoPrimary, match=f"serves the fleet's slot {SLOT}"):
            await told(bare, bare, bare).primary()


@pytest.mark.redis
class TestWhatIsTold:
    """By real servers that are asked what they are not."""

    async def test_a_server_is_no_sentinel(self, opened: Opened, redis_server: Any) -> None:
        with pytest.raises(NotRedis, match="no sentinel"):
            await opened(f"redis+sentinel://127.0.0.1:{redis_server.port}/{SERVICE}")

    async def test_a_server_is_no_cluster(self, opened: Opened, redis_server: Any) -> None:
        with pytest.raises(NotRedis, match=r"no node of a cluster: write redis://"):
            await opened(f"redis+cluster://127.0.0.1:{redis_server.port}")

    async def test_a_cluster_is_no_single_server(self, opened: Opened, cluster: Any) -> None:
        wrong = next(one for one in cluster.servers[:3] if one is not cluster.owner_of(KEY))
        with pytest.raises(NotRedis, match=r"node of a cluster: write redis\+cluster://"):
            await opened(wrong.url, fleet="agents")

    async def test_a_name_that_the_sentinels_do_not_know(self, opened: Opened, sentinels: Any) -> None:
        with pytest.raises(StoreUnavailable, match="know no mymastre: write the name"):
            await opened(sentinels.url.replace(SERVICE, "mymastre"))

    async def test_nobody_is_there(self, opened: Opened) -> None:
        with pytest.raises(StoreUnavailable, match=r"redis\+cluster://127\.0\.0\.1:1: no node of the cluster answers"):
            await opened("redis+cluster://127.0.0.1:1")

    async def test_sentinels_with_users_of_their_own(
        self, opened: Opened, sentinels: Any, flips: Any, until: Until
    ) -> None:
        for one in sentinels.sentinels:
            rights.give(one, "", rights.documented("a user of the sentinels"), "watch")
            rights.give(one, "", [], "idle")
        store = await opened(f"{sentinels.url}?sentinel_username=watch&sentinel_password={QUOTED}")
        await store.commit(flips.first(), create=True)
        first = sentinels.sentinels[0]
        await until(lambda: b"user=watch" in first.command("CLIENT", "LIST", "TYPE", "pubsub"))
        for user, password, told in (("watch", "wrong-one", "refuses the user"), ("idle", QUOTED, "may not do this")):
            with pytest.raises(StoreAuth, match=told) as refused:
                await opened(f"{sentinels.url}?sentinel_username={user}&sentinel_password={password}")
            assert "wrong-one" not in str(refused.value)
            assert SECRET not in str(refused.value)
