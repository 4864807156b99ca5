"""What holds a color: told for all nodes, and nothing is called drained that somebody still holds."""

from __future__ import annotations

from typing import Any

import pytest
from admin_plane import Plane, worker
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
    await plane.store.beat(there)

    body = await ask(client)

    assert kinds(body) == [("sessions", None, 2), ("in_flight", "there-1", 10), ("in_flight", "here-1", 2)]
    assert body["blockers"][1]["detail"] == "in flight on there-1: 10 (streams 4, WebSockets 3)"
    assert (body["drained"], body["release"], body["phase"]) == (False, "v1", "standby")
    assert (body["sessions"], body["in_flight"], body["streams"], body["websockets"]) == (2, 12, 5, 3)
    (row,) = (await (await client.get("/v1/sessions/stats")).json())["releases"]
    assert body["last_expires"] == row["last_expires"]


async def test_a_node_that_has_not_heard_of_the_flip(client, plane):
    await leave_blue(plane)
    await plane.store.beat(NodeReport("there-1", "there", 7, "0", 1))
    body = await ask(client)
    assert (kinds(body), body["drained"]) == ([("node", "there-1", 0)], False)


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
