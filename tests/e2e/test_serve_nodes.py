"""The list of nodes on a real Redis: the dead are signed off, the gone forgotten, and strangers kept out."""

from __future__ import annotations

import json
import signal
import time

import pytest
from serving import Serve, Town, cli

pytestmark = pytest.mark.redis


async def test_who_died_with_its_proxy_is_signed_off_by_the_next_one(town: Town, redis_server, tmp_path):
    agent, store = await town.agent("v1"), ("--store", redis_server.url, "--fleet", town.fleet)
    first = await town.serve(agent, None, *store, workers=2, BGPROXY_RUNTIME_DIR=str(tmp_path))
    before = await ids(first)
    assert len(before) == 2
    first.signal(signal.SIGKILL, group=True)
    await first.ended()
    second = await town.serve(agent, None, *store, BGPROXY_RUNTIME_DIR=str(tmp_path))
    [own] = await ids(second)
    assert own not in before
    assert second.log.count("has died and is signed off") == 2


async def test_strangers_and_those_that_are_gone(town: Town, redis_server, tmp_path):
    store = ("--store", redis_server.url, "--fleet", town.fleet)
    serve = await town.serve(await town.agent("v1"), None, *store)

    def put(node_id: str, age: float) -> None:
        report = {"id": node_id, "version": "0.0.7", "protocol": 99, "at": time.time() - age}
        redis_server.command(
            "HSET", f"bgproxy:{{{town.fleet}}}:nodes", node_id, json.dumps(report, separators=(",", ":"))
        )

    put("stranger", -9.0)  # live for 19 seconds
    refused = town.start("--blue", "http://127.0.0.1:1", *store)
    assert await refused.ended() == 1
    assert "cannot join fleet" in refused.log
    assert "stranger (0.0.7, schema 0, protocol 99); run their version here" in refused.log
    put("stranger", 60.0)
    status, out, _ = await cli("nodes", "forget", "stranger", "--reason", "gone", "--admin", serve.admin)
    assert status == 0
    assert out.startswith("stranger is forgotten; it was last heard 6")
    status, out, err = await cli("nodes", "forget", (await ids(serve))[0], "--admin", serve.admin)
    assert (status, out) == (1, "")
    assert "is live: end its process" in err
    status, out, _ = await cli("nodes", "--json", "--admin", serve.admin)
    told = json.loads(out)
    assert [(node["state"], node["protocol"]) for node in told["nodes"]] == [("live", 1)]
    assert (status, told["complete"]) == (0, True)


async def ids(serve: Serve) -> list[str]:
    _, told = await serve.api("GET", "/v1/nodes")
    return [node["id"] for node in told["nodes"]]
