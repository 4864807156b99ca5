"""A node that is stopped, cut off or slow, beside a flip that leaves it behind as soon as it is known to be fenced.

Simulated, with two clocks whose rates differ by as much as is allowed for. Nothing here waits.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from itertools import count
from typing import Any

import pytest

from bgproxy.rules.lease import CLOCK_RATE, Lease, Observer

TTL, FENCE = 0.1, 3.0  # of a longer ttl the rest would hide how much the rates matter
END = 120.0  # seconds of each run


class World:
    """One node, one observer that flips, and a store between them. `t` is the time that neither of them knows."""

    def __init__(self, seed: int, node_rate: float, observer_rate: float) -> None:
        self.chance = random.Random(seed)
        self.node_rate, self.observer_rate = node_rate, observer_rate
        self.t = 0.0
        self.queue: list[tuple[float, int, Any]] = []
        self.order = count()
        self.stopped_until = 0.0
        self.lease, self.observer = Lease(FENCE), Observer(TTL)
        self.serial = 0  # the node's
        self.epoch = 0  # by which the node routes
        self.store = {"serial": 0, "epoch": 0, "known": 0}
        self.admitted = self.left_behind = 0

    def at(self, delay: float, what: Any) -> None:
        heappush(self.queue, (self.t + delay, next(self.order), what))

    def run(self) -> World:
        for begin in (self.beat, self.read, self.trouble, self.look, self.request):
            self.at(0.0, begin)
        while self.queue and self.t < END:
            self.t, _, what = heappop(self.queue)
            what()
        return self

    @property
    def node_clock(self) -> float:
        return self.t * self.node_rate

    def on_its_way(self) -> float | None:
        """Seconds that a message takes; None: it is lost."""
        if self.chance.random() < 0.1:
            return None
        return self.chance.choice((0.001, 0.01, 0.5, 4.0))

    def by_node(self, what: Any) -> None:
        """The node does this, when it runs."""
        self.at(max(0.0, self.stopped_until - self.t), what)

    # The node

    def trouble(self) -> None:
        """Now and then it is stopped for a while."""
        self.stopped_until = self.t + self.chance.choice((0.0, 0.0, 1.0, 6.0, 20.0))
        self.at(self.chance.uniform(1.0, 30.0), self.trouble)

    def beat(self) -> None:
        self.at(1.0, lambda: self.by_node(self.beat))
        self.serial += 1
        serial, sent = self.serial, self.node_clock
        there = self.on_its_way()
        if there is not None:
            self.at(there, lambda: self.beat_arrives(serial, sent))

    def beat_arrives(self, serial: int, sent: float) -> None:
        known = bool(self.store["known"])
        self.store.update(serial=serial, known=1)
        back = self.on_its_way()
        if back is not None:
            self.at(back, lambda: self.by_node(lambda: self.lease.beaten(sent, self.node_clock, known=known)))

    def read(self) -> None:
        self.at(self.chance.uniform(0.2, 2.0), lambda: self.by_node(self.read))
        begun, there = self.lease.begin_reading(), self.on_its_way()
        if there is not None:
            self.at(there, lambda: self.read_arrives(begun))

    def read_arrives(self, begun: int) -> None:
        epoch, back = self.store["epoch"], self.on_its_way()
        if back is not None:
            self.at(back, lambda: self.by_node(lambda: self.has_read(begun, epoch)))

    def has_read(self, begun: int, epoch: int) -> None:
        self.epoch = max(self.epoch, epoch)
        self.lease.has_read(begun)

    def request(self) -> None:
        self.at(self.chance.uniform(0.01, 0.2), lambda: self.by_node(self.request))
        if self.lease.is_held(self.node_clock):
            self.admitted += 1
            assert self.epoch == self.store["epoch"], f"at {self.t:.3f} it admitted by an old epoch"

    # The observer

    def look(self) -> None:
        self.at(self.chance.uniform(0.2, 1.5), self.look)
        clock, serial = self.t * self.observer_rate, self.store["serial"]
        self.observer.see({"node": (serial, FENCE)}, clock)
        if self.observer.fenced("node", clock):
            self.at(self.chance.choice((0.0, 0.01, 3.0)), lambda: self.flip(serial))

    def flip(self, judged: int) -> None:
        """As the commit's script does: only while the node's serial is the one that was judged."""
        if self.store["serial"] == judged:
            self.left_behind += 1
            self.store["epoch"] += 1


@pytest.mark.parametrize(
    ("node_rate", "observer_rate"), [(1.0, 1.0), (1.0, 1 + CLOCK_RATE), (1 / (1 + CLOCK_RATE), 1.0), (1.1, 1.0)]
)
def test_no_request_is_admitted_by_an_epoch_that_a_flip_left_behind(node_rate: float, observer_rate: float) -> None:
    runs = [World(seed, node_rate, observer_rate).run() for seed in range(60)]
    assert sum(run.admitted for run in runs) > 1_000, "else nothing was tried"
    assert sum(run.left_behind for run in runs) > 30
