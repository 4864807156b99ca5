"""One worker as it is put together: its orders, its start and end, what it takes over from the one before."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy import app, orders
from bgproxy.app import Worker
from bgproxy.config import Settings
from bgproxy.errors import ConfigError, StoreAuth, StoreBroken, StoreUnavailable
from bgproxy.orders import Line, Place
from bgproxy.proxy import plane
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.store.base import AuditEntry, Held, NodeReport, StoreOptions, open_store
from bgproxy.store.document import state_document, write_safely
from bgproxy.store.once import Once
from bgproxy.telemetry import legacy

UPSTREAMS = {"blue": {"upstreams": ["http://127.0.0.1:1"]}, "green": {"upstreams": ["http://127.0.0.1:2"]}}
PATIENCE = 10.0


class SharedStore:
    """A store that others stand on too, and that may be away: a memory store under another name."""

    kind = "shared"
    shared = True

    def __init__(self) -> None:
        self._memory = open_store(StoreOptions())
        self.failure: Exception | None = None
        self.left: list[str] = []
        self.calls: list[str] = []
        self.watch, self.nodes = self._memory.watch, self._memory.nodes
        self.audit, self.close, self.now = self._memory.audit, self._memory.close, self._memory.now
        self.flips, self.tally, self.routes_by = self._memory.flips, self._memory.tally, self._memory.routes_by
        self.pins, self.incarnation = self._memory.pins, self._memory.incarnation

    async def open(self) -> None:
        await self.read()

    async def beat(self, node: NodeReport) -> bool:
        self.calls.append("beat")
        if self.failure is not None:
            raise self.failure
        return await self._memory.beat(node)

    async def read(self) -> FleetState | None:
        self.calls.append("read")
        if self.failure is not None:
            raise self.failure
        return await self._memory.read()

    async def commit(
        self, change: Change, *, create: bool = False, once: Once | None = None, held: Held | None = None
    ) -> tuple[FleetState, AuditEntry]:
        self.calls.append("commit")
        return await self._memory.commit(change, create=create, once=once, held=held)

    async def leave(self, node_id: str, serial: int | None = None, *, dead: bool = False) -> bool:
        if self.failure is not None:
            raise self.failure
        self.left.append(node_id)
        return await self._memory.leave(node_id, serial, dead=dead)


class Bench:
    """Builds workers without doors, whose supervisor is the test."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.store: SharedStore | None = None
        self.lines: list[socket.socket] = []
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(plane, "IDLE_GRACE", 0.0)

    def share(self) -> SharedStore:
        """From here on all workers stand on one store."""
        store = self.store = SharedStore()
        self._monkeypatch.setattr(app, "open_store", lambda options: store)
        return store

    def worker(self, *, successor: bool = False, beside: bool = False, slot: int = 0, **flags: Any) -> Worker:
        settings = Settings.load(None, {"colors": UPSTREAMS} | flags, {})
        ours, theirs = socket.socketpair()
        self.lines += (ours, theirs)
        self.line = Line(ours)  # the supervisor's end of the last worker's
        return Worker(settings, Place(slot, [], [], self.directory, theirs, successor, beside))

    def close(self) -> None:
        for line in self.lines:
            line.close()


@pytest.fixture
def bench(monkeypatch) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="bgp-") as name:  # short: a Unix socket's path has at most 107 bytes
        bench = Bench(Path(name), monkeypatch)
        yield bench
        bench.close()


async def ends(worker: Worker, bench: Bench) -> int:
    """Tell it to end as soon as it serves; its exit status."""
    running = asyncio.create_task(worker.run())
    await worker._started.wait()
    assert bench.line.hear() == [(orders.READY, "")]
    bench.line.say(orders.END)
    return await asyncio.wait_for(running, PATIENCE)


async def joined(worker: Worker) -> Worker:
    """A worker that has found its pointer, and no more."""
    worker.mirror.listen(worker.plane.apply)
    await worker._join_fleet()
    await worker.mirror.stop()
    return worker


