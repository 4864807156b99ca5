"""Sessions over HTTP: pages, one, the counts; and a hand on single ones, on record."""

from __future__ import annotations

from typing import Any

import pytest
from admin_plane import OPERATOR, TOKENS, Plane, bearer, worker
from jsonschema import Draft202012Validator

from bgproxy.admin import sessions
from bgproxy.admin.shapes import ANSWERS
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.pin import Pin
from bgproxy.store.base import NodeReport
from bgproxy.store.pinning import Learned, Turn, Want


def fits(value: Any, name: str) -> None:
    """The answer is what the OpenAPI document says of it."""
    schema = {**ANSWERS[name], "components": {"schemas": ANSWERS}}
    Draft202012Validator(schema).validate(value)


def key(name: str) -> bytes:
    return name.encode().rjust(16, b"-")


async def on_blue(plane: Plane, *names: str) -> Pin:
    """A session by the pointer."""
    [found] = await plane.store.pins.resolve([Want(tuple(map(key, names)), "chat", "mcp", 600.0, 3_600.0)])
    return found.pin


async def on_green(plane: Plane, name: str, release: str = "v2") -> Pin:
    """A session that an agent has begun, at a place of its own."""
    one = Learned((key(name),), None, "green", release, "http://127.0.0.1:9102", 1, "chat", "a2a", 600.0)
    [found] = await plane.store.pins.learn([one])
    return found.pin


async def record(plane: Plane) -> list[tuple[str, str, dict[str, Any]]]:
    entries = await plane.ledger.audit(limit=50)
    return [(one.actor, one.reason, dict(one.facts)) for one in entries if one.verb == "session"]


async def test_sessions_come_in_pages(client, plane):
    pins = [await on_blue(plane, f"s{number}") for number in range(5)]
    green = await on_green(plane, "g")
    seen: list[str] = []
    cursor, pages = "", 0
    while True:
        page = await (await client.get(f"/v1/sessions?limit=2&cursor={cursor}")).json()
        fits(page, "Sessions")
        assert len(page["sessions"]) <= 2
        seen += [one["id"] for one in page["sessions"]]
        pages += 1
        if page["next"] is None:
            break
        cursor = page["next"]
    assert sorted(seen) == sorted(pin.id.hex() for pin in (*pins, green))
    assert pages >= 3


async def test_sessions_of_one_color(client, plane):
    await on_blue(plane, "b")
    await on_green(plane, "g")
    page = await (await client.get("/v1/sessions?color=green")).json()
    assert [one["color"] for one in page["sessions"]] == ["green"]
    assert page["next"] is None


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("color=red", 404, "this fleet has blue, green, violet"),
        ("limit=0", 400, "'limit' must be at least 1"),
        ("limit=1001", 400, "'limit' must be at most 1000"),
        ("cursor=no", 400, "cursor"),
        ("colour=blue", 400, "did you mean 'color'?"),
    ],
)
async def test_pages_that_are_refused(client, query, status, words):
    answer = await client.get(f"/v1/sessions?{query}")
    assert answer.status == status
    assert words in (await answer.json())["detail"]


async def test_one_session_by_any_of_its_keys(client, plane):
    pin = await on_blue(plane, "context", "task")
    for name in ("context", "task"):
        body = await (await client.get(f"/v1/sessions/{key(name).hex().upper()}")).json()
        fits(body, "Session")
        assert body["id"] == pin.id.hex() == key("context").hex()
        assert (body["color"], body["release"], body["stands"], body["upstream"]) == ("blue", "v1", True, None)
        assert (body["preset"], body["route"], body["ttl"], body["max_age"]) == ("mcp", "chat", 600.0, 3_600.0)
        assert 600 <= body["expires"] - body["created"] <= 630


async def test_a_session_of_a_release_that_is_gone(client, plane):
    await on_green(plane, "old", "v0")
    body = await (await client.get(f"/v1/sessions/{key('old').hex()}")).json()
    assert (body["release"], body["stands"], body["upstream"]) == ("v0", False, "http://127.0.0.1:9102")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/move")], ids=["show", "forget", "move"]
)
async def test_ids_that_lead_nowhere(client, plane, method, path):
    body = {"json": {"to": "green"}} if method == "POST" else {}
    for text in ("xyz", "0" * 31, "0" * 33, "g" * 32, "%0A" + "0" * 31):
        answer = await client.request(method, f"/v1/sessions/{text}{path}", **body)
        assert (answer.status, (await answer.json())["code"]) == (400, "bad_input"), text
    answer = await client.request(method, f"/v1/sessions/{'0' * 32}{path}", **body)
    assert (answer.status, (await answer.json())["code"]) == (404, "unknown_session")
    assert await record(plane) == []


