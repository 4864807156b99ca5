"""Workers die and are replaced: what waited is served, what was counted stays, and so does the pointer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Serve, Town, cli, is_alive, until
from wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def kill_a_worker(serve: Serve) -> int:
    """The pid of the worker that is gone now."""
    pid = serve.workers[0]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not is_alive(pid), "the end of the worker")
    return pid


@pytest.fixture
async def serve(town: Town) -> Serve:
    return await town.serve(await town.agent("v1"), await town.agent("v2"))


async def test_a_killed_worker_is_replaced_and_the_pointer_stands_where_it_stood(serve):
    """The memory store has no snapshot here: it outlives the worker all the same."""
    await serve.flip("green", reason="v2 it is")
    dead = await kill_a_worker(serve)
    await serve.ready(workers=2)  # the second one to say that it serves
    assert await serve.ask() == (200, "v2")
    status = await serve.status()
    assert (status["active"], status["previous"], status["epoch"]) == ("green", "blue", 2)
    assert dead not in [node["pid"] for node in status["nodes"]]
    _, audit = await serve.api("GET", "/v1/audit")
    assert [entry["reason"] for entry in audit["entries"] if entry["verb"] == "flip"] == ["v2 it is"]
    await serve.flip("blue")
    await kill_a_worker(serve)
    await serve.ready(workers=3)
    assert await serve.ask() == (200, "v1")
    assert (await serve.status())["epoch"] == 3


async def test_what_waits_in_its_socket_is_served_by_its_successor(serve):
    (pid,) = serve.workers
    os.kill(pid, signal.SIGSTOP)
    clients = [await serve.connect() for _ in range(20)]
    for client in clients:
        await client.send(GET)
    os.kill(pid, signal.SIGKILL)
    for client in clients:
        assert (await client.answer()).body == b"v1"
        client.close()


async def test_only_what_it_held_is_lost_and_that_is_counted(town):
    agent = await town.agent("v1")
    serve = await town.serve(agent)
    held = await serve.connect()
    await held.send(GET.replace(b"/", b"/hold", 1))
    await until(lambda: agent.held == 1)
    assert await serve.counted("bgproxy_in_flight") == 1
    await kill_a_worker(serve)
    await held.gone()
    held.close()
    await until(lambda: agent.held == 0, "the agent learns that nobody waits any more")
    assert await serve.ask() == (200, "v1")
    assert await serve.counted("bgproxy_broken_total", side="proxy") == 1
    assert await serve.counted("bgproxy_in_flight") == 0


async def test_no_counter_that_was_seen_ever_falls(serve):
    async def ask(times: int) -> None:
        for _ in range(times):
            assert await serve.ask() == (200, "v1")

    assert await serve.ask("/", "Mcp-Session-Id: s-1") == (200, "v1")
    await ask(2)
    before = await serve.metrics()  # well within a second of what it counts: nothing else has saved it
    await kill_a_worker(serve)
    await ask(2)
    after = await serve.metrics()
    fallen = {name: (before[name], after[name]) for name in before if "_total" in name and after[name] < before[name]}
    assert not fallen
    assert await serve.counted("bgproxy_session_pinned_total", preset="mcp", color="blue") == 1
    assert await serve.counted("bgproxy_requests_total", **{"class": "2xx"}) == 5


async def test_when_the_supervisor_is_killed_its_workers_finish_and_end(town):
    agent = await town.agent("v1")
    serve = await town.serve(agent)
    workers = serve.workers
    held = await serve.connect()
    await held.send(GET.replace(b"/", b"/hold", 1))
    await until(lambda: agent.held == 1)
    serve.signal(signal.SIGKILL)
    await serve.said("the supervisor is gone: worker 0 ends")
    agent.go.set()
    assert (await held.answer()).body == b"v1"
    held.close()
    await until(lambda: not any(map(is_alive, workers)), "the end of the workers")


async def test_on_unix_sockets_and_with_its_directory_cleaned_away_it_goes_on_and_leaves_nothing(town, directory):
    agent = await town.agent("v1")
    doors = ("--listen", f"unix:{directory}/c.sock", "--admin", f"unix:{directory}/a.sock")
    serve = town.start("--blue", agent.url, *doors, TMPDIR=str(directory))
    await serve.said(r"listening on unix:\S+/c\.sock, admin on unix:\S+/a\.sock")
    await serve.said("serves fleet")
    (ours,) = directory.glob("bgproxy-*")
    shutil.rmtree(ours)
    workers = [await kill_a_worker(serve)]
    await until(lambda: serve.log.count("serves fleet") == 2)
    workers += serve.workers
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, f"{directory}/c.sock")
    client = Wire(sock)
    await client.send(GET)
    assert (await client.answer()).body == b"v1"
    client.close()
    code, out, _ = await cli("status", "--json", "--admin", f"unix:{directory}/a.sock")
    assert (code, json.loads(out)["active"]) == (0, "blue")
    serve.signal(signal.SIGTERM)
    assert await serve.ended() == 0
    assert not any(map(is_alive, workers))
    assert not list(directory.iterdir())


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short one: a Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bgp-") as name:
        yield Path(name)


async def test_in_a_directory_that_was_given_counters_outlive_the_proxy_and_memory_does_not(town, tmp_path):
    """The memory that is kept there is for a worker's successor; nobody asked for a snapshot."""
    blue, green = await town.agent("v1"), await town.agent("v2")
    for total in (2, 4):
        serve = await town.serve(blue, green, BGPROXY_RUNTIME_DIR=str(tmp_path / "run"))
        assert (await serve.status())["epoch"] == 1
        for _ in range(2):
            assert await serve.ask() == (200, "v1")
        assert await serve.counted("bgproxy_requests_total", **{"class": "2xx"}) == total
        await serve.flip("green")
        serve.signal(signal.SIGTERM)
        assert await serve.ended() == 0


