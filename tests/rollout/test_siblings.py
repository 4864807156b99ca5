"""The line between two workers of one host: who asks, who gives its word, and what a line that ends means."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bgproxy.orders import Line
from bgproxy.rollout import promises, siblings
from bgproxy.rollout.siblings import Siblings
from tests.rollout.near import Near, begun, come

SOON = 5.0  # seconds, of which none is waited for


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "_BELL", 0.0)


@pytest.fixture
async def nodes() -> AsyncIterator[list[Near]]:
    found = await begun("n0", "n1", "n2")
    for node in found:
        await node.mirror.look()
    yield found
    for node in found:
        await node.stop()


@pytest.fixture
async def workers(nodes: list[Near], tmp_path: Path) -> AsyncIterator[list[Siblings]]:
    found = [Siblings(tmp_path, slot, node.name, node.promises) for slot, node in enumerate(nodes)]
    for worker in found:
        worker.start()
    yield found
    for worker in found:
        await worker.stop()
    assert workers_left(tmp_path) == []


def workers_left(directory: Path) -> list[Path]:
    return [*directory.iterdir()]


def shut(nodes: list[Near]) -> list[bool]:
    return [node.is_shut for node in nodes]


async def test_each_sibling_gives_its_word(nodes: list[Near], workers: list[Siblings]) -> None:
    asking = workers[0].ask(workers[0].doors(), nodes[0].state.revision)
    assert await asking.held(SOON) == {"n1", "n2"}
    assert shut(nodes) == [False, True, True]
    asking.end(nothing_came=True)
    await come(lambda: shut(nodes) == [False] * 3)
    assert await nodes[0].verbs() == []


async def test_a_line_that_ends_without_a_word_leaves_the_promise_open(
    nodes: list[Near], workers: list[Siblings]
) -> None:
    asking = workers[0].ask(workers[0].doors(), nodes[0].state.revision)
    assert await asking.held(SOON)
    asking.end(nothing_came=False)
    await come(lambda: shut(nodes) == [False] * 3)
    assert set(await nodes[0].verbs()) == {"abandon"}, "they have found out by themselves"


async def test_one_that_does_not_give_it(
    nodes: list[Near], workers: list[Siblings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes[2].promises, "give", lambda _: None)
    asking = workers[0].ask(workers[0].doors(), nodes[0].state.revision)
    assert await asking.held(SOON) is None
    asking.end(nothing_came=True)
    await come(lambda: shut(nodes) == [False] * 3)


async def test_one_that_does_not_answer_is_waited_for_no_longer(workers: list[Siblings], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / "hold-7.sock"))
        busy.listen()
        asking = workers[0].ask(workers[0].doors(), 1)
        assert await asking.held(0.05) is None
        asking.end(nothing_came=True)
        (tmp_path / "hold-7.sock").unlink()


async def test_one_that_dies_instead_of_answering(workers: list[Siblings], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(tmp_path / "hold-7.sock"))
        dying.listen()
        asking = workers[0].ask(workers[0].doors(), 1)
        dying.accept()[0].close()
        assert await asking.held(SOON) is None
        asking.end(nothing_came=True)
        (tmp_path / "hold-7.sock").unlink()


async def test_nobody_behind_a_door_is_nobody_to_ask(
    nodes: list[Near], workers: list[Siblings], tmp_path: Path
) -> None:
    """Were there a node, it would be registered: the commit is refused then."""
    left = tmp_path / "hold-7.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    asking = workers[0].ask([left], 1)
    assert await asking.held(SOON) == frozenset()
    asking.end(nothing_came=True)
    left.unlink()


async def test_a_door_that_cannot_be_called_at_is_no_word(workers: list[Siblings], tmp_path: Path) -> None:
    asking = workers[0].ask([*workers[0].doors(), tmp_path / "hold-9.sock"], 1)
    assert await asking.held(SOON) is None
    asking.end(nothing_came=True)


async def test_a_successor_takes_the_door_of_a_dead_one(nodes: list[Near], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "hold-1.sock"))
    first, successor = (Siblings(tmp_path, slot, nodes[slot].name, nodes[slot].promises) for slot in (0, 1))
    first.start()
    successor.start()
    asking = first.ask(first.doors(), nodes[0].state.revision)
    assert await asking.held(SOON) == {"n1"}
    asking.end(nothing_came=True)
    await first.stop()
    await successor.stop()


async def test_nobody_else_may_call(workers: list[Siblings], tmp_path: Path) -> None:
    """Whatever the runtime directory lets others do, and the umask."""
    before = os.umask(0)
    try:
        other = Siblings(tmp_path, 7, "n7", workers[0]._promises)
        other.start()
    finally:
        os.umask(before)
    assert (tmp_path / "hold-7.sock").stat().st_mode & 0o777 == 0o600
    await other.stop()


async def test_one_that_can_open_no_more_files_hears_of_it_later_and_does_not_turn_in_circles(
    nodes: list[Near], workers: list[Siblings], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[socket.socket] = []

    def accept(door: socket.socket) -> None:
        calls.append(door)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(siblings, "_DEAF", 0.05)
    with monkeypatch.context() as full:
        full.setattr(socket.socket, "accept", accept)
        asking = workers[0].ask(workers[0].doors(), nodes[0].state.revision)
        for _ in range(200):
            await asyncio.sleep(0)
        assert 2 <= len(calls) < 40
    assert await asking.held(SOON) == {"n1", "n2"}
    asking.end(nothing_came=True)


async def test_what_is_not_understood_is_passed_over(
    nodes: list[Near], workers: list[Siblings], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "hold-1.sock"))
        line = Line(sock)
        for word, more in (("sing", "loud"), ("hold", "everything"), ("go", "")):
            line.say(word, more)
        line.say("hold", str(nodes[1].state.revision))
        line.say("hold", str(nodes[1].state.revision))
        await come(lambda: nodes[1].is_shut)
        await come(lambda: line.hear() == [("held", "n1")])
        line.say("go")
        await come(lambda: not nodes[1].is_shut)


async def test_a_worker_that_ends_leaves_what_it_promised_open(nodes: list[Near], workers: list[Siblings]) -> None:
    asking = workers[0].ask(workers[0].doors(), nodes[0].state.revision)
    assert await asking.held(SOON)
    await nodes[1].promises.stop()
    await workers[1].stop()
    assert nodes[1].is_shut
    asking.end(nothing_came=True)
