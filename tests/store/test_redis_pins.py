"""What only a real Redis can show of pins: their size, their spelling, a cluster's slots, broken data."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, cast

import pytest

from bgproxy.errors import BadInput, StoreBroken, StoreUnavailable
from bgproxy.rules.by_hand import move_session
from bgproxy.rules.choose import choose
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Pin, Policy
from bgproxy.store.base import Conflict, NodeReport, Store
from bgproxy.store.mirror import Mirror
from bgproxy.store.pin_outage import PinOptions
from bgproxy.store.pinning import BEGUN, KEPT_ALIASES, Learned, PinStore, Turn, Want
from bgproxy.store.pins import PinCache

pytestmark = pytest.mark.redis

Opened = Callable[..., Awaitable[Store]]


def key(name: object) -> bytes:
    return str(name).encode().rjust(16, b"-")


def want(*names: object, ttl: float = 1_800.0) -> Want:
    return Want(tuple(map(key, names)), "agents", "header:X-Session-Id", ttl, offer=("blue", "http://10.0.0.12:9101"))


@pytest.fixture
async def pins(redis_server: Any, opened: Opened, flips: Any) -> PinStore:
    store = await opened(redis_server.url)
    await store.commit(flips.first(), create=True)
    return store.pins


async def test_a_cursor_that_no_redis_has_given_is_a_mistake_and_no_trouble_of_the_store(pins: PinStore) -> None:
    for cursor in (str(2**64), "9" * 20):
        with pytest.raises(BadInput, match="cursor"):
            await pins.page(cursor, 10)


def port_of_a_cluster() -> int:
    """A free port with room for the cluster's own one, 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            if (port := int(probe.getsockname()[1])) <= 55_535:
                return port


def used(server: Any) -> int:
    found = re.search(rb"used_memory:(\d+)", server.command("INFO", "memory"))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(("names", "most"), [(("{}",), 300), (("{}", "a{}"), 550)])
async def test_a_pin_is_small(own_redis: Any, opened: Opened, flips: Any, names: tuple[str, ...], most: int) -> None:
    store = await opened(own_redis.url)
    await store.commit(flips.first(), create=True)
    count = 8_192  # a power of two, where Redis' table of keys is as full as it gets
    await store.pins.resolve([want("warm")])
    before = used(own_redis)
    for begin in range(0, count, 128):
        numbers = range(begin, begin + 128)
        await store.pins.resolve([want(*(name.format(number) for name in names)) for number in numbers])
    each = (used(own_redis) - before) / count
    assert 100 < each <= most


async def test_every_key_expires_with_its_pin(own_redis: Any, opened: Opened, flips: Any) -> None:
    store = await opened(own_redis.url)
    await store.commit(flips.first(), create=True)
    await store.pins.resolve([want("a", "b", "c", ttl=0.1)])
    await store.pins.learn([Learned((key("d"),), key("a"), "blue", "v1", "", 1, "agents", "mcp", 0.1)])
    assert b":4" in own_redis.command("EVAL", "return #redis.call('KEYS', '*:k:*')", "0")
    await asyncio.sleep(1.1)
    assert b":0" in own_redis.command("EVAL", "return #redis.call('KEYS', '*:k:*')", "0")


async def test_buckets_that_are_over_are_swept_by_whoever_begins_one(
    pins: PinStore, redis_server: Any, fleet_name: str
) -> None:
    counts = f"bgproxy:{{{fleet_name}}}:n"
    redis_server.command("HSET", counts, "blue\tv0\t1000", "5", "odd", "1")
    assert await pins.resolve([want("a")])
    assert redis_server.command("HLEN", counts) == b":1\r\n"
    assert {place: count.live for place, count in (await pins.counts()).items()} == {("blue", "v1"): 1}


