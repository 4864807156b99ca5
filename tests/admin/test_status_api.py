"""What is told: the status for all workers of the host and all nodes, the colors, the record."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from admin_plane import Plane, worker
from jsonschema import Draft202012Validator

from bgproxy.admin.shapes import ANSWERS
from bgproxy.errors import StoreUnavailable
from bgproxy.store.base import NodeReport

NOTHING_TOLD = {"alarm": None, "conflict": None, "problem": None, "fenced": 0}


def fits(value: Any, name: str) -> None:
    """The answer is what the OpenAPI document says of it."""
    schema = {**ANSWERS[name], "components": {"schemas": ANSWERS}}
    Draft202012Validator(schema).validate(value)


def upstream(color: str, port: int, *, healthy: bool = True, **more: Any) -> dict[str, Any]:
    base = {"reason": "", "in_flight": 0, "open": 0, "idle": 0, "failures": 0}
    return {"color": color, "url": f"http://127.0.0.1:{port}", "healthy": healthy, **base, **more}


def two_workers(plane: Plane) -> None:
    """Blue: 2 and 3 in flight; green's agent is down for one of the two."""
    first = worker("here-1", upstreams=[upstream("blue", 9101, in_flight=2, open=4, idle=2), upstream("green", 9102)])
    down = upstream("green", 9102, healthy=False, reason="refused", failures=3)
    second = worker("here-2", upstreams=[upstream("blue", 9101, in_flight=3, open=3), down])
    for (metrics, _), count in ((first, 2), (second, 3)):
        slot = metrics.slot("chat", "blue", "v1")
        slot.in_flight, slot.streams, slot.websockets = count, 1, 1
    plane.peers.workers = [first, second]


async def test_the_status_speaks_for_all_workers_of_the_host(client, plane):
    two_workers(plane)

    body = await (await client.get("/v1/status")).json()

    fits(body, "Status")
    assert {name: body[name] for name in ("fleet", "active", "previous", "epoch", "revision", "version")} == {
        "fleet": "agents",
        "active": "blue",
        "previous": None,
        "epoch": 1,
        "revision": 1,
        "version": "9.9.9",
    }
    assert list(body["colors"]) == ["blue", "green", "violet"]
    blue, green, violet = body["colors"].values()
    assert (blue["release"], blue["phase"], blue["active"]) == ("v1", "active", True)
    assert (blue["in_flight"], blue["streams"], blue["websockets"]) == (5, 2, 2)
    assert blue["upstreams"] == [
        {
            "url": "http://127.0.0.1:9101",
            "healthy": True,
            "reason": "",
            "in_flight": 5,
            "open": 7,
            "idle": 2,
            "failures": 0,
        }
    ]
    assert (green["upstreams"][0]["healthy"], green["upstreams"][0]["reason"]) == (False, "refused")
    assert (violet["release"], violet["phase"], violet["upstreams"]) == (None, None, [])
    assert [node["id"] for node in body["nodes"]] == ["here-1", "here-2"]
    assert body["nodes"][1]["in_flight"] == {"blue": 3}
    assert body["store"] == {"state": "up", "kind": "memory", "age": 0.0, **NOTHING_TOLD}


async def test_other_hosts_count_once_and_this_one_s_report_in_the_store_not_again(client, plane):
    two_workers(plane)
    await plane.store.beat(NodeReport("here-1", "here", 1, "0", 1, in_flight={"blue": 100}))
    await plane.store.beat(
        NodeReport("there-1", "there", 7, "0", 1, in_flight={"blue": 10, "green": 1}, streams={"blue": 4})
    )

    body = await (await client.get("/v1/status")).json()

    assert body["colors"]["blue"]["in_flight"] == 15
    assert body["colors"]["blue"]["streams"] == 6
    assert body["colors"]["green"]["in_flight"] == 1
    assert [(node["id"], node["in_flight"].get("blue")) for node in body["nodes"]] == [
        ("here-1", 2),
        ("here-2", 3),
        ("there-1", 10),
    ]
    nodes = await (await client.get("/v1/nodes")).json()
    fits(nodes, "Nodes")
    assert [node["id"] for node in nodes["nodes"]] == ["here-1", "here-2", "there-1"]


