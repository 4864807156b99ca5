"""The workers of a simulated host speak as over Unix sockets, and flip as the real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

import bgproxy.store.pins
from bench.history import LINEARIZABLE
from bench.simulate import play as module
from bench.simulate.near import Doors, Near, Wire
from bench.simulate.play import Plan, Play
from bench.simulate.world import World
from bgproxy.rollout import promises

pytestmark = pytest.mark.skipif(
    not bgproxy.store.pins.__file__.endswith(".py"), reason="compiled classes take no stand-ins for connections"
)


class Promises:
    """A worker's word, of which is noted what it was asked for, and what was said of it in the end."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def give(self, revision: int) -> object:
        self.heard.append(revision)
        return object()

    def end(self, _: object, *, nothing_came: bool) -> None:
        self.heard.append(nothing_came)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(1)
    yield world
    world.end()
    assert not world.failures


@pytest.fixture
def host(world: World) -> list[tuple[Near, Promises]]:
    doors, found = Doors(world), []
    for slot in range(3):
        promises = Promises()
        near = Near(doors, world.process(f"n{slot}"), slot, f"n{slot}", cast("Any", promises))
        near.start()
        found.append((near, promises))
    return found


def asked(world: World, near: Near, *, seconds: float = 0.1, nothing_came: bool | None = True) -> list[Any]:
    """What comes of asking all others; None: it never says what came of it."""
    came: list[Any] = []

    async def ask() -> None:
        asking = near.ask(near.doors(), 7)
        came.append(await asking.held(seconds))
        if nothing_came is not None:
            asking.end(nothing_came=nothing_came)

    near._process.spawn(ask())
    world.run(world.now + 1.0)
    return came


@pytest.mark.parametrize(("says", "heard"), [(True, [7, True, False]), (False, [7, False]), (None, [7])])
def test_all_give_their_word_and_hear_what_came_of_it(world, host, says, heard):
    (first, own), *others = host
    assert asked(world, first, nothing_came=says) == [{"n1", "n2"}]
    assert own.heard == []
    assert [promises.heard for _, promises in others] == [heard] * 2, "False at its end: no more comes"


def test_one_that_is_stopped_gives_no_word_in_time_and_hears_all_of_it_later(world, host):
    first, (second, promises), _ = host
    second._process.pause(5)
    assert asked(world, first[0]) == [None]
    assert promises.heard == []
    world.run(6)
    assert promises.heard[0] == 7
    assert True in promises.heard


def test_behind_a_dead_one_s_door_is_nobody_and_who_spoke_with_it_hears_its_end(world, host):
    first, (second, _), (third, promises) = host
    second._process.kill()
    second.die()
    assert asked(world, first[0], nothing_came=None) == [{"n2"}]
    first[0]._process.kill()
    first[0].die()
    world.run(world.now + 1)
    assert promises.heard == [7, False]
    assert asked(world, third) == [set()]


def test_one_that_dies_before_it_answers_is_as_good_as_a_no(world, host):
    first, (second, _), _ = host
    second._process.pause(0.05)
    world.at(0.02, lambda: (second._process.kill(), second.die()))
    assert asked(world, first[0], seconds=10.0) == [None]


def test_bytes_come_in_their_order_then_the_end(world):
    one, other = world.process("p"), world.process("q")
    wire, peer = Wire(world, one), Wire(world, other)
    wire.peer, peer.peer = peer, wire
    with pytest.raises(BlockingIOError):
        peer.recv(10)
    for number in range(50):
        wire.send(b"%d " % number)
    wire.close()
    world.run(1)
    assert peer.recv(1_000).split() == [b"%d" % number for number in range(50)]
    assert peer.recv(1_000) == b""
    with pytest.raises(BrokenPipeError):
        peer.send(b"late")


def _hosts(play: Play) -> int:
    """How many there are, once the fleet stands."""
    play.world.run(0.5)
    return len({node.host for node in play.fleet.nodes})


@pytest.mark.parametrize(("near", "verbs"), [(True, ["flip", "flip"]), (False, ["prepare", "flip"] * 2)])
def test_workers_of_one_host_flip_by_one_commit(near, verbs):
    begun = (Play(seed, Plan(near=near, faults=False)) for seed in range(20))
    play = next(play for play in begun if _hosts(play) == 1 or not near)
    assert _hosts(play) == (1 if near else len(play.fleet.nodes))
    for color in ("green", "blue"):
        play._ask_for(play.fleet.nodes[0], color)
        play.world.run(play.world.now + 0.5)
    assert [entry.verb for entry in play.server.memory._audit][1:] == verbs
    assert {node.epoch for node in play.fleet.nodes} == {3}
    play.world.end()


def test_flips_of_one_host_keep_what_they_promise_whatever_goes_wrong():
    plan = Plan(trouble=1.5, near=True, replicated=True)
    outcomes = [Play(seed, plan).run(seed) for seed in range(24)]
    assert not [f"seed {one.seed}: {one.told()}" for one in outcomes if plan.blames(one)]
    assert sum(one.flips for one in outcomes) > 60


def test_the_judge_finds_workers_that_do_not_keep_their_word(monkeypatch):
    """They admit by what they know as soon as nobody speaks with them any more: the commit may come yet."""

    async def forget(self: Any, promise: Any) -> None:
        await promise.is_left.wait()
        self._settle(promise)

    monkeypatch.setattr(promises.Promises, "_outlast", forget)
    monkeypatch.setattr(module, "MEANWHILE", 0.35)
    plan = Plan(trouble=2.0, near=True)
    outcomes = (Play(seed, plan).run(seed) for seed in range(200))
    assert any(LINEARIZABLE in outcome.verdict.broken for outcome in outcomes)


def test_who_is_dead_when_all_is_mended_has_a_successor_from_then_on():
    """It may be the only one that knows, by its host's disk, what the store has lost; and it has one only."""
    play = Play(1, Plan(near=True))
    play.world.run(0.5)
    node, before = play.fleet.nodes[0], len(play.fleet.nodes)
    play._kill(node, 2.0)
    play._mend()
    play.world.run(4.0)
    assert [(one.slot, one.is_serving) for one in play.fleet.nodes[before:]] == [(node.slot, True)]
    play.world.end()
