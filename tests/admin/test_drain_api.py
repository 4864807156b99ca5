"""What holds a color: told for all nodes, and nothing is called drained that somebody still holds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from admin_plane import Plane, hear_nothing, worker
from jsonschema import Draft202012Validator

from bgproxy.admin.shapes import ANSWERS
from bgproxy.errors import StoreUnavailable
from bgproxy.rules.release import Event
from bgproxy.store.base import NodeReport
from bgproxy.store.pinning import Want


async def ask(client: Any, color: str = "blue") -> dict[str, Any]:
    answer = await client.get(f"/v1/colors/{color}/drain")
    body: dict[str, Any] = await answer.json()
    assert answer.status == 200
    Draft202012Validator({**ANSWERS["Drain"], "components": {"schemas": ANSWERS}}).validate(body)
    return body


def kinds(body: dict[str, Any]) -> list[tuple[str, str | None, int]]:
    return [(one["kind"], one["node"], one["count"]) for one in body["blockers"]]


def here(plane: Plane, epoch: int, in_flight: int = 0, streams: int = 0) -> None:
    metrics, facts = worker("here-1")
    facts["node"] = NodeReport(id="here-1", host="here", pid=1, version="0", epoch=epoch)
    slot = metrics.slot("chat", "blue", "v1")
    slot.in_flight, slot.streams = in_flight, streams
    plane.peers.workers = [(metrics, facts)]


async def leave_blue(plane: Plane, *sessions: bytes) -> None:
    if sessions:
        await plane.store.pins.resolve([Want((key,), "chat", "mcp", 600.0) for key in sessions])
    await plane.ledger.flip("green", actor="test", reason="")
    here(plane, 2)


async def test_a_color_that_is_active_takes_new_sessions(client):
    body = await ask(client)
    assert (body["active"], body["drained"], kinds(body)) == (True, False, [("active", None, 0)])
    assert "flip to another color first" in body["blockers"][0]["detail"]


async def test_what_holds_it_over_all_nodes(client, plane):
    await leave_blue(plane, b"a" * 16, b"b" * 16)
    here(plane, 2, in_flight=2, streams=1)
    there = NodeReport("there-1", "there", 7, "0", 2, {"blue": 10, "green": 1}, {"blue": 4}, {"blue": 3})
    await plane.store.beat(replace(there, oldest={"blue": 61.4, "green": 900.0}))

    body = await ask(client)

    assert kinds(body) == [("in_flight", "there-1", 10), ("sessions", None, 2), ("in_flight", "here-1", 2)]
    assert body["blockers"][0]["detail"] == "in flight on there-1: 10 (streams 4, WebSockets 3, the oldest for 61 s)"
    assert [one["oldest"] for one in body["blockers"]] == [61.4, None, None]
    assert (body["oldest"], body["deadline"], body["seconds_left"], body["ended"]) == (61.4, None, None, False)
    assert (body["drained"], body["release"], body["phase"]) == (False, "v1", "standby")
    assert (body["sessions"], body["in_flight"], body["streams"], body["websockets"]) == (2, 12, 5, 3)
    (row,) = (await (await client.get("/v1/sessions/stats")).json())["releases"]
    assert body["last_expires"] == row["last_expires"]


async def test_a_node_that_has_not_heard_of_the_flip(client, plane):
    await leave_blue(plane)
    await plane.store.beat(NodeReport("there-1", "there", 7, "0", 1))
    body = await ask(client)
    assert (kinds(body), body["drained"]) == ([("node", "there-1", 0)], False)


async def test_a_silent_node_holds_it_by_what_it_said_last_and_may_be_forgotten(client, plane):
    await leave_blue(plane)
    await plane.store.beat(NodeReport("there-1", "there", 7, "0", 1, {"blue": 3}))
    hear_nothing(plane, 75.0)
    body = await ask(client)
    assert kinds(body) == [("in_flight", "there-1", 3), ("node", "there-1", 0)]
    remedy = "; it was last heard 75 s ago: if it is gone for good, `bgproxy nodes forget there-1`"
    assert all(one["detail"].endswith(remedy) for one in body["blockers"])
    await client.delete("/v1/nodes/there-1")
    assert kinds(await ask(client)) == [("phase", None, 0)]


async def test_it_is_drained_when_its_phase_says_so(client, plane):
    await leave_blue(plane)
    body = await ask(client)
    assert (kinds(body), body["drained"]) == ([("phase", None, 0)], False)
    await plane.ledger.step("blue", "v1", Event.DRAINED, actor="test", reason="")
    body = await ask(client)
    assert (body["phase"], body["blockers"], body["drained"]) == ("drained", [], True)
    assert (body["sessions"], body["last_expires"]) == (0, None)


async def test_a_session_that_was_moved_back_by_hand_holds_it(client, plane):
    await leave_blue(plane)
    await plane.ledger.step("blue", "v1", Event.DRAINED, actor="test", reason="")
    [found] = await plane.store.pins.resolve([Want((b"c" * 16,), "chat", "mcp", 600.0)])
    await plane.ledger.move_session(found.pin.id, "blue", actor="test", reason="")
    await plane.store.pins.move(found.pin.id)
    body = await ask(client)
    assert (kinds(body), body["drained"]) == ([("sessions", None, 1)], False)


@pytest.mark.parametrize("color", ["green", "violet"])
async def test_what_never_took_traffic_is_held_by_nobody(client, plane, color):
    here(plane, 1)
    body = await ask(client, color)
    assert (body["drained"], body["blockers"]) == (True, [])


async def test_while_the_store_is_away_nobody_knows(client, plane, monkeypatch):
    async def away() -> Any:
        raise StoreUnavailable("away")

    await leave_blue(plane)
    monkeypatch.setattr(plane.store.pins, "counts", away)
    body = await ask(client)
    assert (kinds(body), body["sessions"], body["drained"]) == ([("store", None, 0)], None, False)


async def test_a_color_that_is_none(client):
    answer = await client.get("/v1/colors/red/drain")
    assert (answer.status, (await answer.json())["code"]) == (404, "unknown_color")


async def order(client: Any, seconds: float | None, color: str = "blue", **more: Any) -> tuple[int, dict[str, Any]]:
    answer = await client.post(f"/v1/colors/{color}/drain", json={"deadline": seconds, **more})
    body: dict[str, Any] = await answer.json()
    schema = ANSWERS["DrainChanged" if answer.status == 200 else "Problem"]
    Draft202012Validator({**schema, "components": {"schemas": ANSWERS}}).validate(body)
    return answer.status, body


async def test_a_deadline_is_set_moved_and_cancelled_and_each_is_on_record(client, plane):
    await leave_blue(plane, b"a" * 16)
    status, body = await order(client, 600, reason="v1 is old")
    assert (status, body["changed"], body["ended"], body["sessions"]) == (200, True, False, 1)
    assert body["deadline"] == pytest.approx(time.time() + 600, abs=30)
    assert 570 < body["seconds_left"] <= 600
    _, body = await order(client, 30.5)
    assert 0 < body["seconds_left"] <= 30.5
    assert (await ask(client))["deadline"] == body["deadline"]
    _, body = await order(client, None, reason="wait")
    assert (body["changed"], body["deadline"], body["seconds_left"]) == (True, None, None)
    _, body = await order(client, None)
    assert body["changed"] is False
    entries = [entry for entry in await plane.ledger.audit(limit=9) if entry.verb == "drain"]
    assert [(entry.facts.get("deadline"), entry.reason) for entry in entries] == [
        (None, "wait"),
        (30.5, ""),
        (600, "v1 is old"),
    ]


async def test_once_it_has_passed_its_sessions_hold_nothing(client, plane):
    await leave_blue(plane, b"a" * 16, b"b" * 16)
    here(plane, 2, in_flight=1)
    _, body = await order(client, 0)
    assert (body["seconds_left"], body["ended"], body["sessions"]) == (0.0, False, 2)
    terms: dict[str, Any] = {"actor": "bgproxy", "reason": "", "evidence": {"sessions": 2}}
    await plane.ledger.end_sessions("blue", "v1", at=body["deadline"], **terms)
    body = await ask(client)
    assert (body["ended"], body["sessions"], body["last_expires"], body["seconds_left"]) == (True, 0, None, 0.0)
    assert kinds(body) == [("in_flight", "here-1", 1)]
    status = await (await client.get("/v1/status")).json()
    assert status["colors"]["blue"]["sessions"] == 0
    refused, problem = await order(client, 60)
    assert (refused, problem["code"]) == (409, "refused")
    assert "ended already" in problem["detail"]


@pytest.mark.parametrize(
    ("color", "status", "words"),
    [("green", 409, "green is active"), ("violet", 409, "has no release"), ("pink", 404, "no color 'pink'")],
)
@pytest.mark.parametrize("seconds", [None, 5])
async def test_where_nothing_drains_there_is_no_deadline(client, plane, color, status, words, seconds):
    await leave_blue(plane)
    found, body = await order(client, seconds, color)
    assert found == status
    assert words in body["detail"]


@pytest.mark.parametrize("body", [{}, {"deadline": -1}, {"deadline": "5"}, {"deadline": 5, "seconds": 5}])
async def test_what_is_no_order(client, plane, body):
    await leave_blue(plane)
    answer = await client.post("/v1/colors/blue/drain", json=body)
    assert answer.status == 400


async def test_the_seconds_left_are_told_without_the_store_too(client, plane, monkeypatch):
    async def away() -> Any:
        raise StoreUnavailable("away")

    await leave_blue(plane)
    await order(client, 60)
    monkeypatch.setattr(plane.store, "now", away)
    assert 0 < (await ask(client))["seconds_left"] <= 61
