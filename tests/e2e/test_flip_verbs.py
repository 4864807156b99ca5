"""Flip, rollback, stage and status as the interface has them: by HTTP and by the command line, done and refused."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from serving import Agent, Serve, Town, cli, until


@pytest.fixture
async def blue(town: Town) -> Agent:
    return await town.agent("v1")


@pytest.fixture
async def green(town: Town) -> Agent:
    return await town.agent("v2")


@pytest.fixture
async def serve(town: Town, blue: Agent, green: Agent) -> Serve:
    """Started by flags alone, as the interface has them."""
    serve = town.start(
        "--blue", blue.url, "--green", green.url, "--active", "blue", "--store", "memory://", "--fleet", "shop"
    )
    return await serve.ready()


async def refused(serve: Serve, path: str, body: dict[str, Any], status: int, code: str) -> dict[str, Any]:
    """A change that must be refused so; the problem document."""
    before = await serve.status()
    answered, problem = await serve.api("PUT" if "/colors/" in path else "POST", path, body)
    assert (answered, problem.get("code")) == (status, code), problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:bgproxy:problem:{code}"
    after = await serve.status()
    assert (after["active"], after["epoch"]) == (before["active"], before["epoch"])
    return dict(problem)


async def test_the_answers_have_the_members_of_the_interface(serve, blue, green):
    status = await serve.status()
    assert (status["fleet"], status["active"], status["previous"], status["epoch"]) == ("shop", "blue", None, 1)
    assert list(status["colors"]) == ["blue", "green"]
    one = status["colors"]["blue"]
    assert (one["phase"], one["in_flight"], one["upstreams"][0]["url"]) == ("active", 0, blue.url)
    assert "release" in one
    assert (len(status["nodes"]), status["store"]["state"]) == (1, "up")

    answer = await serve.flip("green", reason="v2", if_epoch=1)
    assert (answer["active"], answer["previous"], answer["epoch"]) == ("green", "blue", 2)
    assert 0 < answer["took_ms"] < 60_000
    assert await serve.ask() == (200, "v2"), "the node that was asked has flipped when it answers"

    code, answer = await serve.api("POST", "/v1/rollback", {"reason": "no good"})
    assert (code, answer["active"], answer["previous"], answer["epoch"]) == (200, "blue", "green", 3)
    assert await serve.ask() == (200, "v1")
    assert (await serve.status())["reason"] == "no good"


async def test_the_command_line_does_the_same_with_its_exit_codes(serve, green):
    admin = {"BGPROXY_ADMIN": serve.admin}
    code, out, _ = await cli("flip", "green", "--admin", serve.admin, "--reason", "v2")
    assert (code, out.startswith("green is active, came from blue, epoch 2")) == (0, True)
    code, out, _ = await cli("flip", "green", **admin)
    assert (code, "already" in out) == (0, True)
    code, out, _ = await cli("status", "--json", **admin)
    assert code == 0
    assert json.loads(out)["active"] == "green"
    code, out, err = await cli("flip", "blue", "--if-epoch", "1", **admin)
    assert (code, out) == (1, "")
    assert "the epoch is 2" in err
    code, out, _ = await cli("flip", "purple", "--json", **admin)
    assert (code, json.loads(out)["code"]) == (1, "unknown_color")
    code, out, _ = await cli("rollback", **admin)
    assert (code, "blue is active, came from green, epoch 3" in out) == (0, True)
    assert (await cli("flip", **admin))[0] == 2
    assert (await cli("status", "--admin", "nonsense://x"))[0] == 2
    assert (await cli("status", "--admin", "http://127.0.0.1:1"))[0] == 3


async def test_what_is_refused_moves_nothing_and_says_why(serve):
    problem = await refused(serve, "/v1/rollback", {}, 409, "refused")
    assert "the pointer has not moved yet" in problem["detail"]
    problem = await refused(serve, "/v1/flip", {"to": "purple"}, 404, "unknown_color")
    assert "blue, green" in problem["detail"]
    answer = await serve.flip("blue")
    assert (answer["epoch"], answer["changed"]) == (1, False), "it is the active one: nothing to do is no error"
    assert "is the active color already" in answer["detail"]

    await serve.flip("green")
    problem = await refused(serve, "/v1/flip", {"to": "blue", "if_epoch": 1}, 409, "stale_epoch")
    assert (problem["epoch"], problem["active"]) == (2, "green")
    await refused(serve, "/v1/rollback", {"if_epoch": 7}, 409, "stale_epoch")
    assert (await serve.flip("blue", if_epoch=2))["epoch"] == 3

    for body in ({}, {"to": "green", "bake": True}, {"to": "green", "if_epoch": "7"}):
        await refused(serve, "/v1/flip", body, 400, "bad_input")
    fields = {"Content-Type": "application/json"}
    async with serve.session.post(serve.admin + "/v1/flip", data="{", headers=fields) as answer:
        assert (answer.status, answer.content_type) == (400, "application/problem+json")
    _, audit = await serve.api("GET", "/v1/audit")
    assert [entry["epoch"] for entry in audit["entries"] if entry["verb"] == "flip"] == [3, 2]


async def test_a_color_without_a_release(town, blue):
    serve = await town.serve(blue)
    problem = await refused(serve, "/v1/flip", {"to": "green"}, 409, "not_ready")
    assert "green has no release" in problem["detail"]


@pytest.mark.parametrize("back", [False, True], ids=["flip", "rollback"])
async def test_never_onto_a_release_that_is_down_unless_forced_which_is_on_record(serve, blue, green, back):
    down, path, body = green, "/v1/flip", {"to": "green"}
    if back:
        await serve.flip("green")
        down, path, body = blue, "/v1/rollback", {}
    await down.stop()
    problem = await refused(serve, path, body, 409, "not_ready")
    assert f"{down.url}: connection refused" in problem["detail"]
    code, answer = await serve.api("POST", path, body | {"force": True, "reason": "I know"})
    assert (code, answer["changed"]) == (200, True)
    assert (await serve.ask())[0] == 502
    _, audit = await serve.api("GET", "/v1/audit")
    entry = next(entry for entry in audit["entries"] if entry["reason"] == "I know")
    assert "connection refused" in str(entry["facts"]["forced"])
    await down.start()
    await until(lambda: serve.all_say(down.label, 1))


async def test_a_staged_release_becomes_ready_by_itself_and_takes_the_traffic(town, serve, green):
    third = await town.agent("v3")
    await third.stop()
    code, answer = await serve.api("PUT", "/v1/colors/green", {"release": "v3", "upstreams": [third.url]})
    assert (code, answer["release"]) == (200, "v3")
    await asyncio.sleep(0.3)
    assert await serve.phase("green") == "staged", "its agent is not there yet"
    await third.start()
    await until(lambda: _phase_is(serve, "green", "ready"))
    await serve.flip("green")
    assert await serve.all_say("v3")
    _, audit = await serve.api("GET", "/v1/audit")
    steps = [entry["facts"].get("phases") for entry in reversed(audit["entries"])]
    assert {"green": ["staged", "validating"]} in steps
    assert {"green": ["validating", "ready"]} in steps
    assert {"blue": ["active", "standby"], "green": ["ready", "active"]} in steps


async def _phase_is(serve: Serve, color: str, phase: str) -> bool:
    return await serve.phase(color) == phase


async def test_by_the_command_line_too(town, serve):
    third = await town.agent("v3")
    stage = ("stage", "green", "--release", "v3", "--upstream", third.url, "--metadata", "commit=abc")
    code, out, _ = await cli(*stage, "--admin", serve.admin)
    assert (code, "v3 is staged on green" in out) == (0, True)
    code, _, err = await cli("stage", "blue", "--release", "v3", "--upstream", third.url, "--admin", serve.admin)
    assert (code, "blue is active" in err) == (1, True)
    await serve.flip("green")  # a release that waits for its validation is validated on the way
    assert await serve.ask() == (200, "v3")
    code, out, _ = await cli("audit", "--limit", "1", "--json", "--admin", serve.admin)
    assert (code, json.loads(out)["entries"][0]["verb"]) == (0, "flip")


STAGE = {"release": "v3", "upstreams": ["http://127.0.0.1:1"]}


async def test_what_still_drains_is_not_staged_over(serve, blue):
    stream = await serve.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    await serve.flip("green")
    problem = await refused(serve, "/v1/colors/blue", STAGE, 409, "refused")
    assert "may have live sessions" in problem["detail"]
    await asyncio.sleep(3)  # two looks find a stream on it
    assert await serve.phase("blue") == "standby"
    assert (await serve.status())["colors"]["blue"]["streams"] == 1
    blue.finish()
    await until(lambda: _phase_is(serve, "blue", "drained"))
    assert (await serve.api("PUT", "/v1/colors/blue", STAGE))[0] == 200
    stream.close()


async def test_by_force_it_is_staged_over_and_the_stream_goes_on(serve, blue):
    stream = await serve.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    assert await stream.chunk()
    await serve.flip("green")
    code, _ = await serve.api("PUT", "/v1/colors/blue", STAGE | {"force": True})
    assert code == 200
    blue.say()
    assert await stream.chunk() == b"id: 2\ndata: v1\n\n"
    _, audit = await serve.api("GET", "/v1/audit")
    assert audit["entries"][0]["facts"]["forced"]
    stream.close()


async def test_a_drained_release_is_still_one_rollback_away(serve):
    await serve.flip("green")
    await until(lambda: _phase_is(serve, "blue", "drained"))
    code, answer = await serve.api("POST", "/v1/rollback", {})
    assert (code, answer["active"]) == (200, "blue")
    assert await serve.ask() == (200, "v1")
    assert await serve.phase("blue") == "active"


async def test_the_record_is_in_order_and_complete(serve):
    for number in range(3):
        await serve.flip("green" if number % 2 == 0 else "blue", reason=f"number {number}")
    await serve.api("POST", "/v1/rollback", {"reason": "number 3"})
    _, audit = await serve.api("GET", "/v1/audit")
    entries = audit["entries"][::-1]
    assert entries[0]["verb"] == "bootstrap"
    assert [entry["revision"] for entry in entries] == list(range(1, len(entries) + 1))
    moves = [entry for entry in entries if entry["verb"] in ("flip", "rollback")]
    assert [entry["reason"] for entry in moves] == [f"number {number}" for number in range(4)]
    assert [entry["epoch"] for entry in moves] == [2, 3, 4, 5]
    assert {entry["actor"] for entry in moves} == {"admin@loopback"}
    assert all(entry["at"] <= later["at"] for entry, later in itertools.pairwise(entries))


async def test_events_tell_every_flip(serve):
    async with serve.session.get(serve.admin + "/v1/events") as events:
        for to in ("green", "blue", "green"):
            await serve.flip(to)
        epochs: list[int] = []
        while not epochs or epochs[-1] < 4:
            line = await asyncio.wait_for(events.content.readline(), 10)
            if line.startswith(b"data: ") and b'"previous"' in line:
                epochs.append(json.loads(line[6:])["epoch"])
        assert epochs == [1, 2, 3, 4]