class TestBrokenData:
    @pytest.mark.parametrize("text", ["", "x", "a\tb", "\t" * 11, "blue\tv1\t1\tnan?\t1\t1\t0\t99999999999\tm\tr\tu\t"])
    async def test_a_pin_that_cannot_be_understood(
        self, pins: PinStore, redis_server: Any, fleet_name: str, text: str
    ) -> None:
        redis_server.command("SET", f"bgproxy:{{{fleet_name}}}:k:{key('a').decode()}", text)
        with pytest.raises(StoreBroken, match="cannot be understood"):
            await pins.find(key("a"))
        with pytest.raises(StoreUnavailable):
            await pins.page("", 100)

    async def test_it_counts_as_none_where_it_has_no_expiry(
        self, pins: PinStore, redis_server: Any, fleet_name: str
    ) -> None:
        redis_server.command("SET", f"bgproxy:{{{fleet_name}}}:k:{key('a').decode()}", "garbage")
        [found] = await pins.resolve([want("a")])
        assert (found.created, await pins.find(key("a"))) == (True, found.pin)

    async def test_an_alias_of_an_alias_leads_nowhere(self, pins: PinStore, redis_server: Any, fleet_name: str) -> None:
        for name, to in (("a", "b"), ("b", "a"), ("c", "c")):
            redis_server.command("SET", f"bgproxy:{{{fleet_name}}}:k:{key(name).decode()}", f"@{key(to).decode()}")
        assert await pins.find(key("a")) is None
        [found] = await pins.resolve([want("a", "b", "c")])
        assert found.created
        assert [await pins.find(key(name)) for name in "abc"] == [found.pin] * 3

    async def test_who_rings_with_something_else_is_not_heard(
        self, pins: PinStore, redis_server: Any, fleet_name: str
    ) -> None:
        async with aclosing(cast("AsyncGenerator[tuple[bytes, ...], None]", pins.watch())) as bells:
            assert await anext(bells) == ()
            for payload in ("", "x", "7", "y" * 15, "z" * 33):
                redis_server.command("PUBLISH", f"bgproxy:{{{fleet_name}}}:pins", payload)
            redis_server.command("PUBLISH", f"bgproxy:{{{fleet_name}}}:pins", "a" * 16 + "b" * 16)
            assert await anext(bells) == (b"a" * 16, b"b" * 16)


class TestOneSlot:
    @pytest.fixture
    def cluster(self, redis_server: Any) -> Iterator[Any]:
        server = type(redis_server)("--cluster-enabled", "yes", port=port_of_a_cluster())
        server.start()
        server.command("CLUSTER", "ADDSLOTS", *map(str, range(16_384)))
        yield server
        server.close()

    async def test_every_verb_works_in_a_cluster(
        self, cluster: Any, opened: Opened, flips: Any, until: Callable[..., Awaitable[float]]
    ) -> None:
        await until(lambda: b"cluster_state:ok" in cluster.command("CLUSTER", "INFO"))
        store = await opened(cluster.url)
        await store.commit(flips.first(), create=True)
        pins = store.pins
        names = [f"n{number}" for number in range(KEPT_ALIASES)]
        first, second = await pins.resolve([want("a", *names), want("b")])
        await pins.learn([Learned((key("c"),), first.pin.id, "blue", "v1", "", 1, "agents", "mcp", 60.0)])
        assert await pins.refresh([key("c"), key("x")]) == [key("x")]
        await pins.applied("one", 1, 1, [Turn(first.pin.id, 1)])
        assert await pins.migrate("one", [Turn(second.pin.id, 1)]) == [second.pin]
        await store.commit(flips.order(await store.read(), first.pin, "green"))
        assert await pins.move(key("c")) is not None
        assert await pins.place(second.pin, "http://h:9") is not None
        await pins.end([key("c"), key("b")])
        assert await pins.counts() == {}


async def test_scripts_that_were_flushed_are_sent_again(own_redis: Any, opened: Opened, flips: Any) -> None:
    store = await opened(own_redis.url)
    await store.commit(flips.first(), create=True)
    [first] = await store.pins.resolve([want("a")])
    own_redis.command("SCRIPT", "FLUSH")
    assert (await store.pins.resolve([want("a")]))[0].pin == first.pin


async def test_a_stalled_redis_fails_each_call_in_time(own_redis: Any, opened: Opened, flips: Any) -> None:
    store = await opened(own_redis.url, command_timeout=0.1)
    await store.commit(flips.first(), create=True)
    own_redis.command("CLIENT", "PAUSE", "5000", "ALL")
    for call in (lambda: store.pins.resolve([want("a")]), store.pins.counts, lambda: store.pins.find(key("a"))):
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable, match=r"no answer within 0\.1 s"):
            await call()
        assert asyncio.get_running_loop().time() - began < 0.5


