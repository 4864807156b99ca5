"""The store goes away, comes back, or comes back empty: traffic flows by the last known pointer all the while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Serve, Town, cli, until

pytestmark = pytest.mark.redis


@pytest.fixture
async def serve(town: Town, own_redis: Any) -> Serve:
    """Two workers whose pointer has moved to green, which no configuration would say."""
    serve = await town.serve(
        await town.agent("v1"), await town.agent("v2"), "--store", own_redis.url, "--fleet", town.fleet, workers=2
    )
    await serve.flip("green")
    await until(lambda: serve.all_say("v2"))
    return serve


@pytest.fixture
def stopped(own_redis: Any) -> Iterator[int]:
    """The Redis process's pid, to be stopped; it goes on at the end, so that it can be ended."""
    pid = int(own_redis.command("INFO", "server").split(b"process_id:")[1].split()[0])
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


async def ready(serve: Serve) -> dict[str, Any]:
    code, facts = await serve.api("GET", "/readyz")
    assert code == 200
    return dict(facts)


async def store_is(serve: Serve, state: str) -> dict[str, Any] | None:
    """The status, once all workers agree that the store is so."""
    status = await serve.status()
    return status if status["store"]["state"] == state else None


async def test_traffic_flows_and_changes_are_refused_while_it_is_away(serve, own_redis):
    own_redis.kill()
    assert await serve.all_say("v2")
    status = await until(lambda: store_is(serve, "down"))
    assert (status["active"], status["epoch"]) == ("green", 2)
    assert len(status["nodes"]) == 2, "the workers of this host are known without the store"
    facts = await ready(serve)
    assert facts["degraded"] is True
    await until(lambda: _age(serve, 1.0), "the pointer's age grows")
    assert await serve.counted("bgproxy_store_up") == 0
    for path, body in (("/v1/flip", {"to": "blue"}), ("/v1/rollback", {})):
        began = time.monotonic()
        code, problem = await serve.api("POST", path, body)
        assert (code, problem["code"]) == (503, "store_unavailable")
        assert time.monotonic() - began < 5
    assert await serve.all_say("v2")
    code, _, said = await cli("flip", "blue", "--admin", serve.admin)
    assert code == 1
    assert "nothing was half-done" in said


async def _age(serve: Serve, seconds: float) -> bool:
    return (await ready(serve))["pointer_age"] > seconds


async def test_a_store_that_hangs_delays_no_request(serve, stopped):
    os.kill(stopped, signal.SIGSTOP)
    for _ in range(20):
        assert await serve.ask() == (200, "v2")
    code, problem = await serve.api("POST", "/v1/flip", {"to": "blue"})
    assert (code, problem["code"]) == (503, "store_unavailable")
    await until(lambda: store_is(serve, "down"))
    os.kill(stopped, signal.SIGCONT)
    await until(lambda: store_is(serve, "up"))
    await until(lambda: _nothing_is_open(serve), "what reached the store late is made, or given up")
    assert (await serve.flip("blue"))["epoch"] >= 3
    await until(lambda: serve.all_say("v1"))


async def test_it_comes_back_empty_and_what_is_held_is_written_back(serve, own_redis):
    own_redis.kill()
    await until(lambda: store_is(serve, "down"))
    assert "connect" in (await serve.status())["store"]["problem"].lower()
    own_redis.start()
    await serve.said("ALARM: .*the store holds no state any more")
    await serve.said("the store was put right")
    await until(lambda: store_is(serve, "up"))
    assert await serve.all_say("v2")
    await until(lambda: _is_well(serve))
    status = await serve.status()
    assert (status["active"], status["epoch"], status["store"]["problem"]) == ("green", 2, None)
    _, audit = await serve.api("GET", "/v1/audit")
    [entry] = [one for one in audit["entries"] if one["verb"] == "restore"]  # one of the two workers did it
    assert (entry["facts"]["found"], entry["facts"]["restored"]["epoch"]) == (None, 2)
    assert (await serve.flip("blue", strategy="swap"))["epoch"] == 3
    await until(lambda: serve.all_say("v1"), "both workers follow")