def epoch(worker: Worker) -> tuple[str, int]:
    assert worker.mirror.state is not None
    return worker.mirror.state.pointer.active, worker.mirror.state.pointer.epoch


# Start and end


async def test_it_serves_says_so_and_ends_when_told(bench):
    worker = bench.worker()
    assert await ends(worker, bench) == 0
    assert not list(bench.directory.glob("*.sock"))


async def test_what_cannot_be_served_is_a_status_of_its_own_and_one_line(bench, caplog):
    bench.share().failure = StoreUnavailable("store redis://h:1/0: connection refused")
    assert await bench.worker().run() == app.FATAL
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == [
        "store redis://h:1/0: connection refused"
    ]


async def test_it_is_registered_before_it_reads_what_it_admits_by(bench):
    store = bench.share()
    worker = await joined(bench.worker())
    assert store.calls.index("beat") < store.calls.index("commit")
    assert store.calls[-1] == "read"
    assert [node.id for node in await store.nodes()] == [worker.node_id]


async def test_where_other_nodes_speak_otherwise_it_does_not_start_and_writes_nothing(bench, caplog):
    store = bench.share()
    await store.beat(NodeReport("other", "there", 1, "7.1", 1, protocol=99))
    for successor in (False, True):
        store.calls.clear()
        assert await bench.worker(successor=successor).run() == app.FATAL
        assert store.calls == ["read", "read", "beat", "beat"], "twice: a dead one of this host may be in the way"
    assert (await store.read(), [node.id for node in await store.nodes()]) == (None, ["other"])
    assert caplog.records[-1].message.startswith("this bgproxy (0.1.0, schema 1, protocol 1) cannot join fleet default")


async def test_a_start_that_fails_leaves_no_node_behind(bench, monkeypatch):
    store = bench.share()
    await joined(bench.worker(active="green"))
    before = [node.id for node in await store.nodes()]

    async def broken(*_: Any, **__: Any) -> None:
        raise StoreBroken("not to be understood")

    monkeypatch.setattr("bgproxy.store.ledger.Ledger.bootstrap", broken)
    assert await bench.worker().run() == app.FATAL
    assert [node.id for node in await store.nodes()] == before


async def test_told_to_end_while_it_starts_it_does_so_when_it_has_started(bench):
    worker = bench.worker()
    bench.line.say(orders.END)
    assert await asyncio.wait_for(worker.run(), PATIENCE) == 0


async def test_orders(bench, monkeypatch):
    worker = bench.worker()
    reloads: list[int] = []

    async def reload() -> None:
        reloads.append(1)

    monkeypatch.setattr(worker, "reload", reload)
    for words, ending, hurry, reloaded in (
        ((orders.RELOAD,), False, False, 1),
        (("a-word-of-a-later-version",), False, False, 1),
        ((orders.END,), True, False, 1),
        ((orders.HURRY,), True, True, 1),
        ((orders.RELOAD, orders.END, orders.HURRY), True, True, 2),
    ):
        for word in words:
            bench.line.say(word)
        worker._supervisor_says()
        await asyncio.sleep(0)
        assert (worker._ending.is_set(), worker._hurry.is_set(), len(reloads)) == (ending, hurry, reloaded)


@pytest.mark.parametrize("unread", [b"", b"something that it never read"])
async def test_a_supervisor_that_is_gone_is_an_order_to_end(bench, unread, caplog):
    """With words unread the line breaks with a reset, not with an end."""
    worker = bench.worker()
    worker._heed()
    worker.place.supervisor.send(unread)
    bench.line.close()
    await asyncio.wait_for(worker._ending.wait(), PATIENCE)
    assert "the supervisor is gone: worker 0 ends" in caplog.text
    assert not worker._hurry.is_set()


# Beside others


