"""One pointer for many processes: workers of one host, and hosts that have nothing in common but a Redis."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import pytest
from serving import Serve, until

pytestmark = pytest.mark.redis


async def epochs(serve: Serve) -> list[int]:
    return [node["epoch"] for node in (await serve.status())["nodes"]]


async def test_a_flip_through_any_worker_reaches_all(town, agents, shared, record_property):
    serve = await town.serve(*agents, *shared, workers=3)
    took = []
    for number in range(6):  # each on a connection of its own: the kernel spreads them over the workers
        to, label = (("green", "v2"), ("blue", "v1"))[number % 2]
        began = time.monotonic()
        assert (await serve.flip(to))["epoch"] == number + 2
        await until(lambda label=label: serve.all_say(label, 9))
        took.append(time.monotonic() - began)
    record_property("seconds until nine new connections in a row met the new color", [round(t, 3) for t in took])
    assert await epochs(serve) == [7, 7, 7]
    assert max(took) < 5


async def test_status_and_metrics_speak_for_all_workers(town, agents, shared):
    blue, _ = agents
    serve = await town.serve(*agents, *shared, workers=2)
    clients = [await serve.connect() for _ in range(12)]
    for client in clients:
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: blue.held == 12)
    for _ in range(4):  # whichever worker answers
        status = await serve.status()
        assert status["colors"]["blue"]["in_flight"] == 12
        assert len(status["nodes"]) == 2
        assert sorted({node["pid"] for node in status["nodes"]}) == sorted(serve.workers)
        assert await serve.counted("bgproxy_in_flight") == 12
        assert await serve.counted("bgproxy_workers") == 2
    blue.finish()
    for client in clients:
        assert (await client.answer()).body == b"v1"
        client.close()
    assert await serve.counted("bgproxy_requests_total", **{"class": "2xx"}) == 12


async def test_a_flip_on_one_host_moves_the_other(town, agents, shared):
    here, there = await asyncio.gather(town.serve(*agents, *shared), town.serve(*agents, *shared))
    await here.flip("green", reason="asked here")
    await until(lambda: there.all_say("v2", 3))
    status = await there.status()
    assert (status["active"], status["epoch"], status["reason"]) == ("green", 2, "asked here")
    assert {node["pid"] for node in status["nodes"]} == {*here.workers, *there.workers}
    code, answer = await there.api("POST", "/v1/rollback", {})
    assert (code, answer["epoch"]) == (200, 3)
    await until(lambda: here.all_say("v1", 3))
    for host in (here, there):
        await until(lambda host=host: _agree(host, [3, 3]), "each hears of the other at its next beat")

    # What is staged here becomes ready everywhere, and each step of that is made once.
    third = await town.agent("v3")
    assert (await here.api("PUT", "/v1/colors/green", {"release": "v3", "upstreams": [third.url], "force": True}))[
        0
    ] == 200
    await until(lambda: _is_ready(there, "v3"))
    await there.flip("green")
    for host in (here, there):
        await until(lambda host=host: host.all_say("v3", 3))
    _, audit = await here.api("GET", "/v1/audit")
    steps = [one["facts"].get("phases") for one in audit["entries"] if one["verb"] == "phase"]
    assert steps.count({"green": ["validating", "ready"]}) == 2, "v2 once, v3 once"

    # Who comes later takes the pointer that stands, whatever its own configuration says.
    late = await town.serve(*agents, *shared, "--active", "blue")
    assert await late.ask() == (200, "v3")
    assert (await late.status())["epoch"] == 4


async def _is_ready(serve: Serve, label: str) -> bool:
    green = (await serve.status())["colors"]["green"]
    return green["release"] == label and green["phase"] == "ready"


async def test_many_that_start_at_once_begin_one_history(town, agents, shared):
    serves = await asyncio.gather(*(town.serve(*agents, *shared) for _ in range(3)))
    _, audit = await serves[0].api("GET", "/v1/audit")
    assert [entry["verb"] for entry in audit["entries"]].count("bootstrap") == 1
    for serve in serves:
        assert await serve.ask() == (200, "v1")


async def test_a_color_is_drained_only_when_no_host_holds_anything_on_it(town, agents, shared):
    blue, _ = agents
    here, there = await asyncio.gather(town.serve(*agents, *shared), town.serve(*agents, *shared))
    stream = await there.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    await here.flip("green")
    stage = {"release": "v3", "upstreams": ["http://127.0.0.1:1"]}
    assert (await here.api("PUT", "/v1/colors/blue", stage))[0] == 409
    await asyncio.sleep(3)  # several looks of both
    assert await here.phase("blue") == "standby"
    # The other host's stream is seen from here, by what it reports.
    assert await until(lambda: _streams(here, 1))
    blue.finish()
    await until(lambda: _is_drained(here))
    assert (await there.status())["colors"]["blue"]["phase"] == "drained"
    assert (await here.api("PUT", "/v1/colors/blue", stage))[0] == 200
    _, audit = await here.api("GET", "/v1/audit")
    entry = next(one for one in audit["entries"] if one["facts"].get("phases") == {"blue": ["standby", "drained"]})
    assert entry["facts"]["evidence"]["nodes"] == 2
    stream.close()


async def _streams(serve: Serve, count: int) -> bool:
    return (await serve.status())["colors"]["blue"]["streams"] == count


async def _is_drained(serve: Serve) -> bool:
    return await serve.phase("blue") == "drained"


async def test_of_many_callers_each_flip_is_one_epoch(town, agents, shared):
    """Eight callers on two hosts flip to and fro without looking: each gets a yes with an epoch of its own, or a no."""
    hosts = await asyncio.gather(town.serve(*agents, *shared, workers=2), town.serve(*agents, *shared))
    answers = await asyncio.gather(
        *(host.api("POST", "/v1/flip", {"to": "green", "if_epoch": 1}) for host in hosts * 4)
    )
    assert Counter(code for code, _ in answers) == {200: 1, 409: 7}, answers
    assert {answer["epoch"] if "epoch" in answer else answer["flip"]["epoch"] for _, answer in answers} == {2}

    async def caller(number: int) -> None:
        for turn in range(8):
            to = ("green", "blue")[(number + turn) % 2]
            answers.append(await hosts[number % 2].api("POST", "/v1/flip", {"to": to, "reason": f"{number}.{turn}"}))

    answers.clear()
    await asyncio.gather(*(caller(number) for number in range(8)))
    assert {code for code, _ in answers} <= {200, 409}, [one for one in answers if one[0] not in (200, 409)]
    done = [answer for code, answer in answers if code == 200 and answer["changed"]]
    won = sorted(answer["epoch"] for answer in done)
    assert won == list(range(3, len(won) + 3)), "epochs grow by one, and none is given twice"
    assert len(won) > 2, "they did flip to and fro"
    _, audit = await hosts[0].api("GET", "/v1/audit?limit=1000")
    moves = [entry for entry in reversed(audit["entries"]) if entry["verb"] == "flip"]
    assert [entry["epoch"] for entry in moves] == [2, *won]
    assert all(one["facts"]["to"] == two["facts"]["from"] for one, two in itertools.pairwise(moves))
    for host, nodes in zip(hosts, (3, 3), strict=True):
        await until(lambda host=host, nodes=nodes: _agree(host, [won[-1]] * nodes), "every node ends equal")


async def _agree(serve: Serve, wanted: list[int]) -> bool:
    return await epochs(serve) == wanted