async def test_two_pointers_of_one_epoch_are_shown_until_a_forced_flip_decides(serve, own_redis, town):
    key = f"bgproxy:{{{town.fleet}}}:state"
    pointer = '{"active":"blue","previous":"green","epoch":2,"actor":"bob","reason":"elsewhere","at":1700000000.5}'
    own_redis.command("HSET", key, "pointer", pointer)
    await serve.said("ALARM: .*Decide: `bgproxy flip green --force` or `bgproxy flip blue --force`")
    await until(lambda: _alarm(serve))
    assert await serve.all_say("v2")
    store = (await serve.status())["store"]
    assert store["state"] == "up"  # it answers; what it says is the trouble
    conflict = store["conflict"]
    assert [conflict[side]["active"] for side in ("held", "found")] == ["green", "blue"]
    assert (conflict["kind"], conflict["found"]["actor"]) == ("split", "bob")
    assert (await serve.counted("bgproxy_store_alarm"), await serve.counted("bgproxy_store_up")) == (1, 1)
    code, problem = await serve.api("POST", "/v1/flip", {"to": "blue"})
    assert (code, problem["code"], problem["found"]) == (409, "split", conflict["found"])
    code, shown, _ = await cli("status", "--admin", serve.admin)
    assert (code, "ALARM" in shown, "flip blue --force" in " ".join(shown.split())) == (0, True, True)
    assert (await serve.flip("blue", force=True))["epoch"] == 3
    await until(lambda: serve.all_say("v1"), "both workers follow")
    await until(lambda: _is_well(serve))
    assert await serve.counted("bgproxy_store_alarm") == 0


async def _is_well(serve: Serve) -> bool:
    store = (await serve.status())["store"]
    return not await _alarm(serve) and (store["alarm"], store["conflict"]) == (None, None)


async def _nothing_is_open(serve: Serve) -> bool:
    return (await serve.status())["pending"] is None


async def _alarm(serve: Serve) -> bool:
    facts = await ready(serve)
    return bool(facts["alarm"] and facts["degraded"])


async def test_it_comes_back_with_an_older_pointer_which_is_an_alarm_and_no_rollback(serve, own_redis, town):
    key = f"bgproxy:{{{town.fleet}}}:state"
    assert own_redis.command("COPY", key, "backup") == b":1\r\n"
    await serve.flip("blue")
    await until(lambda: serve.all_say("v1"))
    assert own_redis.command("COPY", "backup", key, "REPLACE") == b":1\r\n"
    await serve.said("ALARM: the store says revision")
    assert await serve.all_say("v1")
    await until(lambda: _is_well(serve))
    assert b'"epoch":3' in own_redis.command("HGET", key, "pointer")
    assert (await serve.status())["epoch"] == 3
    # A successor of one that knew better does not go back either.
    os.kill(serve.workers[0], signal.SIGKILL)
    await serve.ready(workers=3)
    assert await serve.all_say("v1")


async def test_a_worker_that_is_replaced_meanwhile_begins_with_the_last_known_pointer(serve, own_redis):
    own_redis.kill()
    for number, pid in enumerate(serve.workers):
        os.kill(pid, signal.SIGKILL)
        await serve.ready(workers=3 + number)
    assert await serve.all_say("v2")
    facts = await ready(serve)
    assert (facts["epoch"], facts["degraded"]) == (2, True)
    own_redis.start()
    await serve.said("ALARM")
    assert (await serve.flip("blue", strategy="swap"))["epoch"] == 3
    await until(lambda: serve.all_say("v1"))


async def test_a_worker_that_is_replaced_after_the_store_lost_everything_does_not_move_the_pointer(serve, own_redis):
    own_redis.command("FLUSHALL")
    await serve.said("ALARM")
    os.kill(serve.workers[0], signal.SIGKILL)
    await serve.ready(workers=3)
    assert await serve.all_say("v2")
    await until(lambda: _agree(serve, 2))


async def _agree(serve: Serve, epoch: int) -> bool:
    return {node["epoch"] for node in (await serve.status())["nodes"]} == {epoch}


async def test_a_worker_that_is_replaced_while_the_password_is_wrong_serves(serve, own_redis):
    own_redis.command("CONFIG", "SET", "requirepass", "another-one")
    own_redis.command("CLIENT", "KILL", "TYPE", "normal")
    os.kill(serve.workers[0], signal.SIGKILL)
    await serve.ready(workers=3)
    assert await serve.all_say("v2")
    assert len(serve.workers) == 2


async def test_streams_and_requests_in_flight_notice_nothing(town, own_redis):
    agent = await town.agent("v1")
    serve = await town.serve(agent, None, "--store", own_redis.url, "--fleet", town.fleet)
    stream = await serve.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    await stream.chunk()
    held = asyncio.create_task(serve.ask("/hold"))
    await until(lambda: agent.held == 1)
    own_redis.kill()
    await until(lambda: store_is(serve, "down"))
    own_redis.start()
    await until(lambda: store_is(serve, "up"))
    agent.say()
    assert await stream.chunk() == b"id: 2\ndata: v1\n\n"
    agent.finish()
    assert await held == (200, "v1")
    stream.close()