async def test_an_operator_moves_a_session_and_it_is_on_record(connect, plane):
    client = await connect(tokens=TOKENS)
    pin = await on_blue(plane, "s")
    asked = {"to": "green", "reason": "try v2"}

    answer = await client.post(f"/v1/sessions/{pin.id.hex()}/move", json=asked, headers=bearer(OPERATOR))

    body = await answer.json()
    assert answer.status == 200
    fits(body, "SessionMoved")
    assert (body["color"], body["release"], body["moves"], body["goal"]) == ("green", "v2", 1, None)
    assert (body["moved"], body["changed"]) == (True, True)
    facts = {"ordered": "move", "id": pin.id.hex(), "from": "blue", "left": "v1", "to": "green", "release": "v2"}
    assert await record(plane) == [("deploy", "try v2", facts)]
    again = await client.post(f"/v1/sessions/{pin.id.hex()}/move", json=asked, headers=bearer(OPERATOR))
    body = await again.json()
    assert (body["moved"], body["changed"]) == (True, False)
    assert plane.moved == [("mcp", "green")]
    assert len(await record(plane)) == 1


async def test_a_busy_session_moves_at_its_next_turn_and_its_goal_is_shown(client, plane, monkeypatch):
    monkeypatch.setattr(sessions, "PATIENCE", 0.05)
    pin = await on_blue(plane, "s")
    await plane.store.beat(NodeReport("one", "host", 1, "0.1", 1))
    await plane.store.pins.applied("one", 1, 2, [Turn(pin.id, 1)])
    goal = {"color": "green", "release": "v2"}
    path = f"/v1/sessions/{pin.id.hex()}"

    body = await (await client.post(f"{path}/move", json={"to": "green"})).json()

    fits(body, "SessionMoved")
    assert (body["color"], body["goal"], body["moved"], body["changed"]) == ("blue", goal, False, True)
    assert (await (await client.get(path)).json())["goal"] == goal
    assert [one["goal"] for one in (await (await client.get("/v1/sessions")).json())["sessions"]] == [goal]
    await plane.store.pins.idle("one", [Turn(pin.id, 1)])
    body = await (await client.post(f"{path}/move", json={"to": "green"})).json()
    assert (body["color"], body["goal"], body["moved"], body["changed"]) == ("green", None, True, False)
    assert len(await record(plane)) == 1


async def test_a_store_that_goes_away_while_a_session_is_moved(client, plane, monkeypatch):
    pin = await on_blue(plane, "s")

    async def away(_: bytes) -> Any:
        raise StoreUnavailable("nobody answers")

    monkeypatch.setattr(plane.store.pins, "move", away)
    answer = await client.post(f"/v1/sessions/{pin.id.hex()}/move", json={"to": "green"})
    assert (answer.status, len(await record(plane))) == (503, 1)
    assert "nobody answers; the order is on record" in (await answer.json())["detail"]


async def test_a_session_that_ends_while_it_is_moved(client, plane, monkeypatch):
    pin = await on_blue(plane, "s")
    move = plane.store.pins.move

    async def late(key: bytes) -> Any:
        await plane.store.pins.end([key])
        return await move(key)

    monkeypatch.setattr(plane.store.pins, "move", late)
    answer = await client.post(f"/v1/sessions/{pin.id.hex()}/move", json={"to": "green"})
    assert (answer.status, (await answer.json())["code"]) == (404, "unknown_session")


async def test_an_order_that_is_taken_back_meanwhile_is_not_waited_for(client, plane, monkeypatch):
    pin = await on_blue(plane, "s")

    async def late(key: bytes) -> Any:
        await plane.ledger.move_session(key, "blue", actor="eve", reason="")
        return pin

    monkeypatch.setattr(plane.store.pins, "move", late)
    body = await (await client.post(f"/v1/sessions/{pin.id.hex()}/move", json={"to": "green"})).json()
    assert (body["color"], body["goal"]) == ("blue", None)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"to": "violet"}, 409, "violet has no release"),
        ({"to": "red"}, 404, "this fleet has blue, green, violet"),
        ({}, 400, "'to' is missing"),
        ({"to": "green", "force": True}, 400, "'force' is not known"),
    ],
)
async def test_moves_that_are_refused(client, plane, asked, status, words):
    pin = await on_blue(plane, "s")
    answer = await client.post(f"/v1/sessions/{pin.id.hex()}/move", json=asked)
    assert answer.status == status
    assert words in (await answer.json())["detail"]
    assert await plane.store.pins.find(pin.id) == pin
    assert await record(plane) == []


