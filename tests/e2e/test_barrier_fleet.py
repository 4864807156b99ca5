"""The barrier over real processes and a real Redis: no old color after the new one, whatever a node does."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import time
from typing import Any

import aiohttp
import pytest
from serving import BGPROXY, ROOT, Serve, environment, until

from bench.history import Flip, History, Request
from bench.judge import check

pytestmark = pytest.mark.redis


def cli(serve: Serve, *words: str) -> subprocess.CompletedProcess[str]:
    """A verb, as an operator types it."""
    return subprocess.run(
        [*BGPROXY, *words, "--admin", serve.admin],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        check=False,
    )


async def node_of(serve: Serve, pid: int) -> str:
    _, body = await serve.api("GET", "/v1/nodes")
    return next(node["id"] for node in body["nodes"] if node["pid"] == pid)


async def some_worker(serve: Serve) -> tuple[int, int]:
    """The pid of the worker that answers the admin calls of one connection, and that of another one."""
    first, second = sorted(serve.workers)
    return first, second


@pytest.mark.parametrize("number", [1, 2])
async def test_what_is_sent_after_an_answer_of_the_new_color_never_meets_the_old(
    town, agents, shared, number: int
) -> None:
    """Four workers on one host or two, thirty flips under load from all sides."""
    hosts = await asyncio.gather(*(town.serve(*agents, *shared, workers=4 // number) for _ in range(number)))
    await until(lambda: _registered(hosts[0], 4), "all are registered")
    requests: list[Request] = []
    flips = [Flip(1, "blue")]
    over = False

    async def client(number: int) -> None:
        wire = await hosts[number % len(hosts)].connect()
        for count in itertools.count():
            sent = time.monotonic()
            await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await wire.answer()
            told, label = time.monotonic(), answer.body.decode()
            by = {"v1": "blue", "v2": "green"}.get(label, "")
            requests.append(Request(f"{number}.{count}", sent, told, told, answer.status, by, label, repeatable=True))
            if over:
                break
        wire.close()

    clients = [asyncio.ensure_future(client(number)) for number in range(16)]
    for number in range(30):
        to, asked = ("green", "blue")[number % 2], time.monotonic()
        epoch = (await hosts[number % len(hosts)].flip(to))["epoch"]
        flips.append(Flip(epoch, to, asked, time.monotonic()))
        await asyncio.sleep(0.01)
    over = True
    await asyncio.gather(*clients)
    verdict = check(History(requests, flips))
    assert (verdict.violations, verdict.answered) == ([], len(requests)), verdict.told()
    assert len(requests) > 500
    _, audit = await hosts[0].api("GET", "/v1/audit?limit=20")
    verbs = [entry["verb"] for entry in audit["entries"]]
    assert (verbs.count("prepare") < verbs.count("flip")) is (len(hosts) == 1), "on one host it takes one commit"


@pytest.fixture
async def two(town, agents, shared) -> Serve:
    """Two workers, registered, that wait 0.4 s for one another."""
    serve = await town.serve(*agents, *shared, workers=2, BGPROXY_FLIP__HOLD_TIMEOUT="0.4")
    await until(lambda: _registered(serve, 2), "both are registered")
    return serve


async def _registered(serve: Serve, count: int) -> bool:
    _, body = await serve.api("GET", "/v1/nodes")
    return len(body["nodes"]) == count


async def _asked(serve: Serve, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """A call that may reach the worker that is stopped: then again, over another connection."""
    while True:
        try:
            async with asyncio.timeout(3):
                return await serve.api("POST", path, body)
        except TimeoutError:
            continue


async def test_a_worker_that_is_stopped_makes_it_be_given_up_and_can_be_left_behind(two: Serve) -> None:
    stopped, living = await some_worker(two)
    name = await node_of(two, stopped)
    os.kill(stopped, signal.SIGSTOP)
    try:
        code, problem = await _asked(two, "/v1/flip", {"to": "green"})
        assert (code, problem["code"], problem["nodes"]) == (409, "flip_abandoned", [name])
        assert "blue stays active" in problem["detail"]
        code, answer = await _asked(two, "/v1/flip", {"to": "green", "exclude": [name]})
        assert (code, answer["epoch"]) == (200, 2)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert living in two.workers
    await until(lambda: two.all_say("v2", 8), "it follows when it is back")
    _, audit = await two.api("GET", "/v1/audit")
    entries = {entry["verb"]: entry for entry in audit["entries"]}
    assert entries["abandon"]["facts"]["silent"] == [name]
    assert entries["flip"]["facts"]["left_behind"] == [name]
    assert (await two.flip("blue"))["epoch"] == 3, "and from then on it takes part again"


async def test_a_worker_that_is_killed_in_the_middle_harms_no_flip(two: Serve) -> None:
    for number in range(4):
        victim = sorted(two.workers)[0]
        os.kill(victim, signal.SIGKILL)
        to = ("green", "blue")[number % 2]

        async def moved(to: str = to) -> bool:
            try:
                code, _ = await two.api("POST", "/v1/flip", {"to": to})
            except (OSError, aiohttp.ClientError):
                return False
            return code == 200

        await until(moved, "who is dead is signed off, or its successor has come")
        assert await two.all_say({"green": "v2", "blue": "v1"}[to], 6)
        await until(lambda: len(two.workers) == 2)


async def test_a_pause_by_hand(two: Serve) -> None:
    done = await asyncio.to_thread(cli, two, "pause", "--max-hold", "20", "--reason", "migration")
    assert (done.returncode, "new requests are held, for at most 20 s" in done.stdout) == (0, True), done
    status = await two.status()
    assert status["pause"] == {"actor": "admin@loopback", "reason": "migration", "max_hold": 20.0}
    asked = [asyncio.ensure_future(two.ask()) for _ in range(6)]
    await asyncio.sleep(0.2)
    assert not any(one.done() for one in asked)
    assert (await two.flip("green"))["epoch"] == 2
    assert (await asyncio.to_thread(cli, two, "pause")).returncode == 1
    done = await asyncio.to_thread(cli, two, "resume")
    assert (done.returncode, done.stdout.strip()) == (0, "new requests go on")
    assert {await one for one in asked} == {(200, "v2")}
    assert (await asyncio.to_thread(cli, two, "resume")).stdout.strip() == "nothing was paused"
    assert await two.counted("bgproxy_held_total") >= 6


async def test_a_pause_ends_by_itself(two: Serve) -> None:
    assert (await two.api("POST", "/v1/pause", {"max_hold": 0.3}))[0] == 200
    assert await two.ask() == (200, "v1")
    assert (await two.status())["pause"] is None
