"""The simulated world keeps its laws, its store fails as it is told to, and the judge sees what goes wrong in it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest

import bgproxy.store.pins
from bench.history import LINEARIZABLE
from bench.simulate.__main__ import main, summed
from bench.simulate.node import Node
from bench.simulate.play import Outcome, Plan, Play, play
from bench.simulate.store import FarStore, Line, Server
from bench.simulate.world import EPOCH, Process, World
from bgproxy.errors import StoreUnavailable
from bgproxy.rules import fleet
from bgproxy.rules.release import Release
from bgproxy.store.base import NodeReport, Store, StoreOptions
from bgproxy.store.pinning import Want

pytestmark = pytest.mark.skipif(
    not bgproxy.store.pins.__file__.endswith(".py"), reason="compiled classes take no stand-ins for connections"
)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(1)
    yield world
    world.end()
    assert not world.failures


def in_process(process: Process, work: Coroutine[Any, Any, Any]) -> list[Any]:
    """What comes of a coroutine in a process, once the world has run."""
    came: list[Any] = []

    async def run() -> None:
        try:
            came.append(await work)
        except Exception as error:
            came.append(error)

    process.spawn(run())
    return came


# the world


def test_an_hour_takes_no_time_and_clocks_tell_the_worlds(world):
    process = world.process("p")
    began = time.monotonic()

    async def sleep() -> tuple[float, float, float]:
        await asyncio.sleep(3_600)
        return time.time(), time.monotonic(), process.time()

    came = in_process(process, sleep())
    world.run(4_000)
    assert came == [pytest.approx((EPOCH + 3_600, 3_600, 3_600), abs=0.001)]
    assert time.monotonic() - began < 60, "seconds of ours"


def test_a_fast_clock_is_fast(world):
    process, came = world.process("p", 1.05), []
    process.give(lambda: process.call_later(105, lambda: came.append(world.now)))
    world.run(200)
    assert came == [pytest.approx(100)]


def test_who_is_stopped_finds_everything_waiting_and_the_dead_find_nothing(world):
    stopped, dead, came = world.process("stopped"), world.process("dead"), []
    for process in (stopped, dead):
        process.give(process.call_later, 1, came.append, f"{process.name}: a timer")
        world.at(2, lambda process=process: process.give(came.append, f"{process.name}: a message"))
    world.at(0.5, lambda: stopped.pause(5))
    world.at(0.5, dead.kill)
    world.run(5.4)
    assert came == []
    world.run(6)
    assert sorted(came) == ["stopped: a message", "stopped: a timer"]


def test_a_pause_can_end_early(world):
    process, came = world.process("p"), []
    process.pause(5)
    process.give(came.append, "a message")
    world.at(1, process.resume)
    world.run(1.1)
    assert came == ["a message"]


def test_timeouts_cancel_and_cleaning_up_works_at_the_end(world):
    process, came = world.process("p"), []

    async def wait() -> None:
        try:
            async with asyncio.timeout(1):
                await process.create_future()
        except TimeoutError:
            came.append(world.now)
        try:
            await asyncio.Event().wait()
        finally:
            came.append("ended")

    process.spawn(wait())
    world.run(2)
    assert came == [pytest.approx(1)]
    world.end()
    assert came[1:] == ["ended"]


def test_what_a_task_dies_of_is_known():
    world = World(1)
    process = world.process("p")

    async def fail() -> None:
        raise RuntimeError("oh")

    process.spawn(fail())
    process.give(lambda: 1 // 0)
    world.run(1)
    world.end()
    assert ["RuntimeError('oh')" in world.failures[0], "ZeroDivisionError" in world.failures[1]] == [True, True]


def test_a_world_without_an_end_is_found_out(world, monkeypatch):
    monkeypatch.setattr("bench.simulate.world.MOST_TURNS", 1_000)

    def again() -> None:
        world.after(0, again)

    world.at(1, again)
    with pytest.raises(RuntimeError, match="no end of it"):
        world.run(2)


def test_chance_outside_is_left_alone():
    random.seed(5)
    first = random.random()
    random.seed(5)
    world = World(9)
    world.at(0, random.random)
    world.run(1)
    assert random.random() == first
    assert time.time.__module__ == "time"


# the store


class Shop:
    """A store, and one node's line to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.commits: list[int] = []
        options = StoreOptions()
        self.node = world.process("n0")
        world.at(0, lambda: self._open(options))
        world.run(0)
        self.line = Line(world, self.node, self.server)
        self.store = cast("Store", FarStore(self.line, options))

    def _open(self, options: StoreOptions) -> None:
        self.server = Server(self.world, options, lambda state: self.commits.append(state.revision))

    def ask(self, what: Callable[[Store], Coroutine[Any, Any, Any]], seconds: float = 2.0) -> Any:
        came = in_process(self.node, what(self.store))
        self.world.run(self.world.now + seconds)
        return came[0] if came else None

    def begin(self) -> Any:
        return self.ask(lambda store: store.commit(CHANGE, create=True))

    def hear(self) -> list[Any]:
        heard: list[Any] = []

        async def listen() -> None:
            try:
                async for rung in self.store.watch():
                    heard.append(rung)
            except StoreUnavailable:
                heard.append("broken")

        self.node.spawn(listen())
        self.world.run(self.world.now + 0.5)
        return heard