async def becomes(what: Callable[[], Any]) -> Any:
    """What is true at last."""
    for _ in range(round(PATIENCE / 0.002)):
        if found := what():
            return found
        await asyncio.sleep(0.002)
    raise AssertionError("it never came true")


async def test_beside_others_it_is_ready_and_waits_for_its_word(bench):
    """Until then it has touched nothing: not even the configured releases."""
    store = bench.share()
    await joined(bench.worker())
    colors = UPSTREAMS | {"green": {"upstreams": ["http://127.0.0.1:3"]}}
    worker = bench.worker(beside=True, slot=1, colors=colors)
    opened: list[str] = []
    worker.admin.start = lambda deps: record(opened)  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(worker.run())
    assert await becomes(bench.line.hear) == [(orders.READY, "")]
    assert (opened, worker._started.is_set()) == ([], False)
    standing = await store.read()
    assert standing is not None
    assert standing.releases["green"].upstreams == ("http://127.0.0.1:2",)
    bench.line.say(orders.ACCEPT)
    await asyncio.wait_for(worker._started.wait(), PATIENCE)
    assert opened == ["admin"]
    standing = await store.read()
    assert standing is not None
    assert standing.releases["green"].upstreams == ("http://127.0.0.1:3",)
    bench.line.say(orders.END)
    assert await asyncio.wait_for(running, PATIENCE) == 0


async def record(opened: list[str]) -> None:
    opened.append("admin")


async def test_beside_others_that_are_not_to_be_replaced_after_all_it_ends_unseen(bench):
    worker = bench.worker(beside=True)
    worker.admin.start = None  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(worker.run())
    assert await becomes(bench.line.hear) == [(orders.READY, "")]
    bench.line.close()
    assert await asyncio.wait_for(running, PATIENCE) == 0


async def test_beside_others_a_store_that_is_away_is_no_start_and_its_reason_is_told(bench, known):
    """They know sessions that it could not ask for; alone it would start on what is known."""
    assert bench.store is not None
    bench.store.failure = AWAY
    worker = bench.worker(successor=True, beside=True)
    assert await worker.run() == app.FATAL
    assert bench.line.hear() == [(orders.FAILED, "connection refused")]


async def test_who_finishes_has_no_doors_any_more_and_ends_when_nothing_is_left(bench):
    worker = bench.worker()
    holds = worker.plane.arriving
    holds.add("a client")  # type: ignore[arg-type]
    running = asyncio.create_task(worker.run())
    await worker._started.wait()
    bench.line.say(orders.FINISH)
    await becomes(lambda: worker.plane.draining)
    assert worker.admin._runner is None
    assert not running.done()
    assert worker.settings.upgrade().finish_timeout == 0.0
    holds.clear()
    assert await asyncio.wait_for(running, PATIENCE) == 0


@pytest.mark.parametrize("words", [[orders.END, orders.HURRY], []])
async def test_who_finishes_ends_politely_when_told_or_when_its_time_is_up(bench, words):
    worker = bench.worker(upgrade={"finish_timeout": 0.0 if words else 0.01})
    worker.plane.arriving.add("a client")  # type: ignore[arg-type]
    running = asyncio.create_task(worker.run())
    await worker._started.wait()
    bench.line.say(orders.FINISH)
    for word in words:
        bench.line.say(word)
    assert await asyncio.wait_for(running, PATIENCE) == 0


# The pointer at the start


async def test_a_new_fleet_begins_as_it_is_configured(bench):
    bench.share()
    assert epoch(await joined(bench.worker(active="green"))) == ("green", 1)


async def test_a_pointer_that_stands_goes_before_the_configuration(bench):
    bench.share()
    first = await joined(bench.worker())
    await first.ledger.flip("green", actor="a", reason="", force=True)
    assert epoch(await joined(bench.worker(active="blue"))) == ("green", 2)


