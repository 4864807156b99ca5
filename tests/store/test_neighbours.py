"""A node that has been silent for long is forgotten, and none that lives."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.store.badge import Badges
from bgproxy.store.base import NodeReport
from bgproxy.store.neighbours import LOOK_INTERVAL, Neighbours

Settle = Callable[..., Awaitable[None]]

HOUR = 3600.0
NODE = NodeReport("one", "host", 1, "0.1", 1, serial=4, live=False)


class Listed:
    """A store's list of nodes, as the test writes it."""

    def __init__(self) -> None:
        self.reports = [NODE]
        self.failure: Exception | None = None
        self.beats_meanwhile = False

    async def nodes(self) -> list[NodeReport]:
        if self.failure is not None:
            raise self.failure
        return self.reports

    async def leave(self, node_id: str, serial: int | None = None) -> bool:
        kept = [one for one in self.reports if (one.id, one.serial) != (node_id, serial) or self.beats_meanwhile]
        gone = len(kept) < len(self.reports)
        self.reports = kept
        return gone


class Bench:
    def __init__(self, pauses: Any, directory: Path, forget_after: float = HOUR) -> None:
        self.store: Any = Listed()
        self.now = 0.0
        self.badges = Badges(directory, "f")
        self.on_record: list[str] = []
        times: dict[str, Any] = {"node_ttl": 10.0, "forget_after": forget_after, "clock": lambda: self.now}
        self.neighbours = Neighbours(self.store, self.badges, self.forgotten, **times, sleep=pauses)

    async def forgotten(self, node: NodeReport) -> None:
        self.on_record.append(node.id)

    async def sees(self, now: float, age: float, serial: int = 4) -> list[str]:
        self.now = now
        self.store.reports = [replace(one, age=age, serial=serial) for one in self.store.reports]
        return [node.id for node in await self.neighbours.look()]


@pytest.fixture
def bench(pauses: Any, tmp_path: Path) -> Bench:
    return Bench(pauses, tmp_path)


async def test_it_is_forgotten_after_its_time_and_under_our_eyes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    assert await bench.sees(0.0, age=3000.0) == ["one"]
    assert await bench.sees(500.0, age=3500.0) == ["one"]
    assert await bench.sees(601.0, age=3601.0) == []
    assert (bench.store.reports, bench.on_record) == ([], ["one"])
    assert "node one was silent for 3601 s and is forgotten" in caplog.text


async def test_the_stores_clock_alone_is_not_believed(bench: Bench) -> None:
    assert await bench.sees(0.0, age=99_999.0) == ["one"]
    assert await bench.sees(59.9, age=99_999.0) == ["one"]
    assert await bench.sees(60.0, age=99_999.0, serial=5) == ["one"]
    assert await bench.sees(119.9, age=99_999.0, serial=5) == ["one"]
    assert await bench.sees(120.0, age=99_999.0, serial=5) == []


async def test_our_own_clock_alone_is_not_believed_either(bench: Bench) -> None:
    assert await bench.sees(0.0, age=1.0) == ["one"]
    assert await bench.sees(99_999.0, age=3599.0) == ["one"]


async def test_a_short_time_is_watched_as_a_whole_and_no_longer(pauses: Any, tmp_path: Path) -> None:
    bench = Bench(pauses, tmp_path, forget_after=10.0)
    assert await bench.sees(0.0, age=11.0) == ["one"]
    assert await bench.sees(9.9, age=21.0) == ["one"]
    assert await bench.sees(10.0, age=21.0) == []


