"""How the windows of many nodes come to one judgement, through nodes that die, fall silent, or speak otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rollout import watching
from bgproxy.rollout.watching import SILENT, Gatherer, Reporter
from bgproxy.rules.watch import Watch
from bgproxy.rules.window import Window
from bgproxy.store.base import NodeReport, StoreOptions, open_store
from bgproxy.telemetry.metrics import Metrics
from bgproxy.telemetry.windows import Windows

GREEN = ("green", "v2")
WATCH = Watch("r1:bake:2")


class Node:
    """One with counters of its own."""

    def __init__(self, name: str, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        self.metrics = Metrics()
        self.reporter = Reporter(name, store, Windows(self.metrics))
        self.store = store
        monkeypatch.setattr(watching, "watched", lambda state: state.watch)

    def apply(self, watch: Watch, epoch: int = 2) -> None:
        """A state that lets watch this."""
        self.reporter.apply(SimpleNamespace(watch=watch, pointer=SimpleNamespace(epoch=epoch)))  # type: ignore[arg-type]

    def answer(self, count: int, status: int = 200) -> None:
        self.metrics.slot("default", *GREEN).classes[status // 100] += count

    async def tell(self) -> None:
        self.reporter._windows.tick()
        await self.reporter._tell()

    async def beat(self) -> None:
        await self.store.beat(NodeReport(self.name, "h", 1, "1", 1))


@pytest.fixture
async def store():
    made = open_store(StoreOptions())
    yield made
    await made.close()


@pytest.fixture
def add(store, monkeypatch):
    def made(name: str) -> Node:
        node = Node(name, store, monkeypatch)
        node.apply(WATCH)
        return node

    return made


async def test_the_windows_of_all_nodes_add_up_those_of_the_dead_too(store, add):
    one, two = add("n1"), add("n2")
    one.answer(5)
    two.answer(3, status=500)
    await one.tell()
    await two.tell()
    gatherer = Gatherer(store, WATCH.name)
    assert (await gatherer.look()).since == {GREEN: Window(8, 3)}
    del two  # and never heard of again
    one.answer(1)
    await one.tell()
    found = await Gatherer(store, WATCH.name).look()
    assert found.since == {GREEN: Window(9, 3)}
    assert found.nodes == 2


async def test_a_state_that_lets_watch_the_same_goes_on_counting(store, add):
    node = add("n1")
    node.answer(5)
    node.apply(WATCH)
    await node.tell()
    assert (await Gatherer(store, WATCH.name).look()).since[GREEN].answers == 5


async def test_while_nothing_is_watched_nothing_is_told(store, add):
    node = add("n1")
    node.apply(Watch())
    node.answer(5)
    await node.tell()
    assert (await store.told(""), await store.told(WATCH.name)) == ({}, {})


async def test_who_is_registered_and_tells_nothing_new_is_named(store, add):
    now = 100.0
    gatherer = Gatherer(store, WATCH.name, lambda: now)
    one, two, dead = add("n1"), add("n2"), add("n0")
    for node in (one, two):
        await node.beat()
    await one.tell()
    await two.tell()
    await dead.tell()
    assert (await gatherer.look()).silent == ()
    for _ in range(3):
        now += SILENT / 2
        await one.tell()
        found = await gatherer.look()
    assert found.silent == ("n2",), "the dead one is not registered"
    await store.beat(NodeReport("n3", "h", 1, "1", 1))  # as one of an older version, which never tells
    now += SILENT + 0.1
    assert (await gatherer.look()).silent == ("n1", "n2", "n3")


async def test_nobody_is_silent_before_there_was_time_to_tell(store, add):
    now = 100.0
    await add("n1").beat()
    gatherer = Gatherer(store, WATCH.name, lambda: now)
    now += SILENT
    assert (await gatherer.look()).silent == ()
    now += 0.1
    assert (await gatherer.look()).silent == ("n1",)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"serial": 1, "since": [{}], "before": []}'])
async def test_what_is_not_understood_is_left_out(store, add, text):
    node = add("n1")
    node.answer(2)
    await node.tell()
    await store.tell(WATCH.name, "n2", text)
    found = await Gatherer(store, WATCH.name).look()
    assert (found.since, found.nodes) == ({GREEN: Window(2)}, 1)


async def test_with_the_store_away_it_is_told_later_and_whole(store, add, monkeypatch):
    node = add("n1")

    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "tell", away)
        node.answer(4)
        await node.tell()
    node.answer(1)
    await node.tell()
    assert (await Gatherer(store, WATCH.name).look()).since[GREEN].answers == 5


async def test_a_telling_that_fails_in_itself_is_not_the_last_one(store, add, monkeypatch, turns, caplog):
    node = add("n1")
    monkeypatch.setattr(watching, "INTERVAL", 0.0)
    told, whole = [], store.tell

    async def odd(*arguments: Any) -> None:
        told.append(arguments)
        if len(told) == 1:
            raise RuntimeError("odd")
        await whole(*arguments)

    monkeypatch.setattr(store, "tell", odd)
    node.answer(2)
    node.reporter.start()
    await turns()
    assert (await Gatherer(store, WATCH.name).look()).since[GREEN].answers == 2
    assert caplog.text.count("the windows could not be told") == 1
    await node.reporter.stop()


async def test_who_stops_tells_what_came_last(store, add, turns):
    node = add("n1")
    node.reporter.start()
    await turns()
    node.answer(2)
    await node.reporter.stop()
    assert (await Gatherer(store, WATCH.name).look()).since[GREEN].answers == 2


async def test_a_flip_that_is_watched_later_is_watched_from_itself_on(store, add):
    node = add("n1")
    node.apply(Watch())
    node.answer(7)
    node.apply(Watch(), epoch=3)
    node.answer(2)
    node.apply(Watch("r2:bake:3", since_flip=True), epoch=3)
    await node.tell()
    found = await Gatherer(store, "r2:bake:3").look()
    assert (found.since[GREEN].answers, found.before[GREEN].answers) == (2, 7)