CHANGE = fleet.bootstrap(("blue",), "blue", {"blue": Release("v1", ("http://a",))}, "test", 1.0)


@pytest.fixture
def shop(world) -> Shop:
    return Shop(world)


def test_the_store_at_the_other_end_of_a_line_is_a_store(shop):
    heard = shop.hear()
    assert shop.ask(lambda store: store.read()) is None
    state, _ = shop.begin()
    assert state.pointer.at == pytest.approx(EPOCH, abs=60)
    assert shop.ask(lambda store: store.read()) == state
    assert repr(shop.begin()).startswith("Conflict")
    assert heard == [0, 1]
    assert shop.ask(lambda store: store.pins.counts()) == {}


def test_a_call_that_is_lost_has_done_nothing_and_one_whose_answer_is_has(shop):
    shop.line.loses_calls = 1.0
    assert isinstance(shop.begin(), StoreUnavailable)
    assert shop.commits == []
    shop.line.loses_calls, shop.line.loses_answers = 0.0, 1.0
    assert isinstance(shop.begin(), StoreUnavailable)
    assert shop.commits == [1]


def test_a_stopped_store_does_what_it_was_asked_long_after_its_caller_has_given_up(shop):
    shop.server.process.pause(5)
    assert "took longer than 1 s" in str(shop.begin())
    assert shop.commits == []
    shop.world.run(6)
    assert shop.commits == [1]


def test_a_cut_line_loses_or_delays_and_never_answers_meanwhile(shop):
    shop.line.cut(5)
    for _ in range(10):
        assert isinstance(shop.ask(lambda store: store.now(), 0.3), StoreUnavailable | None)
    shop.world.run(7)
    assert shop.ask(lambda store: store.now()) > EPOCH


def test_a_killed_store_refuses_keeps_its_data_and_breaks_subscriptions(shop):
    shop.begin()
    heard = shop.hear()
    shop.server.kill()
    assert isinstance(shop.ask(lambda store: store.read()), StoreUnavailable)
    shop.server.start()
    assert shop.ask(lambda store: store.read()).revision == 1
    assert heard == [0, "broken"]
    shop.server.kill()
    shop.server.start(keep=False)
    assert shop.ask(lambda store: store.read()) is None


def test_a_store_tells_whether_it_is_the_same_process_or_nothing_of_that(shop):
    def told() -> Any:
        return shop.ask(lambda store: store.incarnation())

    first = told()
    shop.server.process.pause(0.5)
    assert told() == first != ""
    shop.server.kill()
    shop.server.start()
    second = told()
    assert second not in (first, "")
    shop.server.kill()
    shop.server.start(replica=shop.server.replica())
    assert told() not in (first, second, "")
    shop.server.tells = False
    assert told() == ""