class Worker:
    """One node as a process has it: its own store, mirror and memory of pins."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self.store = name, store
        self.mirror = Mirror(store, read_interval=0.2)
        self.cache = PinCache(store.pins, self.mirror, name, PinOptions(refresh_interval=0.05))
        self.turns: Counter[bytes] = Counter()
        self.mirror.listen(self._applied)

    async def start(self) -> None:
        await self.store.beat(NodeReport(self.name, "host", 1, "0.1", 1))
        await self.mirror.start()
        self.cache.start()

    async def stop(self) -> None:
        await self.cache.stop()
        await self.mirror.stop()

    def _applied(self, state: FleetState) -> None:
        self.cache.drop(state.orders)
        self.cache.applied(
            state.pointer.epoch, state.revision, [pin_id for pin_id, turns in self.turns.items() if turns]
        )

    async def turn(self, name: str, policy: Policy, running: dict[str, list[str]]) -> str:
        """One exchange of a session; the color on which it ran. Fails where it runs elsewhere at the same time."""
        pin, why = self.cache.get([key(name)]), "held"
        if pin is None:
            pin, why = await self._asked(lambda done: self.cache.resolve(want(name), done))
        counted = pin.id
        self.turns[counted] += 1
        while why not in BEGUN and self._moves(pin, policy):
            pin, why = await self._asked(partial(self.cache.migrate, pin))
        elsewhere = running.setdefault(name, [])
        assert set(elsewhere) <= {pin.color}
        elsewhere.append(pin.color)
        await asyncio.sleep(random.choice((0, 0, 0.001, 0.01)))
        elsewhere.remove(pin.color)
        self.turns[counted] -= 1
        if not self.turns[counted]:
            self.cache.idle(counted)
        return pin.color

    def _moves(self, pin: Pin, policy: Policy) -> bool:
        state = self.mirror.state
        assert state is not None
        return choose(state.pointer, state.releases, pin, policy, order=state.orders.get(pin.id)).why != "pinned"

    async def _asked(self, ask: Callable[[Callable[[Pin | None, str], None]], None]) -> tuple[Pin, str]:
        answer: asyncio.Future[tuple[Pin | None, str]] = asyncio.get_running_loop().create_future()
        ask(lambda pin, why: answer.set_result((pin, why)))
        pin, why = await answer
        assert pin is not None
        return pin, why


@pytest.fixture
async def workers(redis_server: Any, opened: Opened, flips: Any) -> AsyncIterator[list[Worker]]:
    stores = [await opened(redis_server.url) for _ in range(4)]
    await stores[0].commit(flips.first(), create=True)
    every = [Worker(f"worker-{number}", store) for number, store in enumerate(stores)]
    for worker in every:
        await worker.start()
    yield every
    for worker in every:
        await worker.stop()


@pytest.mark.parametrize("policy", Policy)
async def test_sessions_that_hop_between_nodes_are_never_split(
    workers: list[Worker], flips: Any, policy: Policy
) -> None:
    random.seed(7)
    running: dict[str, list[str]] = {}
    seen: dict[str, list[str]] = {}

    async def converse(name: str) -> None:
        for _ in range(30):
            hops = random.sample(workers, random.choice((1, 1, 2)))  # now and then two turns at once
            colors = await asyncio.gather(*(worker.turn(name, policy, running) for worker in hops))
            seen.setdefault(name, []).extend(colors)

    async def flip() -> None:
        for _ in range(5):
            await asyncio.sleep(0.05)
            store = random.choice(workers).store
            state = await store.read()
            assert state is not None
            await store.commit(flips.flip(state))

    await asyncio.gather(flip(), *(converse(f"session {number}") for number in range(60)))
    if policy is Policy.PINNED:
        assert {name: set(colors) for name, colors in seen.items()} == {name: {seen[name][0]} for name in seen}
    else:
        assert any(len(set(colors)) == 2 for colors in seen.values())
    pins, _ = await workers[0].store.pins.page("", 1_000)
    assert len(pins) == 60


async def test_sessions_that_are_moved_by_hand_are_never_split(workers: list[Worker]) -> None:
    random.seed(11)
    running: dict[str, list[str]] = {}
    names = [f"session {number}" for number in range(12)]
    over = asyncio.Event()

    async def converse(name: str) -> None:
        while not over.is_set():
            await random.choice(workers).turn(name, Policy.PINNED, running)
            await asyncio.sleep(random.choice((0, 0, 0.02)))

    async def move(name: str) -> bool:
        """As the admin plane does it: the order, then a few tries; whether it has moved by then."""
        store = random.choice(workers).store
        pin, state = await store.pins.find(key(name)), await store.read()
        assert pin is not None
        assert state is not None
        to = "green" if pin.color == "blue" else "blue"
        change = move_session(state, pin, to, actor="ada", reason="")
        with suppress(Conflict):
            _ = change and await store.commit(change)
        for _ in range(20):
            after = await store.pins.move(key(name))
            if after is not None and after.color == to:
                return True
            await asyncio.sleep(0.003)
        return False

    # Two clients each, so that their turns meet; a pause now and then, so that sessions rest.
    conversing = [asyncio.create_task(converse(name)) for name in names * 2]
    await asyncio.sleep(0.1)
    moved = [await move(random.choice(names)) for _ in range(40)]
    over.set()
    await asyncio.gather(*conversing)
    assert moved.count(True) > 5, moved
    found = {pin.id: pin.moved for pin, _ in (await workers[0].store.pins.page("", 1_000))[0]}
    assert sum(found.values()) >= moved.count(True)