async def test_a_snapshot_outlives_the_proxy(town, tmp_path):
    blue, green = await town.agent("v1"), await town.agent("v2")
    for epoch, to in ((2, "green"), (3, "blue")):
        serve = await town.serve(blue, green, "--store", f"memory://{tmp_path}/state.json")
        assert (await serve.flip(to))["epoch"] == epoch
        serve.signal(signal.SIGTERM if epoch == 2 else signal.SIGKILL)
        await serve.ended()
    serve = await town.serve(blue, green, "--store", f"memory://{tmp_path}/state.json")  # its worker may live yet
    assert await serve.ask() == (200, "v1")
    _, audit = await serve.api("GET", "/v1/audit")
    assert [entry["epoch"] for entry in audit["entries"] if entry["verb"] == "flip"] == [3, 2]


async def test_a_snapshot_is_one_proxy_s_alone_and_a_worker_s_successor_s(town, tmp_path):
    store = ("--store", f"memory://{tmp_path}/state.json")
    serve = await town.serve(await town.agent("v1"), await town.agent("v2"), *store)
    second = town.start("--blue", "http://127.0.0.1:1", *store)
    assert await second.ended() == 1
    assert f"{tmp_path}/state.json is in use by process {serve.workers[0]}" in second.log
    assert "give this one a file of its own" in second.log
    await kill_a_worker(serve)
    await serve.ready(workers=2)
    assert (await serve.flip("green"))["epoch"] == 2


@pytest.mark.redis
async def test_one_of_several_is_killed_and_the_host_goes_on_counting(town, redis_server):
    serve = await town.serve(
        await town.agent("v1"), None, "--store", redis_server.url, "--fleet", town.fleet, workers=2
    )
    assert await serve.all_say("v1", 20)
    before = await serve.counted("bgproxy_requests_total", **{"class": "2xx"})
    assert before == 20
    victim, other = serve.workers
    os.kill(victim, signal.SIGSTOP)  # it lives and says nothing: the other one tells what it left
    assert await _told_by_the_other(serve) == 20
    os.kill(victim, signal.SIGKILL)
    await serve.ready(workers=3)
    assert other in serve.workers
    status = await until(lambda: _two_nodes(serve, victim))
    assert f"-{victim}-" in (await serve.said(r"node (\S+) has died and is signed off"))[1]
    assert status["store"]["state"] == "up"
    assert await serve.all_say("v1", 20)
    assert await serve.counted("bgproxy_requests_total", **{"class": "2xx"}) == 40
    assert await serve.counted("bgproxy_workers") == 2


async def _told_by_the_other(serve: Serve) -> float:
    """Asked until the kernel gives the connection to the worker that can answer."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                return await serve.counted("bgproxy_requests_total", **{"class": "2xx"})


async def _two_nodes(serve: Serve, victim: int) -> dict | None:
    """The dead one is signed off by its sibling or its successor, long before it would be silent."""
    status = await serve.status()
    pids = [node["pid"] for node in status["nodes"]]
    return status if len(pids) == 2 and victim not in pids else None
