"""This node's windows: differences of the counters, kept for a while, added up from where something is watched."""

from __future__ import annotations

import orjson
import pytest

from bgproxy.rules.watch import LONGEST_BASELINE, Watch
from bgproxy.rules.window import Window
from bgproxy.telemetry.metrics import Metrics, Slot
from bgproxy.telemetry.windows import Report, Windows, report_from, summed

BLUE, GREEN = ("blue", "v1"), ("green", "v2")


class Node:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.now = 100.0
        self.windows = Windows(self.metrics, lambda: self.now)

    def slot(self, key: tuple[str, str] = BLUE, route: str = "default") -> Slot:
        return self.metrics.slot(route, *key)

    def answer(
        self, key: tuple[str, str] = BLUE, *, status: int = 200, took: float = 0.1, route: str = "default"
    ) -> None:
        slot = self.slot(key, route)
        slot.classes[status // 100] += 1
        slot.latency.add(took)
        slot.ttfb.add(took)

    def second(self) -> None:
        self.now += 1.0
        self.windows.tick()


@pytest.fixture
def node() -> Node:
    return Node()


def since(node: Node, key: tuple[str, str] = GREEN) -> Window:
    node.windows.tick()
    return node.windows.report().since.get(key, Window())


def test_what_is_watched_counts_from_its_beginning(node):
    for _ in range(3):
        node.answer(GREEN)
    node.windows.begin(Watch("r1"))
    assert since(node) == Window()
    node.answer(GREEN, took=0.3)
    node.answer(GREEN, status=500, took=0.3)
    node.second()
    node.answer(GREEN, took=0.3, route="chat")
    found = since(node)
    assert (found.answers, found.errors, found.latency.count, found.first_byte.count) == (3, 1, 3, 3)
    assert found.latency.above(0.25) == 3


def test_the_baseline_is_what_came_just_before(node):
    node.answer(BLUE, took=5.0)
    node.second()
    for _ in range(10):
        node.answer(BLUE)
        node.second()
    node.windows.begin(Watch("r1", baseline=4.5))
    node.answer(BLUE)
    node.answer(GREEN)
    node.second()
    report = node.windows.report()
    assert report.before[BLUE].answers == 5, "the seconds that reach into it, the one under way too"
    assert report.before[BLUE].latency.above(1.0) == 0
    assert {key: window.answers for key, window in report.since.items()} == {BLUE: 1, GREEN: 1}


def test_what_happens_between_two_ticks_is_parted_where_the_watch_begins(node):
    node.answer(BLUE)
    node.windows.begin(Watch("r1"))
    node.answer(BLUE)
    assert since(node, BLUE).answers == 1
    assert node.windows.report().before[BLUE].answers == 1


def test_a_bake_reaches_back_to_the_flip(node):
    node.answer(BLUE)
    node.second()
    node.windows.flipped()
    node.answer(GREEN, status=500)
    node.now += 20.0
    node.windows.begin(Watch("r1", baseline=5.0, since_flip=True))
    node.answer(GREEN)
    assert since(node).answers == 2
    report = node.windows.report()
    assert {key: window.answers for key, window in report.before.items()} == {BLUE: 1}


def test_the_next_watch_begins_anew_and_none_is_told_of_nothing(node):
    node.windows.begin(Watch("r1"))
    node.answer(GREEN)
    node.windows.begin(Watch("r2"))
    assert since(node) == Window()
    node.windows.begin(Watch())
    node.answer(GREEN)
    assert (since(node), node.windows.report().before) == (Window(), {})


def test_errors_are_the_agents_alone(node):
    node.windows.begin(Watch("r1"))
    slot = node.slot(GREEN)
    node.answer(GREEN, status=502)
    node.answer(GREEN, status=503)
    slot.own[5] += 1  # the second was the proxy's own
    node.answer(GREEN, status=404)
    slot.classes[0] += 1  # the client went away
    slot.latency.add(1.0)
    node.answer(GREEN)
    slot.broken_late += 1
    found = since(node)
    assert (found.answers, found.errors) == (3, 2)


def test_seconds_are_kept_as_long_as_a_baseline_may_be_and_no_longer(node):
    for _ in range(int(LONGEST_BASELINE) + 50):
        node.answer()
        node.second()
    assert len(node.windows._seconds) <= LONGEST_BASELINE
    node.windows.begin(Watch("r1", baseline=LONGEST_BASELINE))
    assert node.windows.report().before[BLUE].answers == pytest.approx(LONGEST_BASELINE, abs=1)


def test_quiet_seconds_take_no_room(node):
    for _ in range(20):
        node.second()
    assert not node.windows._seconds


def test_a_slot_that_is_given_up_takes_nothing_away(node):
    node.windows.begin(Watch("r1"))
    node.answer(("red", "v0"))
    node.answer(GREEN)
    node.second()
    del node.metrics._slots["default", "red", "v0"]
    node.second()
    node.answer(("red", "v0"))
    assert since(node, ("red", "v0")).answers == 2
    assert len(node.windows._counted) == 2


def test_a_report_is_read_as_it_was_written(node):
    node.answer()
    node.windows.begin(Watch("r1"))
    node.answer(GREEN, status=500)
    node.windows.tick()
    report = node.windows.report()
    assert report.since
    assert report.before
    assert report_from(orjson.loads(orjson.dumps(report.document()))) == report
    assert node.windows.report().serial == report.serial + 1


def test_many_add_up_by_release():
    one, two = Report(1, {BLUE: Window(1), GREEN: Window(2, 1)}), Report(1, {GREEN: Window(3)})
    assert summed([one.since, two.since]) == {BLUE: Window(1), GREEN: Window(5, 1)}
