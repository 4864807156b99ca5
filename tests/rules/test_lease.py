"""A node's own right to admit, and what others may believe of it, each by its own clock."""

from __future__ import annotations

from bgproxy.rules.lease import CLOCK_RATE, Lease, Observer

TTL, FENCE = 10.0, 5.0
OUT = (TTL + FENCE) * (1 + CLOCK_RATE)


def held(lease: Lease, *times: float) -> list[bool]:
    return [lease.is_held(now) for now in times]


def reads(lease: Lease) -> None:
    lease.has_read(lease.begin_reading())


def joined(sent: float = 0.0) -> Lease:
    lease = Lease(FENCE)
    lease.beaten(sent, sent, known=False)
    reads(lease)
    return lease


class TestLease:
    def test_without_a_fence_it_is_held_for_ever(self) -> None:
        assert held(Lease(0.0), 0.0, 1e9) == [True, True]

    def test_it_needs_a_beat_and_a_reading(self) -> None:
        lease = Lease(FENCE)
        assert not lease.is_held(0.0)
        reads(lease)
        assert not lease.is_held(0.0)
        lease.beaten(1.0, 1.1, known=False)
        assert not lease.is_held(1.1)
        reads(lease)
        assert lease.is_held(1.2)

    def test_it_counts_from_when_the_beat_was_sent(self) -> None:
        lease = joined(1.0)
        assert held(lease, 6.0, 6.01) == [True, False]
        lease.beaten(4.0, 5.9, known=True)
        assert held(lease, 9.0, 9.01) == [True, False]

    def test_an_answer_that_comes_late_prolongs_nothing(self) -> None:
        lease = joined()
        lease.beaten(4.0, 4.1, known=True)
        lease.beaten(3.0, 4.2, known=True)
        assert held(lease, 9.0, 9.01) == [True, False]

    def test_one_that_ran_out_needs_a_reading_that_was_begun_after_the_beat(self) -> None:
        lease = joined()
        early = lease.begin_reading()
        lease.beaten(20.0, 20.1, known=True)
        assert not lease.is_held(20.1)
        lease.has_read(early)
        assert not lease.is_held(20.2)
        reads(lease)
        assert held(lease, 20.2, 25.0, 25.01) == [True, True, False]

    def test_one_that_was_registered_no_more_needs_a_reading_too(self) -> None:
        lease = joined()
        lease.beaten(1.0, 1.1, known=False)
        assert not lease.is_held(1.1)
        reads(lease)
        assert lease.is_held(1.2)

    def test_a_reading_that_takes_longer_than_a_beat_counts_all_the_same(self) -> None:
        lease = joined()
        lease.beaten(20.0, 20.1, known=True)
        begun = lease.begin_reading()
        for second in (21.0, 22.0):
            lease.beaten(second, second, known=True)
        lease.has_read(begun)
        assert lease.is_held(22.1)

    def test_but_not_where_it_ran_out_again_meanwhile(self) -> None:
        lease = joined()
        lease.beaten(20.0, 20.1, known=True)
        begun = lease.begin_reading()
        lease.beaten(30.0, 30.1, known=True)
        lease.has_read(begun)
        assert not lease.is_held(30.2)


class TestObserver:
    def test_silence_is_counted_from_the_first_sight_of_a_beat(self) -> None:
        observer = Observer(TTL)
        assert observer.silence("a", 100.0) == 0.0
        observer.see({"a": (7, FENCE), "b": (1, FENCE)}, 100.0)
        observer.see({"a": (7, FENCE), "b": (2, FENCE)}, 103.0)
        assert (observer.silence("a", 104.0), observer.silence("b", 104.0)) == (4.0, 1.0)

    def test_any_other_serial_is_a_sign_of_life(self) -> None:
        observer = Observer(TTL)
        observer.see({"a": (7, FENCE)}, 0.0)
        observer.see({"a": (3, FENCE)}, 50.0)
        assert observer.silence("a", 51.0) == 1.0

    def test_who_was_not_listed_is_seen_anew(self) -> None:
        observer = Observer(TTL)
        observer.see({"a": (7, FENCE)}, 0.0)
        observer.see({}, 1.0)
        observer.see({"a": (7, FENCE)}, 50.0)
        assert observer.silence("a", 51.0) == 1.0

    def test_a_node_is_fenced_after_its_lease_and_the_fence_by_the_slowest_clock(self) -> None:
        observer = Observer(TTL)
        observer.see({"a": (7, FENCE)}, 0.0)
        assert not observer.fenced("a", OUT)
        assert observer.fenced("a", OUT + 0.001)
        assert not observer.fenced("b", OUT * 2), "of one that was never seen nothing is known"

    def test_each_node_s_own_fence_counts(self) -> None:
        observer = Observer(TTL)
        observer.see({"a": (7, 0.0), "b": (7, 2 * FENCE)}, 0.0)
        assert not observer.fenced("a", 1e9), "it fences itself never"
        assert not observer.fenced("b", OUT + 1)
        assert observer.fenced("b", (TTL + 2 * FENCE) * (1 + CLOCK_RATE) + 0.001)
