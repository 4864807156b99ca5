"""`POST /v1/flip` and `/v1/rollback`: the answers that the issue fixes, and every refusal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.rules.release import Event


async def test_a_flip_answers_with_the_pointer_and_the_time_it_took(client, plane):
    answer = await client.post("/v1/flip", json={"to": "green", "reason": "v2"})

    assert answer.status == 200
    body = await answer.json()
    assert body.pop("took_ms") >= 0
    assert body == {"active": "green", "previous": "blue", "epoch": 2, "changed": True}
    assert plane.mirror.state.pointer.active == "green"
    assert plane.switch.asked == [
        {
            "to": "green",
            "actor": "admin@loopback",
            "reason": "v2",
            "if_epoch": None,
            "force": False,
            "once": None,
            "strategy": None,
            "exclude": (),
        }
    ]


async def test_a_flip_to_the_active_color_changes_nothing_and_says_so(client, plane):
    answer = await client.post("/v1/flip", json={"to": "blue"})

    body = await answer.json()
    assert answer.status == 200
    assert (body["changed"], body["epoch"], body["active"]) == (False, 1, "blue")
    assert "blue is the active color already" in body["detail"]


async def test_a_rollback_goes_back(client):
    await client.post("/v1/flip", json={"to": "green"})

    answer = await client.post("/v1/rollback")

    body = await answer.json()
    assert (answer.status, body["active"], body["previous"], body["epoch"]) == (200, "blue", "green", 3)


async def test_the_terms_of_a_change_reach_the_switch(client, plane):
    await client.post("/v1/flip", json={"to": "green", "if_epoch": 1, "force": True, "reason": "now"})
    await client.post("/v1/rollback", json={"if_epoch": 2, "force": True, "reason": "back"})

    flip, rollback = plane.switch.asked
    assert (flip["if_epoch"], flip["force"], flip["reason"]) == (1, True, "now")
    assert (rollback["if_epoch"], rollback["force"], rollback["reason"]) == (2, True, "back")


async def test_a_stale_epoch_is_told_the_one_that_stands(client, plane):
    answer = await client.post("/v1/flip", json={"to": "green", "if_epoch": 7})

    problem = await answer.json()
    assert answer.status == 409
    assert answer.content_type == "application/problem+json"
    assert (problem["code"], problem["epoch"], problem["active"]) == ("stale_epoch", 1, "blue")
    assert plane.mirror.state.pointer.epoch == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        ("/v1/flip", {"to": "red"}, 404, "unknown_color", "blue, green, violet"),
        ("/v1/flip", {"to": "violet"}, 409, "not_ready", "no release"),
        ("/v1/rollback", {}, 409, "refused", "nothing to roll back to"),
        ("/v1/flip", {}, 400, "bad_input", "'to' is missing"),
        ("/v1/flip", {"too": "green"}, 400, "bad_input", "did you mean 'to'?"),
        ("/v1/flip", {"to": "green", "if_epoc": 1}, 400, "bad_input", "did you mean 'if_epoch'?"),
        ("/v1/flip", {"to": "green", "x": 1}, 400, "bad_input", "known are to, reason, if_epoch, force"),
        ("/v1/flip", {"to": 1}, 400, "bad_input", "'to' must be a string, it is an integer"),
        ("/v1/flip", {"to": "green", "if_epoch": "1"}, 400, "bad_input", "'if_epoch' must be an integer"),
        ("/v1/flip", {"to": "green", "if_epoch": True}, 400, "bad_input", "it is a boolean"),
        ("/v1/flip", {"to": "green", "if_epoch": 1.5}, 400, "bad_input", "no integer"),
        ("/v1/flip", {"to": "green", "if_epoch": None}, 400, "bad_input", "it is null"),
        ("/v1/flip", {"to": "green", "if_epoch": -1}, 400, "bad_input", "at least 0"),
        ("/v1/flip", {"to": "green", "force": "yes"}, 400, "bad_input", "'force' must be a boolean"),
        ("/v1/flip", {"to": "green", "reason": "x" * 1001}, 400, "bad_input", "at most 1000 characters"),
        ("/v1/flip", ["green"], 400, "bad_input", "the body must be an object, it is an array"),
    ],
)
async def test_refusals(client, plane, path: str, body: Any, status: int, code: str, words: str):
    answer = await client.post(path, json=body)

    problem = await answer.json()
    assert (answer.status, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"urn:bgproxy:problem:{code}"
    assert words in problem["detail"]
    assert answer.content_type == "application/problem+json"
    assert plane.mirror.state.pointer.epoch == 1


async def test_force_goes_to_an_unready_release_and_is_on_record(client, plane):
    await plane.ledger.step("green", "v2", Event.FAILED, actor="gate", reason="it failed")
    refused = await client.post("/v1/flip", json={"to": "green"})
    forced = await client.post("/v1/flip", json={"to": "green", "force": True})

    assert (refused.status, (await refused.json())["code"]) == (409, "not_ready")
    assert forced.status == 200
    newest = (await (await client.get("/v1/audit")).json())["entries"][0]
    assert newest["verb"] == "flip"
    assert "rejected" in str(newest["facts"]["forced"])


async def test_a_store_that_is_away_answers_503_with_a_time_to_come_back(client, plane, monkeypatch):
    async def away() -> None:
        raise StoreUnavailable("nobody answers")

    monkeypatch.setattr(plane.store, "read", away)

    answer = await client.post("/v1/flip", json={"to": "green"})

    assert (answer.status, (await answer.json())["code"]) == (503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert plane.mirror.state.pointer.active == "blue"


async def test_what_nobody_foresaw_is_a_500_that_tells_nothing(client, plane, caplog):
    async def broken(*args: Any, **terms: Any) -> None:
        raise RuntimeError("secret detail")

    plane.switch.flip = broken

    answer = await client.post("/v1/flip", json={"to": "green"})

    text = await answer.text()
    assert (answer.status, (await answer.json())["code"]) == (500, "internal")
    assert "secret detail" not in text
    assert "secret detail" in caplog.text


async def test_a_client_that_leaves_does_not_stop_a_flip_half_way(client, plane):
    begun, go, flipped = asyncio.Event(), asyncio.Event(), asyncio.Event()
    plane.mirror.listen(lambda state: flipped.set())
    straight = plane.switch.flip

    async def slow(to: str, **terms: Any) -> Any:
        begun.set()
        await go.wait()
        return await straight(to, **terms)

    plane.switch.flip = slow
    call = asyncio.ensure_future(client.post("/v1/flip", json={"to": "green"}))
    await begun.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    go.set()

    await flipped.wait()
