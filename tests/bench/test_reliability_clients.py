"""The clients note what they see, no more and no less: against agents and a door that a test plays by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from bench.history import ONCE, Execution, Flip, History, Request, Verdict
from bench.judge import check
from bench.reliability import client as client_module
from bench.reliability import stage as stage_module
from bench.reliability.agent import Agent
from bench.reliability.client import Clients, Notes, Wire
from bench.reliability.faults import STEPS, Executioner, cut_off_one, kill_workers
from bench.reliability.operator import Operator, _unchunked, percentile
from bench.reliability.stage import Seen, Size, _strays, see, told
from bench.reliability.stores import Pair
from bench.reliability.table import BEGIN, END, row, written
from tests.bench.histories import ask, ran

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Bgproxy-Color: green\r\nX-Bgproxy-Epoch: 7\r\n\r\nv2"


@pytest.fixture
async def door() -> AsyncIterator[Callable[[bytes], asyncio.Future[tuple[Notes, Request]]]]:
    """Ask one request of a server that answers with these bytes and then closes."""
    servers = []

    async def asked(said: bytes) -> tuple[Notes, Request]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        notes = Notes()
        wire = await Wire.open(notes, server.sockets[0].getsockname()[:2])
        came = await asyncio.wait_for(wire.ask(b"GET / HTTP/1.1\r\n\r\n", "q", "s").done, 5)
        await asyncio.sleep(0.05)
        return notes, came

    yield asked  # type: ignore[misc]
    for server in servers:
        server.close()


async def test_an_answer_is_noted_with_who_gave_it(door):
    _, one = await door(OK)
    assert (one.id, one.session, one.status, one.color, one.epoch) == ("q", "s", 200, "green", 7)
    assert (one.release, one.said, one.whole, one.answers) == ("v2", ("v2",), True, 1)
    assert one.sent <= one.answered <= one.ended


async def test_a_body_of_another_release_than_its_color_shows(door):
    _, one = await door(OK.replace(b"v2", b"v1"))
    assert (one.release, one.said) == ("v2", ("v1",))


async def test_events_tell_each_release_once_and_chunks_may_come_in_any_pieces(door):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Bgproxy-Color: blue\r\n\r\n"
    _, one = await door(head + b"e\r\ndata: v1\n\ndata\r\n6\r\n: v1\n\n\r\nA\r\ndata: v2\n\n\r\n0\r\n\r\n")
    assert (one.said, one.whole) == (("v1", "v2"), True)


async def test_an_answer_that_breaks_off_is_not_whole(door):
    _, one = await door(OK[:-1])
    assert (one.status, one.whole, one.release) == (200, False, "v2")


async def test_no_answer_at_all(door):
    _, one = await door(b"")
    assert (one.status, one.release) == (0, "")


async def test_a_refusal_is_noted_with_its_code(door):
    body = b'{"code":"hold_full"}'
    _, one = await door(b"HTTP/1.1 503 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert (one.status, one.code, one.release, one.color) == (503, "hold_full", "", "")


async def test_a_second_answer_is_noted(door):
    notes, _ = await door(OK + OK)
    assert notes.requests[0].answers == 2


async def test_what_dies_with_a_worker_is_known_by_its_ends():
    notes = Notes()
    notes.ends = {(1, 80): 11, (2, 80): 12, (2, 81): 13}  # a port may be used towards several others
    notes.kill({(2, 80), (3, 80)}, 5.0)
    assert notes.dead == {12: 5.0}


async def test_and_where_it_was_taken_before_the_client_knew_that_it_stands():
    class Transport:
        def get_extra_info(self, name: str) -> tuple[str, int]:
            return {"sockname": ("127.0.0.1", 2)}[name]

    notes = Notes()
    notes.kill({(2, 80)}, 5.0)
    wires = [Wire(notes, 80, since) for since in (4.9, 5.1)]  # the second has the port anew
    for wire in wires:
        wire.connection_made(Transport())
    assert notes.dead == {wires[0].number: 5.0}


async def test_and_where_it_was_broken_before_the_client_knew_that_it_stood():
    """Its killed worker's end is reset by then, and the kernel has forgotten who its peer was."""
    notes, loop = Notes(), asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as door:
        port, since = door.getsockname()[1], time.monotonic()
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        taken, end = door.accept()
        notes.kill({(end[1], port)}, time.monotonic())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # so that it is reset
        taken.close()
        _, wire = await loop.create_connection(lambda: Wire(notes, port, since), sock=client)
    assert wire.transport.get_extra_info("peername") is None
    one = await asyncio.wait_for(wire.ask(b"GET / HTTP/1.1\r\n\r\n", "q").done, 5)
    assert one.status == 0
    assert notes.dead.keys() == {one.line}