async def test_one_that_beats_at_the_last_moment_stays(bench: Bench) -> None:
    await bench.sees(0.0, age=99_999.0)
    bench.store.beats_meanwhile = True
    assert await bench.sees(61.0, age=99_999.0) == ["one"]
    assert bench.on_record == []


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), RuntimeError("a bug")])
async def test_it_looks_again_and_again(
    bench: Bench, pauses: Any, settle: Settle, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    bench.neighbours.start()
    bench.store.failure = failure
    for age in (1.0, 99_999.0):
        await settle()
        bench.now += 61.0
        bench.store.reports = [replace(one, age=age) for one in bench.store.reports]
        pauses.end()
    assert len(bench.store.reports) == 1
    bench.store.failure = None
    for _ in range(2):
        await settle()
        bench.now += 61.0
        pauses.end()
    await settle()
    assert bench.store.reports == []
    assert all(0.5 * LOOK_INTERVAL < seconds <= LOOK_INTERVAL for seconds in pauses.lengths)
    assert bool(caplog.records) is isinstance(failure, RuntimeError)
    await bench.neighbours.stop()


async def test_each_look_signs_off_who_has_died_on_this_host(
    bench: Bench, pauses: Any, settle: Settle, tmp_path: Path
) -> None:
    (tmp_path / "nodes-f").mkdir()
    (tmp_path / "nodes-f" / "one").touch()  # which nobody has locked
    bench.store.leave, left = (lambda node_id, dead: left_by(node_id, dead)), []

    async def left_by(node_id: str, dead: bool) -> bool:
        if bench.store.failure is not None:
            raise bench.store.failure
        left.append((node_id, dead))
        bench.store.reports = []
        return True

    bench.store.failure = StoreUnavailable("away")
    await bench.neighbours.sign_off_dead()
    bench.neighbours.start()
    await settle()
    bench.store.failure = None
    pauses.end()
    await settle()
    assert left == [("one", True)]
    await bench.neighbours.stop()


async def test_a_dead_one_keeps_its_place_until_all_that_live_here_are_registered(
    bench: Bench, pauses: Any, settle: Settle, tmp_path: Path
) -> None:
    """One that was started without the store admits by what it knew: a flip waits for it, or for the dead one."""
    bench.badges.wear("successor")
    (tmp_path / "nodes-f" / "one").touch()
    left: list[str] = []

    async def leave(node_id: str, *, dead: bool) -> bool:
        left.append(node_id)
        return dead

    bench.store.leave = leave
    assert not await bench.neighbours.sign_off_dead()
    bench.neighbours.bury()
    bench.neighbours.bury()
    for _ in range(3):
        await settle()
        pauses.end()
    assert left == []
    bench.store.reports = [NODE, replace(NODE, id="successor")]
    await settle()
    assert left == ["one"]
    assert await bench.neighbours.sign_off_dead()
    # Where it is in the way of the successor itself, that is its word against the dead one's.
    (tmp_path / "nodes-f" / "two").touch()
    bench.store.reports = []
    assert await bench.neighbours.sign_off_dead(at_once=True)
    assert left == ["one", "two"]
    await bench.neighbours.stop()
    bench.badges.take_off()


async def test_one_that_was_signed_off_and_stands_on_the_list_again_is_signed_off_again(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failover has lost that; its badge is gone, and without this flips would wait for it for `forget_after`."""
    (tmp_path / "nodes-f").mkdir()
    left: list[str] = []

    async def leave(node_id: str, *, dead: bool) -> bool:
        left.append(node_id)
        return dead

    bench.store.leave = leave
    for number in range(300):
        (tmp_path / "nodes-f" / f"dead{number:03}").touch()
    assert await bench.neighbours.sign_off_dead()
    assert len(left) == 300
    bench.store.reports = [NODE, replace(NODE, id="dead299")]
    assert [node.id for node in await bench.neighbours.look()] == ["one"]
    assert left[300:] == ["dead299"]
    assert "node dead299 was signed off as dead, and the store has lost that" in caplog.text
    assert len(bench.neighbours._buried) == 256


async def test_who_fences_itself_is_known_to_be_fenced_in_time(bench: Bench) -> None:
    bench.store.reports = [NODE, replace(NODE, id="two", fence_after=5.0)]
    await bench.neighbours.look()
    bench.now = 17.9
    assert [bench.neighbours.fenced(name) for name in ("one", "two", "none")] == [False, False, False]
    bench.now = 18.1
    assert [bench.neighbours.fenced(name) for name in ("one", "two", "none")] == [False, True, False]


async def test_who_has_beaten_since_the_last_look_is_not_fenced(bench: Bench) -> None:
    report = replace(NODE, fence_after=5.0)
    bench.store.reports = [report]
    await bench.neighbours.look()
    bench.now = 29.0  # looks are rarer than lease and fence are long
    assert bench.neighbours.fenced("one", report.serial)
    assert not bench.neighbours.fenced("one", report.serial + 1)
    assert not bench.neighbours.fenced("none", report.serial)


async def test_before_a_flip_leaves_one_behind_it_is_looked_at_again(bench: Bench) -> None:
    bench.store.reports = [replace(NODE, fence_after=5.0), replace(NODE, id="two", fence_after=5.0)]
    await bench.neighbours.look()
    reports, bench.store.reports = bench.store.reports, []
    assert await bench.neighbours.fenced_among(["one", "two"], False) == {}
    bench.store.reports = reports
    bench.now = 18.1
    bench.store.reports = [reports[0], replace(reports[1], serial=5)]
    assert await bench.neighbours.fenced_among(["one", "two", "none"], False) == {"one": 4}
    bench.store.failure = StoreUnavailable("away")
    assert await bench.neighbours.fenced_among(["two"], False) == {}, "of which the last look tells enough"
    with pytest.raises(StoreUnavailable):
        await bench.neighbours.fenced_among(["one"], False)


async def test_a_flip_that_waits_in_vain_begins_the_count(bench: Bench) -> None:
    bench.store.reports = [replace(NODE, fence_after=5.0)]
    assert await bench.neighbours.fenced_among(["one"], False) == {}
    bench.now = 100.0
    assert await bench.neighbours.fenced_among(["one"], True) == {}
    bench.now = 118.1
    assert await bench.neighbours.fenced_among(["one"], False) == {"one": 4}


async def test_live_nodes_that_speak_otherwise_are_told_of_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    bench.store.reports = [NODE, replace(NODE, id="old", protocol=0), replace(NODE, id="new", live=True, schema=99)]
    for _ in range(2):
        await bench.neighbours.look()
    [record] = caplog.records
    assert record.message.endswith("(schema 1, protocol 1): new; end them, or run one version everywhere")
    bench.store.reports = [replace(NODE, live=True)]
    await bench.neighbours.look()
    assert len(caplog.records) == 1
