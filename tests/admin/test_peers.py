"""The workers of one host ask one another; the dead and the stuck are left out, and nothing raises."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bgproxy.admin import peers as peers_module
from bgproxy.admin.peers import HostPeers
from bgproxy.errors import StoreUnavailable

Snapshot = dict[str, Any]
Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts worker number N, whose snapshot is its number, and which tells `refreshed` when it reads the store."""
    started: list[HostPeers] = []

    async def make(slot: int, refreshed: Callable[[int], None] = lambda _: None) -> HostPeers:
        async def refresh() -> None:
            refreshed(slot)

        peers = HostPeers(tmp_path, slot, lambda: {"slot": slot}, refresh)
        await peers.start()
        started.append(peers)
        return peers

    yield make
    for peers in started:
        await peers.stop()


async def test_each_speaks_for_all_with_itself_first(start):
    workers = [await start(slot) for slot in range(3)]
    assert [one["slot"] for one in await workers[0].snapshots()] == [0, 1, 2]
    assert [one["slot"] for one in await workers[2].snapshots()] == [2, 0, 1]


async def test_alone_it_speaks_for_itself(start):
    assert await (await start(0)).snapshots() == [{"slot": 0}]


async def test_who_has_ended_is_left_out(start, tmp_path):
    first, second = await start(0), await start(1)
    await second.stop()
    assert await first.snapshots() == [{"slot": 0}]
    assert not (tmp_path / "worker-1.sock").exists()


async def test_a_socket_that_a_dead_worker_left_is_left_out_and_then_replaced(start, tmp_path):
    first = await start(0)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "worker-1.sock"))
    assert await first.snapshots() == [{"slot": 0}]
    await start(1)
    assert await first.snapshots() == [{"slot": 0}, {"slot": 1}]


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{x}", None])
async def test_who_answers_nonsense_or_nothing_is_left_out_in_time(start, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(peers_module, "TIMEOUT", 0.05)
    ended = asyncio.Event()

    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await ended.wait()
        else:
            writer.write(answer)
        writer.close()

    first = await start(0)
    async with await asyncio.start_unix_server(speak, str(tmp_path / "worker-1.sock")):
        assert await first.snapshots() == [{"slot": 0}]
        ended.set()


async def test_the_others_have_caught_up_when_the_call_returns(start):
    caught_up: list[int] = []
    first, *_ = [await start(slot, caught_up.append) for slot in range(3)]
    await first.catch_up()
    assert sorted(caught_up) == [1, 2]


async def test_one_whose_store_is_away_or_that_is_dead_holds_nobody_up(start, tmp_path):
    def away(_: int) -> None:
        raise StoreUnavailable("gone")

    caught_up: list[int] = []
    first = await start(0)
    await start(1, away)
    await start(2, caught_up.append)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "worker-3.sock"))
    await first.catch_up()
    assert caught_up == [2]
