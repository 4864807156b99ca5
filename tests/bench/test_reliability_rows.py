"""What the rows of the table are made of: an operator who rolls back, servers in a Cluster, sessions that gather."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from bench.history import Flip
from bench.reliability import faults
from bench.reliability.__main__ import CASES, QUICK, main
from bench.reliability.client import Clients, Notes
from bench.reliability.operator import OTHER, Operator
from bench.reliability.stores import Cluster, DidNotStart
from bench.reliability.table import title

DOOR = ("127.0.0.1", 1)


class Fleet(Operator):
    """And the admin API that its operator calls, as far as he needs it: a pointer that flips and rollbacks move."""

    def __init__(self) -> None:
        super().__init__([DOOR], rolls_back=0.5)
        self.active, self.epoch = "blue", 1
        self.entries: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.losing = 0  # answers that get lost
        self.refuses = False

    async def call(self, _: object, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, Any]:
        await asyncio.sleep(0)
        if self.refuses:
            return 409, {"code": "refused", "detail": "there is nothing to roll back to"}
        if method == "GET":
            return 200, {"entries": self.entries, "next": ""}
        is_new = key not in self.keys
        if is_new and body.get("to") != self.active:
            self.active, self.epoch = OTHER[self.active], self.epoch + 1
            verb = path.removeprefix("/v1/")
            self.entries.append({"verb": verb, "epoch": self.epoch, "facts": {"to": self.active}})
            self.keys.append(key)
            self.over = self.epoch > 40
        if self.losing:
            self.losing -= 1
            raise EOFError
        return 200, {"epoch": self.epoch, "active": self.active, "changed": is_new}


async def test_an_operator_flips_and_rolls_back_and_begins_with_a_flip():
    fleet = Fleet()
    await fleet.flip_on()
    verbs = [entry["verb"] for entry in fleet.entries]
    assert verbs[0] == "flip"
    assert {*verbs} == {"flip", "rollback"}
    assert len({*fleet.keys}) == len(fleet.keys) == 40
    epochs = await fleet.epochs()
    assert [flip.back for flip in epochs[1:]] == [verb == "rollback" for verb in verbs]
    assert all(flip.asked < flip.told < inf for flip in epochs[1:])
    assert epochs[0] == Flip(1, "blue")


async def test_a_rollback_whose_answer_got_lost_is_asked_for_again_under_its_key():
    fleet = Fleet()
    fleet.losing = 2
    assert await fleet.roll_back()
    assert len(fleet.keys) == 1
    assert fleet.outcomes == {"no answer, asked again": 2, "made": 1}


async def test_the_audit_says_what_a_flip_was_that_the_operator_took_for_his_own():
    """He asked to be where somebody else had rolled back to: nothing was changed, and the epoch is another one's."""
    operator = Fleet()
    operator.entries = [{"verb": "rollback", "epoch": 2, "facts": {"to": "green"}}]
    operator._made(2, {"active": "green"}, -inf, 5.0, 0.1)
    operator._made(3, {"active": "blue"}, 6.0, 7.0, 0.1, back=True)
    assert await operator.epochs() == [
        Flip(1, "blue"),
        Flip(2, "green", -inf, 5.0, back=True),
        Flip(3, "blue", 6.0, 7.0, back=True),  # a failover has lost its entry
    ]
    assert operator.record == {2: "green"}


async def test_a_rollback_that_is_always_refused_is_none(monkeypatch):
    monkeypatch.setattr("bench.reliability.operator.ANSWER_TIMEOUT", 0.1)
    operator = Fleet()
    operator.refuses = True
    assert not await operator.roll_back()
    assert {*operator.outcomes} == {"409 refused"}


async def test_who_has_the_slots_is_the_primary_of_a_cluster(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path)
    first, second = cluster.servers
    node = "{0}{0} 127.0.0.1:{0}@{1} {2} - 0 0 5 connected{3}\n"

    def said(of_first: str, of_second: str) -> bytes:
        text = ""
        for one, shown in ((first, of_first), (second, of_second)):
            flags, _, slots = shown.partition("|")
            text += node.format(one.port, one.port + 10_000, flags, slots)
        return f"$1\r\n{text}\r\n".encode()

    fails, failed = said("master,fail| 0-5460", "slave"), said("master,fail|", "master| 0-5460")
    answers = [b"", said("master|", "slave"), fails, failed, fails, failed]

    async def asks(*_: str) -> bytes:
        return answers.pop(0)

    monkeypatch.setattr(cluster._others[0], "asks", asks)
    assert (await cluster.primary(), await cluster.primary()) == (first, second)
    assert (await cluster.replica(), await cluster.replica()) == (second, first)
    assert cluster.url.count(",") == 2
    assert f":{second.port}" not in cluster.url


def test_each_row_has_a_title_of_its_own_and_each_of_the_short_run_is_one():
    titles = [title(fault, different) for fault, different, _ in CASES.values()]
    assert len({*titles}) == len(titles)
    assert {*QUICK.split(",")} < {*CASES}
    assert 'on_rollback = "move"`' in title(faults.nothing, {"on_rollback": "move"})
    assert title(faults.lose_bells, {"hosts": 2}) == "No message to subscribers comes through; 2 hosts"
    assert title(faults.cut_off_one, {"hosts": 2}) == "One host of two does not reach the store, the other does"


@pytest.mark.parametrize(("rest", "fewest", "most"), [(0.0, 30, inf), (0.2, 1, 25)])
async def test_sessions_rest_now_and_then_where_they_are_to(monkeypatch, rest, fewest, most):
    notes = Notes()
    clients = Clients(notes, [DOOR], think=0.0, turns=60, rest=rest)
    turns: list[str] = []

    async def turn(session: str, _: int = 0) -> None:
        turns.append(session)

    monkeypatch.setattr(clients, "_turn", turn)
    monkeypatch.setattr("bench.reliability.client.random.random", lambda: 0.15)
    clients.start(asking=0, conversing=1, streaming=0, talking=0)
    await asyncio.sleep(0.3)
    await clients.stop()
    assert fewest <= len(turns) <= most


def test_a_fault_that_could_not_be_played_keeps_no_other_from_it(monkeypatch, capsys):
    played: list[str] = []

    def run(work: Any) -> None:
        work.close()
        played.append("")
        raise DidNotStart("redis-server does not answer") if len(played) == 1 else TimeoutError

    monkeypatch.setattr("bench.reliability.__main__.uvloop.run", run)
    monkeypatch.setattr("sys.argv", ["reliability", "--only", "nothing,slow_store"])
    assert main() == 1
    said = capsys.readouterr().out
    assert "== nothing: NOT PLAYED to its end: DidNotStart: redis-server does not answer" in said
    assert "== slow_store: NOT PLAYED to its end: TimeoutError" in said