async def test_a_configuration_that_is_new_is_taken_over_at_the_start(bench):
    bench.share()
    await joined(bench.worker())
    colors = UPSTREAMS | {"green": {"upstreams": ["http://127.0.0.1:3"]}}
    worker = await joined(bench.worker(colors=colors))
    assert worker.mirror.state is not None
    assert worker.mirror.state.releases["green"].upstreams == ("http://127.0.0.1:3",)


@pytest.fixture
async def known(bench) -> FleetState:
    """A host whose workers have known green with epoch 2; the file that the last one left says so."""
    bench.share()
    worker = await joined(bench.worker())
    await worker.ledger.flip("green", actor="a", reason="", force=True)
    assert worker.mirror.state is not None
    assert worker.mirror.last_state_path is not None
    write_safely(worker.mirror.last_state_path, state_document(worker.mirror.state))
    return worker.mirror.state


AWAY = StoreUnavailable("connection refused")
LOCKED = StoreAuth("the password is wrong")


@pytest.mark.parametrize(
    ("failure", "successor", "serves"),
    [(AWAY, False, True), (AWAY, True, True), (LOCKED, False, False), (LOCKED, True, True)],
)
async def test_what_was_known_is_used_where_the_store_cannot_be(bench, known, failure, successor, serves):
    """A new proxy with a wrong password is told so; a worker in the place of one that served serves."""
    assert bench.store is not None
    bench.store.failure = failure
    worker = bench.worker(successor=successor)
    if serves:
        assert epoch(await joined(worker)) == ("green", 2)
        assert worker.ready()[0]
        assert worker.ready()[1]["degraded"]
    else:
        with pytest.raises(StoreAuth):
            await worker._join_fleet()


async def test_nothing_known_and_the_store_away(bench):
    bench.share().failure = AWAY
    with pytest.raises(StoreUnavailable):
        await bench.worker(successor=True)._join_fleet()


async def test_another_fleet_s_last_pointer_is_not_ours(bench, known):
    assert bench.store is not None
    bench.store.failure = AWAY
    with pytest.raises(StoreUnavailable):
        await bench.worker(fleet="another")._join_fleet()


@pytest.mark.parametrize("successor", [False, True])
async def test_a_store_that_came_back_empty_gets_what_was_known(bench, known, successor):
    bench.share()
    worker = await joined(bench.worker(successor=successor))
    assert epoch(worker) == ("green", 2)
    standing = await worker.store.read()
    assert standing is not None
    assert (standing.pointer.epoch, standing.revision > known.revision) == (2, True)


@pytest.mark.parametrize(("successor", "expected"), [(False, ("blue", 1)), (True, ("green", 2))])
async def test_a_store_that_went_back_convinces_a_new_proxy_but_no_successor(bench, known, successor, expected):
    bench.share()
    empty = await joined(replace_directory(bench).worker())
    assert epoch(empty) == ("blue", 1)
    bench.directory = bench.directory.parent
    assert epoch(await joined(bench.worker(successor=successor))) == expected


def replace_directory(bench: Bench) -> Bench:
    """Another host, which knows nothing."""
    bench.directory /= "elsewhere"
    bench.directory.mkdir()
    return bench


async def test_a_memory_store_is_taken_over_by_a_successor(bench):
    worker = await joined(bench.worker())
    await worker.ledger.flip("green", actor="a", reason="why", force=True)
    successor = await joined(bench.worker(successor=True))
    assert epoch(successor) == ("green", 2)
    assert [entry.reason for entry in await successor.ledger.audit(limit=1)] == ["why"]


# What it leaves and takes over


async def test_what_is_told_was_saved_first(bench):
    worker = bench.worker()
    slot = worker.metrics.slot("default", "blue", "v1")
    slot.classes[2], slot.in_flight = 3, 2
    told = worker.snapshot()
    left = legacy.read(bench.directory, 0)
    assert left == told["metrics"]
    successor = bench.worker(successor=True)
    assert successor.estate.carry_on() == 2
    assert successor.snapshot()["metrics"]["series"][0]["classes"][2] == 3


