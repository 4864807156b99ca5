"""What the store's tests share: a fleet to begin with, and stores that are closed in the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rules import by_hand, fleet
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.pin import Pin
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import AuditEntry, NodeReport, Store, StoreOptions, open_store
from bgproxy.store.host import HostStore
from bgproxy.store.pins import PinCache
from tests.redis_servers import Cluster, Sentinels
from tests.store import pin_rig, rights

_numbers = itertools.count()

Opened = Callable[..., Awaitable[Store]]


class Fleet:
    """Changes of a fleet of blue and green, decided as the ledger would."""

    @staticmethod
    def first(active: str = "blue") -> Change:
        releases = {
            "blue": Release("v1", ("http://127.0.0.1:1",), phase=Phase.READY, origin="config"),
            "green": Release(
                "v2",
                ("http://127.0.0.1:2", "unix:/run/a.sock"),
                routes={"mcp": ("http://127.0.0.1:3",)},
                metadata={"commit": "abc", "tags": ["ü", 1, None, 1.5]},
                phase=Phase.READY,
            ),
        }
        return fleet.bootstrap(("blue", "green"), active, releases, "config", 1.0, "start")

    @staticmethod
    def flip(state: FleetState, to: str | None = None, actor: str = "ada", reason: str = "why") -> Change:
        to = to or next(color for color in state.colors if color != state.pointer.active)
        change = fleet.flip(state, to, actor=actor, reason=reason, at=2.0)
        assert change is not None
        return change

    @staticmethod
    def stage(state: FleetState, color: str, label: str) -> Change:
        release = Release(label, ("http://127.0.0.1:9",))
        change = fleet.stage(state, color, release, actor="ada", reason="new", at=3.0, force=True)
        assert change is not None
        return change

    @staticmethod
    def order(state: FleetState, pin: Pin, to: str) -> Change:
        change = by_hand.move_session(state, pin, to, actor="ada", reason="by hand")
        assert change is not None
        return change

    @staticmethod
    def states(count: int) -> list[FleetState]:
        """The first state and those after one flip each."""
        found = [Fleet.first().state]
        while len(found) < count:
            found.append(Fleet.flip(found[-1]).state)
        return found


@pytest.fixture
def flips() -> type[Fleet]:
    return Fleet


@pytest.fixture
def fleet_name() -> str:
    return f"fleet-{next(_numbers)}"


@pytest.fixture
async def opened(fleet_name: str) -> AsyncIterator[Opened]:
    """Open a store by its URL; it is closed when the test ends."""
    stores: list[Store] = []

    async def open_one(url: str, **options: Any) -> Store:
        if url.startswith("handed:"):
            return await handed_over(Path(url.removeprefix("handed:")), fleet_name, stores, options)
        patient = {"connect_timeout": 10.0, "command_timeout": 5.0}  # for machines that are busy
        store = open_store(StoreOptions(url=url, **{"fleet": fleet_name, **patient, **options}))
        stores.append(store)
        await store.open()
        return store

    yield open_one
    for store in stores:
        await store.close()


async def handed_over(directory: Path, fleet_name: str, stores: list[Store], options: dict[str, Any]) -> Store:
    """A memory store as a process sees it that has handed it over to another one."""
    told = StoreOptions(**{"fleet": fleet_name, "handover": str(directory / "memory.json"), **options})
    first, second = (HostStore(told, directory, successor=successor) for successor in (False, True))
    stores += [first.as_store(), second.as_store()]
    await first.open()
    await second.open()
    assert repr(first) == "<HostStore with another process>"
    return first.as_store()


STORES = ("memory", "snapshot", "redis")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is promised of every store is tried on those that the test's class or module names, else on `STORES`."""
    if "store_kind" in metafunc.fixturenames:
        kinds = getattr(metafunc.cls, "stores", None) or getattr(metafunc.module, "stores", STORES)
        real = {"redis", "sentinel", "cluster"}
        marked = [pytest.param(kind, marks=[pytest.mark.redis] if kind in real else []) for kind in kinds]
        metafunc.parametrize("store_kind", marked)