def test_a_replica_lacks_what_was_done_last(shop):
    shop.begin()
    replica = shop.server.replica()
    shop.ask(lambda store: store.beat(NodeReport("late", "h", 1, "0", 1)))
    made = shop.ask(lambda store: store.pins.resolve([Want((b"k" * 16,), "agents", "x", 60.0)]))
    assert len(made) == 1
    shop.server.kill()
    shop.server.start(replica=replica)
    assert shop.ask(lambda store: store.read()).revision == 1
    assert shop.ask(lambda store: store.nodes()) == []
    assert shop.ask(lambda store: store.pins.find(b"k" * 16)) is None
    shop.line.least_epoch = 2
    assert isinstance(
        shop.ask(lambda store: store.pins.resolve([Want((b"k" * 16,), "agents", "x", 60.0)])), StoreUnavailable
    )


def test_bells_can_be_lost(shop):
    heard = shop.hear()
    shop.line.loses_bells = 1.0
    shop.begin()
    assert heard == [0]


# whole stories


def test_one_seed_is_one_story():
    told: list[list[str]] = [[], []]
    for lines in told:
        play(7, Plan(), lines.append)
    assert len(told[0]) > 300
    assert told[0] == told[1]


def worlds(plan: Plan, count: int) -> list[Outcome]:
    """So many, of which none may be bad."""
    outcomes = [play(seed, plan) for seed in range(count)]
    assert not [f"seed {one.seed}: {one.told()}" for one in outcomes if plan.blames(one)]
    return outcomes


def test_flips_over_many_nodes_keep_what_they_promise_whatever_goes_wrong():
    outcomes = worlds(Plan(trouble=1.5), 60)
    assert sum(one.flips for one in outcomes) > 120
    assert sum(one.verdict.excused for one in outcomes) > 0, "workers were killed"
    assert sum(one.verdict.refused.total() for one in outcomes) > 0, "the store was away"


def test_flips_leave_nodes_behind_that_fence_themselves_and_keep_what_they_promise():
    outcomes = worlds(Plan(fenced=True), 16)
    assert sum(one.left_behind for one in outcomes) > 0
    assert sum(one.verdict.refused["503 fenced"] for one in outcomes) > 50


def test_flips_find_themselves_again_when_a_replica_takes_the_stores_place():
    outcomes = worlds(Plan(trouble=1.5, replicated=True), 8)
    assert sum(one.flips for one in outcomes) > 16


def test_swaps_keep_all_but_the_one_moment_and_the_judge_sees_that():
    outcomes = worlds(Plan(trouble=1.5, strategy="swap"), 20)
    assert sum(one.verdict.broken[LINEARIZABLE] for one in outcomes) > 0


def test_a_fleet_that_does_not_find_itself_again_is_seen(monkeypatch):
    monkeypatch.setattr(Node, "_applied", lambda node, _: node.id == "n1" and node.line.cut(60))
    monkeypatch.setattr(Play, "_mend", lambda _: None)
    problems = play(3, Plan(faults=False)).problems
    assert any("do not agree" in problem for problem in problems)


def test_what_was_to_go_wrong_later_does_not_once_all_is_mended():
    begun = Play(3, Plan(replicated=True))
    begun.world.run(0.5)
    begun._fail_over(begun.server.replica(), 0.1)
    assert not begun.server.is_up
    begun._mend()
    begun._fail_over(begun.server.replica(), 0.1)
    assert begun.server.is_up
    begun.world.end()


def test_the_command_names_the_seeds_that_went_wrong(capsys):
    outcome = play(2, Plan(faults=False))
    bad = Outcome(4711, outcome.verdict, 3, ["the nodes do not agree"])
    assert summed([outcome, bad], Plan()) == 1
    said = capsys.readouterr().out
    assert "seed 4711: " in said
    assert "2 worlds" in said
    assert "1 worlds went wrong" in said
    assert main(["--seed", "2", "--calm"]) == 0
    assert "operator" in capsys.readouterr().out


def test_the_command_ends_when_its_time_is_over(capsys, monkeypatch):
    monkeypatch.setattr("bench.simulate.__main__.CHUNK", 1)
    assert main(["--seeds", "1000", "--seconds", "0", "--jobs", "1", "--calm"]) == 0
    assert capsys.readouterr().out.startswith("0 worlds")