async def test_counters_that_cannot_be_carried_on_do_not_stop_it(bench, caplog):
    legacy.save(bench.directory, 0, {"bounds": [1.0]})
    worker = bench.worker()
    assert worker.estate.carry_on() == 0
    assert "the counters of the worker before are lost" in caplog.text
    assert worker.snapshot()["metrics"]["series"] == []


async def test_those_before_are_signed_off_before_it_joins(bench, caplog):
    """Of two that have died, one would not be missed by its own successor."""
    store = bench.share()
    dead = [await joined(bench.worker(slot=slot)) for slot in range(2)]
    for worker in dead:
        release(worker)
    successor = bench.worker(successor=True)
    running = asyncio.create_task(successor.run())
    await successor._started.wait()
    assert sorted(store.left) == sorted(worker.node_id for worker in dead)
    assert [node.id for node in await store.nodes()] == [successor.node_id]
    assert caplog.text.count("has died and is signed off") == 2
    bench.line.say(orders.END)
    assert await asyncio.wait_for(running, PATIENCE) == 0
    assert await store.nodes() == []
    assert len({successor.node_id, *store.left}) == 3, "one process, three workers: a host and a pid are no name"


async def test_a_sibling_signs_off_who_has_died(bench):
    store = bench.share()
    dead, living = [await joined(bench.worker(slot=slot)) for slot in range(2)]
    bench.line.say(orders.BURY)
    living._supervisor_says()
    await asyncio.sleep(0.01)
    assert len(await store.nodes()) == 2, "nobody has died yet"
    release(dead)
    bench.line.say(orders.BURY)
    living._supervisor_says()
    await asyncio.sleep(0.01)
    assert [node.id for node in await store.nodes()] == [living.node_id]


@pytest.mark.parametrize("failure", [None, StoreUnavailable("away")])
async def test_who_leaves_by_itself_needs_no_sign_off(bench, failure):
    store = bench.share()
    worker = bench.worker()
    running = asyncio.create_task(worker.run())
    await worker._started.wait()
    [badge] = (bench.directory / "nodes-default").iterdir()
    assert badge.name == worker.node_id
    store.failure = failure
    bench.line.say(orders.END)
    assert await asyncio.wait_for(running, PATIENCE) == 0
    assert badge.exists() is bool(failure), "whoever comes after it signs it off"


def release(worker: Worker) -> None:
    """As the end of its process does."""
    badges = worker.membership._badges
    assert badges._own is not None
    os.close(badges._own[1])
    badges._own = None


async def test_a_worker_that_is_cut_off_takes_nothing_new_until_it_has_read_the_state(bench):
    store = bench.share()
    worker = await joined(bench.worker(store={"fence_after": 5.0}))
    assert (worker.report().fence_after, worker.ready()[0], worker.ready()[1]["fenced"]) == (5.0, True, False)
    now = worker.fence.clock() + 5.1
    worker.fence.clock = lambda: now
    assert (worker.ready()[0], worker.ready()[1]["fenced"]) == (False, True)
    assert worker.snapshot()["node"]["state"] == "fenced"
    store.calls.clear()
    worker.membership.start()
    await asyncio.sleep(0.01)
    assert (store.calls, worker.ready()[0]) == (["beat", "read"], True)
    await worker.membership.stop()


async def test_it_registers_again_as_soon_as_the_store_is_there_again(bench):
    """A failover may have lost that it has joined: until it beats, a flip would not wait for it."""
    store = bench.share()
    worker = await joined(bench.worker())
    worker.membership.start()
    await asyncio.sleep(0.01)
    store.failure = AWAY
    await worker.mirror.look()
    await store._memory.leave(worker.node_id)
    store.failure = None
    await worker.mirror.look()
    await asyncio.sleep(0.01)
    assert [node.id for node in await store.nodes()] == [worker.node_id]
    await worker.membership.stop()