@pytest.mark.parametrize("known", [True, False])
async def test_with_the_store_away_the_status_still_answers_for_this_host(client, plane, monkeypatch, known):
    two_workers(plane)
    asked = []

    async def away() -> list[NodeReport]:
        asked.append(1)
        raise StoreUnavailable("nobody answers")

    monkeypatch.setattr(plane.store, "nodes", away)
    plane.mirror.connected = not known
    plane.peers.workers[0][1]["store"].update(state="down", age=7.5)

    answer = await client.get("/v1/status")

    body = await answer.json()
    assert answer.status == 200
    assert body["colors"]["blue"]["in_flight"] == 5
    assert body["store"] == {"state": "degraded", "kind": "memory", "age": 7.5, **NOTHING_TOLD}
    assert asked == ([] if known else [1])  # not even the time-out is waited for where it is known to be away
    plane.peers.workers[1][1]["store"].update(state="down")
    assert (await (await client.get("/v1/status")).json())["store"]["state"] == "down"


async def test_a_worker_that_is_fenced_is_told_everywhere(client, plane):
    two_workers(plane)
    plane.peers.workers[1][1]["store"].update(fenced=True)
    body = await (await client.get("/v1/status")).json()
    fits(body, "Status")
    assert body["store"]["fenced"] == 1
    assert "bgproxy_fenced 1.0" in await (await client.get("/metrics")).text()


async def test_a_conflict_and_a_problem_are_told(client, plane):
    two_workers(plane)
    side = {"revision": 2, "epoch": 2, "active": "green", "previous": "blue", "actor": "a", "reason": "", "at": 1.5}
    conflict = {"kind": "split", "held": side, "found": {**side, "active": "blue"}, "remedy": "Decide"}
    plane.peers.workers[1][1]["store"].update(conflict=conflict, problem="key x cannot be understood")
    body = await (await client.get("/v1/status")).json()
    fits(body, "Status")
    assert (body["store"]["conflict"], body["store"]["problem"]) == (conflict, "key x cannot be understood")


async def test_an_alarm_of_one_worker_is_the_host_s_though_all_hear_the_store(client, plane):
    two_workers(plane)
    plane.peers.workers[1][1]["store"].update(alarm="the store went back")
    body = await (await client.get("/v1/status")).json()
    fits(body, "Status")
    assert (body["store"]["state"], body["store"]["alarm"]) == ("up", "the store went back")
    told = await (await client.get("/metrics")).text()
    assert "bgproxy_store_alarm 1.0" in told
    assert "bgproxy_store_up 1.0" in told


async def test_without_any_worker_s_report_the_mirror_speaks(client, plane):
    plane.peers.workers = []
    plane.mirror.connected = False
    body = await (await client.get("/v1/status")).json()
    assert (body["store"]["state"], body["nodes"]) == ("down", [])


async def test_before_any_pointer_is_known_the_answer_is_503(client, plane):
    plane.mirror.state = None
    for path in ("/v1/status", "/v1/colors", "/v1/colors/blue", "/v1/events"):
        answer = await client.get(path)
        assert (answer.status, (await answer.json())["code"]) == (503, "store_unavailable"), path
    assert (await client.get("/metrics")).status == 200


STAGE = {
    "release": "v3",
    "upstreams": ["HTTP://127.0.0.1:9105/", "unix:/run/agent.sock"],
    "routes": {"chat": ["http://127.0.0.1:9106"]},
    "metadata": {"commit": "abc"},
    "reason": "canary",
}


async def test_staging_puts_a_release_on_an_idle_color(client, plane):
    answer = await client.put("/v1/colors/violet", json=STAGE)

    body = await answer.json()
    assert answer.status == 200
    fits(body, "Staged")
    assert (body["release"], body["phase"], body["origin"], body["epoch"]) == ("v3", "staged", "api", 1)
    assert [one["url"] for one in body["upstreams"]] == [
        "http://127.0.0.1:9105",
        "unix:/run/agent.sock",
        "http://127.0.0.1:9106",
    ]
    assert {one["healthy"] for one in body["upstreams"]} == {None}
    assert body["routes"] == {"chat": ["http://127.0.0.1:9106"]}
    assert body["metadata"] == {"commit": "abc"}
    assert body["changed"] is True
    assert plane.mirror.state.releases["violet"].label == "v3"
    one = await (await client.get("/v1/colors/violet")).json()
    fits(one, "Color")
    assert one["release"] == "v3"