async def test_all_kinds_of_clients_and_the_agent_agree():
    executions: list[Execution] = []
    agent = await Agent("v1", executions.append).start()
    notes = Notes()
    clients = Clients(notes, [("127.0.0.1", agent.port)], think=0.005)
    clients.start(asking=4, conversing=2, streaming=1, talking=1)
    await asyncio.sleep(0.3)
    await asyncio.wait_for(clients.stop(), 20)
    await agent.stop()
    await asyncio.sleep(0.05)
    assert len(notes.requests) > 20
    assert {one.status for one in notes.requests} == {200, 101}
    assert all(one.whole for one in notes.requests)
    assert sorted(one.id for one in notes.requests) == sorted(run.request for run in executions)
    assert any(one.session.startswith("s") for one in notes.requests)


async def test_who_waits_longer_than_anybody_should_is_noted_as_never_answered(monkeypatch):
    monkeypatch.setattr(client_module, "PATIENCE", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    notes = Notes()
    clients = Clients(notes, [server.sockets[0].getsockname()[:2]])
    clients.start(asking=1, conversing=1, streaming=1, talking=1)
    await asyncio.sleep(0.1)
    await asyncio.wait_for(clients.stop(), 5)
    await asyncio.sleep(0.05)
    server.close()
    verdict = check(History(notes.requests))
    assert verdict.broken == {ONCE: len(notes.requests)}
    assert len(notes.requests) >= 4
    assert not notes.waiting


def test_chunks_of_the_admin_api():
    assert _unchunked(b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n") == b"abcd"


def test_percentiles():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([*map(float, range(100))], 0.99) == 99.0


def seen_of(**more) -> Seen:
    verdict = Verdict(requests=1_010, answered=1_007, excused=1)
    verdict.refused["503 hold_full"] = 2
    operator = Operator([])
    operator.outcomes.update({"made": 3, "409 flip_abandoned": 1})
    operator.told["409 flip_abandoned"] = "blue stays active: h0-4711-9f86 did not say; see `bgproxy nodes`"
    operator.took = [0.010, 0.020, 0.030]
    return Seen(verdict, operator, 5.0, recovery=0.25, slowest=0.1, pause=1.05, **more)


def test_a_row_says_what_both_sides_saw():
    seen = seen_of(strays=2)
    seen.notes["failovers"] = 4
    seen.verdict.broken[2] = 1
    assert row(kill_workers, {"store": "node_ttl = 4.0\nfence_after = 4.5", "outage": "refuse"}, seen) == (
        'kill -9 of a worker, every other second; `on_store_outage = "refuse"`; `fence_after = 4.5`',
        "3",
        "1,010",
        "2 x 503 hold_full; 1 lost with their worker; 2 sessions on two releases, as `admit` lets them; "
        "**1 wrong (guarantee 2: 1)**",
        "100 ms",
        "4 x failovers; 1 x 409 flip_abandoned (“blue stays active: NODE did not say”)",
        "20 / 30 ms",
        "1.05 s",
        "0.25 s",
    )
    assert not seen.went_well
    assert seen_of().went_well


def test_a_fault_that_is_played_again_takes_the_place_of_its_row():
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    first, second = row(kill_workers, {}, seen_of()), row(cut_off_one, {}, seen_of())
    titles = [second[0], first[0]]
    once = written(page, [first, second], titles, "a machine", "2026-01-02")
    assert once.index(second[0]) < once.index(first[0])
    again = written(once, [(second[0], "5", *second[2:])], titles, "a machine", "2026-01-03")
    assert "8 flips under 2,020 requests; breaches of a guarantee: 0. a machine, 2026-01-03" in again
    assert again.count("\n| kill -9 of a worker, every other second | 3 | 1,010 |") == 1
    assert again.count(f"\n| {second[0]} |") == 1
    assert again.startswith("before\n")
    assert again.endswith("after")
    with pytest.raises(ValueError, match=r"RELIABILITY\.md must hold"):
        written("nothing", [], [], "", "")


def test_of_excused_sessions_those_that_strayed_are_counted_and_none_that_went_with_the_pointer():
    flips = (Flip(1, "blue"), Flip(2, "green", 10.0, 11.0))
    turns = [ask(1, 2, session="a"), ask(12, 13, "green", session="a"), ask(1, 2, session="b"), ask(3, 4, session="b")]
    history = History(turns, flips, [ran(one) for one in turns], unsure={"a", "b"})
    assert not check(history).broken
    assert _strays(history) == 1
    assert _strays(replace(history, follow=True)) == 0
    back = ask(14, 15, session="a")
    turns, runs = [*turns, back], [*history.executions, ran(back)]
    assert _strays(replace(history, requests=turns, executions=runs, follow=True)) == 1
    assert _strays(replace(history, unsure={"b"})) == 0


def test_the_operator_notes_what_enough_replicas_have():
    operator = Operator([])
    for epoch, replicas in ((2, {"have": 1, "wanted": 1}), (3, {"have": 0, "wanted": 1}), (4, None)):
        operator._made(epoch, {"active": "blue"} | ({"replicas": replicas} if replicas else {}), 1.0, 2.0, 1.0)
    assert [flip.is_kept for flip in operator.flips.values()] == [True, False, False]
    assert operator.outcomes == {"made": 3, "of these told that no replica has it yet": 1}


async def test_a_sentinel_that_is_too_busy_to_answer_names_nobody(tmp_path, monkeypatch):
    pair = Pair(tmp_path)
    answers = [b"", b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%d\r\n" % pair.servers[1].port]

    async def asks(*_: str) -> bytes:
        return answers.pop(0)

    monkeypatch.setattr(pair._sentinel, "asks", asks)
    assert await pair.primary() is pair.servers[1]
    assert not answers


class Stage:
    """As much of one as the executioner takes hold of: a host whose worker 7 has every connection."""

    def __init__(self) -> None:
        self.hosts = [self]
        self.killed: list[int] = []
        self.marks = Counter[str]()

    def worker_with(self, port: int) -> int:
        return port

    def kill(self, _: object, worker: int) -> None:
        self.killed.append(worker)


def test_whoever_commits_dies_before_and_after_each_of_its_two_commits(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("bench.reliability.faults.time.monotonic", lambda: now[0])
    stage = Stage()
    sees = Executioner(stage).sees
    verbs = b"$7\r\nprepare", b"$4\r\nflip", b"$8\r\nrollback"
    prepare, flip, rollback = (b"EVALSHA\r\n$40\r\n...\r\n%b\r\n" % verb for verb in verbs)
    assert sees(1, b"EVALSHA\r\nanother script", True)
    assert not sees(1, prepare, True)  # it dies, and the store never hears it
    assert sees(2, prepare, True)  # not so soon again
    now[0] = 2.0
    assert sees(3, prepare, True)
    assert sees(4, b"$4\r\ndone\r\n", False)  # somebody else's
    assert not sees(3, b"*6\r\n$4\r\ndone\r\n", False)  # made, and it dies before it knows
    now[0] = 4.0
    assert sees(5, prepare, True)
    assert not sees(5, rollback, True)
    now[0] = 6.0
    assert sees(6, flip, True)
    assert sees(6, b"*2\r\n$7\r\nwaiting\r\n", False)
    assert sees(6, flip, True)
    assert not sees(6, b"*6\r\n$4\r\ndone\r\n", False)
    assert stage.killed == [1, 3, 5, 6]
    assert stage.marks == {f"killed {step}": 1 for step in STEPS}


def test_whoever_makes_a_flip_by_one_commit_dies_before_and_after_that(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("bench.reliability.faults.time.monotonic", lambda: now[0])
    stage = Stage()
    sees = Executioner(stage, (2, 3)).sees
    prepare, flip = (b"EVALSHA\r\n$40\r\n...\r\n%b\r\n" % word for word in (b"$7\r\nprepare", b"$4\r\nflip"))
    for number in (1, 3):
        assert sees(number, prepare, True)
        assert not sees(number, flip, True)
        now[0] += 2.0
        assert sees(number + 1, flip, True)
        assert not sees(number + 1, b"*6\r\n$4\r\ndone\r\n", False)
        now[0] += 2.0
    assert stage.killed == [1, 2, 3, 4]
    assert stage.marks == {f"killed {step}": 2 for step in STEPS[2:]}


@pytest.mark.redis
async def test_a_short_play_on_real_processes(monkeypatch):
    monkeypatch.setattr(stage_module, "WARM_UP", 0.3)
    monkeypatch.setattr(stage_module, "AFTER", 0.1)
    monkeypatch.setattr(stage_module, "NOTICED", 0.2)
    size = Size(workers=2, asking=4, conversing=2, streaming=0, talking=0, policy="follow")
    seen = await see(kill_workers, size, 0.3)
    assert seen.went_well, told(seen)
    assert seen.operator.outcomes["made"] > 1
    assert seen.verdict.answered > 20