async def test_with_a_store_of_its_own_nobody_can_leave_it_behind(bench):
    worker = await joined(bench.worker(store={"fence_after": 5.0}))
    now = worker.fence.clock() + 1e6
    worker.fence.clock = lambda: now
    assert (worker.ready()[0], worker.report().fence_after) == (True, 0.0)


async def test_cut_off_from_its_start_it_takes_nothing_new(bench, known):
    assert bench.store is not None
    bench.store.failure = AWAY
    assert not (await joined(bench.worker(store={"fence_after": 5.0}))).ready()[0]
    assert (await joined(bench.worker())).ready()[0]


async def test_what_it_says_of_itself(bench):
    worker = await joined(bench.worker())
    worker.metrics.slot("default", "blue", "v1").in_flight = 2
    report = worker.report()
    assert isinstance(report, NodeReport)
    assert (report.id, report.epoch, report.revision, report.in_flight["blue"]) == (worker.node_id, 1, 1, 2)
    assert report.oldest == {}
    assert not report.finishing
    worker.plane.draining = True
    assert worker.ready()[0] is False
    assert worker.report().finishing


async def test_without_a_pointer_it_is_not_ready(bench):
    ready, facts = bench.worker().ready()
    assert (ready, facts["epoch"]) == (False, None)


# Reload


@pytest.fixture
def reread(monkeypatch) -> Callable[[Settings | Exception], None]:
    """Say what the configuration has become."""

    def becomes(new: Settings | Exception) -> None:
        def tell(_: Settings) -> Settings:
            if isinstance(new, Exception):
                raise new
            return new

        monkeypatch.setattr(Settings, "reread", tell)

    return becomes


async def test_a_reload_before_the_start_waits_for_it(bench, reread):
    worker = bench.worker()
    reread(Settings.load(None, {"colors": UPSTREAMS, "grace_timeout": 7.0}, {}))
    reloading = asyncio.create_task(worker.reload())
    await asyncio.sleep(0)
    assert worker.settings.grace_timeout == 30.0
    assert await ends(worker, bench) == 0
    await reloading
    assert worker.settings.grace_timeout == 7.0


async def test_a_reload_reaches_the_upstreams_that_are_there(bench, reread):
    worker = await joined(bench.worker())
    worker._started.set()
    upstream, *_ = worker.plane.upstreams("blue")
    reread(
        Settings.load(
            None, {"colors": UPSTREAMS, "pool": {"max_waiting": 0}, "health": {"fall": 1}, "fleet": "other"}, {}
        )
    )
    assert not upstream.full()
    await worker.reload()
    assert upstream.full()
    upstream.health.check_passed()
    upstream.health.check_failed("one is enough now")
    assert not upstream.health.up
    assert (worker.settings.fleet, worker.deps(worker.settings).fleet) == ("default", "default")


@pytest.mark.parametrize("fault", ["source", "log"])
async def test_a_reload_that_cannot_be_taken_changes_nothing(bench, reread, caplog, fault):
    worker = await joined(bench.worker())
    worker._started.set()
    before, options = worker.settings, worker.plane.options
    flags = {"colors": UPSTREAMS, "limits": {"max_fields": 7}, "access_log": {"output": f"{bench.directory}/no/x"}}
    reread(ConfigError("line 3: no") if fault == "source" else Settings.load(None, flags, {}))
    await worker.reload()
    assert (worker.settings, worker.plane.options) == (before, options)
    assert "the configuration was not reloaded, the old one stays" in caplog.text


async def test_two_reloads_take_turns(bench, reread, monkeypatch):
    worker = await joined(bench.worker())
    worker._started.set()
    reread(Settings.load(None, {"colors": UPSTREAMS, "grace_timeout": 7.0}, {}))
    inside, most = 0, 0
    take_over = worker._take_over

    async def counted(new: Settings) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        await take_over(new)
        inside -= 1

    monkeypatch.setattr(worker, "_take_over", counted)
    await asyncio.gather(worker.reload(), worker.reload())
    assert most == 1
