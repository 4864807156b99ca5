"""Who may be counted out is told by what one process has seen itself, by its own clock."""

from __future__ import annotations

from bgproxy.rules.lease import CLOCK_RATE, Observer

TTL, FENCE = 10.0, 5.0
OUT = (TTL + FENCE) * (1 + CLOCK_RATE)


def test_silence_is_counted_from_the_first_sight_of_a_beat():
    observer = Observer(TTL, FENCE)
    assert observer.silence("a", 100.0) == 0.0
    observer.see({"a": 7, "b": 1}, 100.0)
    observer.see({"a": 7, "b": 2}, 103.0)
    assert (observer.silence("a", 104.0), observer.silence("b", 104.0)) == (4.0, 1.0)


def test_any_other_serial_is_a_sign_of_life():
    observer = Observer(TTL, FENCE)
    observer.see({"a": 7}, 0.0)
    observer.see({"a": 3}, 50.0)
    assert observer.silence("a", 51.0) == 1.0


def test_who_was_not_listed_is_seen_anew():
    observer = Observer(TTL, FENCE)
    observer.see({"a": 7}, 0.0)
    observer.see({}, 1.0)
    observer.see({"a": 7}, 50.0)
    assert observer.silence("a", 51.0) == 1.0


def test_a_node_is_fenced_after_its_lease_and_the_fence_by_the_slowest_clock():
    observer = Observer(TTL, FENCE)
    observer.see({"a": 7}, 0.0)
    assert not observer.fenced("a", OUT)
    assert observer.fenced("a", OUT + 0.001)
    assert not observer.fenced("b", OUT * 2), "of one that was never seen nothing is known"


def test_without_fences_nobody_is_fenced():
    observer = Observer(TTL)
    observer.see({"a": 7}, 0.0)
    assert not observer.fenced("a", 1e9)