@pytest.fixture(scope="session")
def sentinels() -> Iterator[Sentinels]:
    """One set for the whole session, which no test may leave without its master."""
    found = Sentinels(down_after=600.0)  # else a busy machine makes them take the master for dead
    found.start()
    yield found
    found.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Likewise."""
    found = Cluster()
    found.start()
    yield found
    found.close()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bgp-") as name:
        yield Path(name)


@pytest.fixture
def url(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path, fleet_name: str) -> str:
    """A store of that kind, as a user who may do what is documented and nothing else."""
    if store_kind == "memory":
        return "memory://"
    if store_kind == "handed":
        return f"handed:{request.getfixturevalue('short_directory')}"
    if store_kind == "snapshot":
        return f"memory://{tmp_path}/state.json"
    more: list[str] = []
    if store_kind == "redis":
        server = request.getfixturevalue("redis_server")
        found, servers = server.url, [server]
    else:
        several = request.getfixturevalue("sentinels" if store_kind == "sentinel" else "cluster")
        found, servers = several.url, several.servers
        more = rights.documented("in a Cluster also") if store_kind == "cluster" else []
    user = f"user-of-{fleet_name}"
    for server in servers:
        rights.give(server, fleet_name, rights.documented() + more, user)
    return rights.with_user(found, user)


@pytest.fixture
async def store(url: str, opened: Opened, flips: Any) -> Store:
    """Blue at v1 is active, green holds v2; epoch 1."""
    store = await opened(url)
    await store.commit(flips.first(), create=True)
    return store


class FakeStore:
    """A store under the test's hand: it says what it is told to say, and rings when told to."""

    kind = "fake"
    shared = True

    def __init__(self) -> None:
        self.state: FleetState | None = None
        self.failure: Exception | None = None
        self.line_failure: Exception | None = None
        self.reads = 0
        self.subscriptions = 0
        self.calls: list[str] = []
        self.incarnations = [""]  # what is answered, the last one ever after
        self.gates: list[asyncio.Event] = []  # each reading takes the state at once, and answers when its gate opens
        self._bells: list[asyncio.Queue[int | Exception]] = []

    def ring(self, revision: int) -> None:
        for bell in self._bells:
            bell.put_nowait(revision)

    def cut(self, error: Exception) -> None:
        for bell in self._bells:
            bell.put_nowait(error)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def routes_by(self, epoch: int) -> None: ...

    async def incarnation(self) -> str:
        return self.incarnations[0] if len(self.incarnations) == 1 else self.incarnations.pop(0)

    async def read(self) -> FleetState | None:
        self.reads += 1
        self.calls.append("read")
        state = self.state
        if self.gates:
            await self.gates.pop(0).wait()
        if self.failure is not None:
            raise self.failure
        return state

    async def commit(self, change: Change, **_: Any) -> tuple[FleetState, AuditEntry]:
        raise StoreUnavailable("the fake store takes no changes")

    async def audit(self, *, limit: int, before: str | None = None) -> list[AuditEntry]:
        return []

    async def watch(self) -> AsyncIterator[int]:
        self.calls.append("watch")
        if self.line_failure is not None:
            raise self.line_failure
        self.subscriptions += 1
        bell: asyncio.Queue[int | Exception] = asyncio.Queue()
        self._bells.append(bell)
        try:
            yield 0
            while True:
                rung = await bell.get()
                if isinstance(rung, Exception):
                    raise rung
                yield rung
        finally:
            self._bells.remove(bell)

    async def beat(self, node: NodeReport) -> bool:
        return True

    async def nodes(self) -> list[NodeReport]:
        return []

    async def leave(self, node_id: str, serial: int | None = None, *, dead: bool = False) -> bool:
        return False


@pytest.fixture
def fake_store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def rig(flips: Any) -> pin_rig.Rig:
    return pin_rig.Rig(flips)


@pytest.fixture
async def node(rig: pin_rig.Rig) -> AsyncIterator[tuple[PinCache, pin_rig.Line]]:
    """A node of that rig, subscribed."""
    cache, line = rig.node()
    cache.start()
    await pin_rig.settle()
    yield cache, line
    await cache.stop()


class Pauses:
    """Stands in for sleeping: each pause ends when the test lets it, and its length is kept."""

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self._waiting: list[asyncio.Event] = []

    async def __call__(self, seconds: float) -> None:
        self.lengths.append(seconds)
        end = asyncio.Event()
        self._waiting.append(end)
        await end.wait()

    def end(self) -> None:
        """Let everything that pauses now go on."""
        waiting, self._waiting = self._waiting, []
        for end in waiting:
            end.set()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


async def _settle(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.fixture
def settle() -> Callable[..., Awaitable[None]]:
    """Let every task that can go on go on."""
    return _settle


async def _until(what: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait until something holds; how long it took. For tests with a real store."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not what():  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0.005)
    assert what(), f"did not come within {seconds} s"
    return loop.time() - began


@pytest.fixture
def until() -> Callable[..., Awaitable[float]]:
    return _until