async def test_a_session_is_forgotten_and_it_is_on_record(client, plane):
    pin = await on_blue(plane, "context", "task")
    answer = await client.delete(f"/v1/sessions/{key('task').hex()}?reason=stuck")
    body = await answer.json()
    assert answer.status == 200
    fits(body, "Forgotten")
    assert body == {"id": pin.id.hex(), "color": "blue", "release": "v1", "forgotten": True}
    assert await plane.store.pins.find(pin.id) is None
    facts = {"ordered": "forget", "id": pin.id.hex(), "from": "blue", "left": "v1"}
    assert await record(plane) == [("admin@loopback", "stuck", facts)]
    assert (await client.get(f"/v1/sessions/{pin.id.hex()}")).status == 404


async def test_the_counts_of_each_release(client, plane):
    for name in "abc":
        await on_blue(plane, name)
    await on_green(plane, "g")
    await on_green(plane, "old", "v0")

    body = await (await client.get("/v1/sessions/stats")).json()

    fits(body, "SessionStats")
    assert body["live"] == 5
    rows = [(one["color"], one["release"], one["stands"], one["live"]) for one in body["releases"]]
    assert rows == [("blue", "v1", True, 3), ("green", "v0", False, 1), ("green", "v2", True, 1)]
    shown = await (await client.get(f"/v1/sessions/{key('g').hex()}")).json()
    assert body["releases"][2]["last_expires"] == shown["expires"]


async def test_the_stats_tell_what_the_workers_of_the_host_have_counted(client, plane):
    places = {"mcp": {"blue": {"pinned": 2, "learned": 3, "moved": 0, "ended": 1}}}
    trips = {"resolve": {"calls": 4, "failed": 1, "seconds": 0.5}}
    one = {"places": places, "store": trips, "unpinned": {"oversized": 1}, "hits": 7, "gauges": {"waiting": 2}}
    plane.peers.workers = [worker("a", sessions=one), worker("b", sessions=one)]

    body = await (await client.get("/v1/sessions/stats")).json()

    fits(body, "SessionStats")
    host = body["host"]
    assert host["places"] == [
        {"preset": "mcp", "color": "blue", "pinned": 4, "learned": 6, "moved": 0, "ended": 2},
    ]
    assert host["store"] == [{"question": "resolve", "calls": 8, "failed": 2, "seconds": 1.0}]
    assert (host["unpinned"], host["hits"], host["misses"], host["waiting"]) == ({"oversized": 2}, 14, 0, 4)
    text = await (await client.get("/metrics")).text()
    assert 'bgproxy_session_pinned_total{color="blue",preset="mcp"} 4.0' in text


async def test_a_status_counts_the_sessions_of_what_stands(client, plane):
    await on_blue(plane, "a")
    await on_green(plane, "old", "v0")
    colors = (await (await client.get("/v1/status")).json())["colors"]
    assert {name: one["sessions"] for name, one in colors.items()} == {"blue": 1, "green": 0, "violet": 0}
    assert 'bgproxy_sessions{color="green",release="v0"} 1.0' in await (await client.get("/metrics")).text()


@pytest.mark.parametrize("known", [True, False])
async def test_a_store_that_is_away_does_not_fail_the_status(client, plane, monkeypatch, known):
    asked = []

    async def away(*_: Any) -> Any:
        asked.append(1)
        raise StoreUnavailable("nobody answers")

    for verb in ("counts", "page", "look", "find"):
        monkeypatch.setattr(plane.store.pins, verb, away)
    plane.mirror.connected = not known

    answer = await client.get("/v1/status")

    assert answer.status == 200
    assert {one["sessions"] for one in (await answer.json())["colors"].values()} == {None}
    assert asked == ([] if known else [1])  # not even the time-out is waited for where it is known to be away
    assert (await client.get("/metrics")).status == 200
    stats = await (await client.get("/v1/sessions/stats")).json()
    fits(stats, "SessionStats")
    assert (stats["live"], stats["releases"]) == (None, [])
    for path in ("/v1/sessions", f"/v1/sessions/{'0' * 32}"):
        answer = await client.get(path)
        assert (answer.status, (await answer.json())["code"]) == (503, "store_unavailable"), path


async def test_what_was_moved_by_hand_is_no_event(client, plane):
    pin = await on_blue(plane, "s")
    async with client.get("/v1/events") as stream:
        told = b""
        while told.count(b"event:") < 4:
            told += await stream.content.readany()
        await client.post(f"/v1/sessions/{pin.id.hex()}/move", json={"to": "green"})
        await client.post("/v1/flip", json={"to": "green"})
        told = b""
        while b"event: pointer" not in told:
            told += await stream.content.readany()
        assert told.startswith(b"event: pointer\nid: 3\n")