async def test_staging_the_same_again_changes_nothing(client):
    await client.put("/v1/colors/violet", json=STAGE)
    body = await (await client.put("/v1/colors/violet", json=STAGE)).json()
    assert body["changed"] is False


@pytest.mark.parametrize(
    ("color", "change", "status", "words"),
    [
        ("red", {}, 404, "this fleet has blue, green, violet"),
        ("blue", {}, 409, "blue is active"),
        ("violet", {"if_epoch": 5}, 409, "the epoch is 1"),
        ("violet", {"release": "a b"}, 400, "release label 'a b'"),
        ("violet", {"upstreams": ["ftp://x"]}, 400, "'ftp://x' cannot be used"),
        ("violet", {"upstreams": ["http://x/path"]}, 400, "'http://x/path'"),
        ("violet", {"upstreams": [], "routes": {}}, 400, "has no upstreams"),
        ("violet", {"upstreams": "http://x"}, 400, "'upstreams' must be an array"),
        ("violet", {"routes": {"chat": ["http://127.0.0.1:0"]}}, 400, "port 0"),
        ("violet", {"relaese": "v3"}, 400, "did you mean 'release'?"),
        ("violet", {"upstreams": ["http://169.254.169.254:80"]}, 400, "metadata"),
    ],
)
async def test_stagings_that_are_refused(client, plane, color, change, status, words):
    answer = await client.put(f"/v1/colors/{color}", json=STAGE | change)

    problem = await answer.json()
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    assert words in problem["detail"]
    assert plane.mirror.state.revision == 1


async def test_colors_come_in_the_order_of_the_configuration(client):
    body = await (await client.get("/v1/colors")).json()
    fits(body, "Colors")
    assert [one["color"] for one in body["colors"]] == ["blue", "green", "violet"]
    unknown = await client.get("/v1/colors/red")
    assert (unknown.status, (await unknown.json())["code"]) == (404, "unknown_color")


async def test_the_record_comes_in_pages_newest_first(client):
    for to in ("green", "blue", "green"):
        await client.post("/v1/flip", json={"to": to, "reason": f"to {to}"})

    first = await (await client.get("/v1/audit?limit=3")).json()
    rest = await (await client.get(f"/v1/audit?limit=3&before={first['next']}")).json()

    fits(first, "Audit")
    assert [entry["epoch"] for entry in first["entries"]] == [4, 3, 2]
    free = {"id": "", "at": 0.0, "facts": {}, "prev": "", "hash": ""}
    assert first["entries"][0] | free == {
        **free,
        "verb": "flip",
        "actor": "admin@loopback",
        "reason": "to green",
        "epoch": 4,
        "revision": 4,
        "seq": 4,
    }
    assert [entry["verb"] for entry in rest["entries"]] == ["bootstrap"]
    assert rest["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "befor=1", "before=x"])
async def test_queries_that_are_refused(client, query):
    answer = await client.get(f"/v1/audit?{query}")
    assert (answer.status, (await answer.json())["code"]) == (400, "bad_input")


async def test_readiness_is_what_the_process_says(client, plane):
    ready = await client.get("/readyz")
    assert (ready.status, await ready.json()) == (200, {"ready": True, "degraded": False})
    fits(await ready.json(), "Ready")

    plane.ready = (False, {"draining": True})
    unready = await client.get("/readyz")

    problem = await unready.json()
    assert (unready.status, problem["code"], problem["draining"], problem["ready"]) == (503, "not_serving", True, False)
    assert unready.headers["Retry-After"]
    alive = await client.get("/livez")
    assert (alive.status, await alive.json()) == (200, {"alive": True})


async def test_head_answers_like_get_without_a_body(client):
    for path in ("/livez", "/readyz", "/v1/status", "/metrics"):
        answer = await client.head(path)
        assert (answer.status, await answer.read()) == (200, b""), path
    assert (await client.head("/v1/events")).status == 405


async def test_many_callers_at_once(client, plane):
    two_workers(plane)
    answers = await asyncio.gather(*(client.get("/v1/status") for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
