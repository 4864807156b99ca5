"""`Idempotency-Key` on flip, rollback and stage: one change, one answer, however often it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.admin import once as once_module
from bgproxy.errors import StoreUnavailable
from bgproxy.store.base import Replicas

KEY = {"Idempotency-Key": '"4f1b6c9e"'}
STAGE = {"release": "v3", "upstreams": ["http://127.0.0.1:9103"], "metadata": {"commit": "abc"}}


def replayed(answer: Any) -> bool:
    return answer.headers.get("Idempotency-Replayed") == "true"


async def verbs(client: Any) -> list[str]:
    entries = (await (await client.get("/v1/audit")).json())["entries"]
    return [entry["verb"] for entry in entries][::-1]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/flip", {"to": "green", "reason": "v2"}),
        ("POST", "/v1/flip", {"to": "blue"}),
        ("POST", "/v1/rollback", {}),
        ("PUT", "/v1/colors/violet", STAGE),
    ],
)
async def test_a_retry_gets_the_first_answer_to_the_letter(client, plane, method, path, body):
    if path == "/v1/rollback":
        await client.post("/v1/flip", json={"to": "green"})
    first = await client.request(method, path, json=body, headers=KEY)
    assert (first.status, replayed(first), first.content_type) == (200, False, "application/json")
    await plane.ledger.flip("green", actor="ada", reason="")  # where it is not active already
    standing, asked = plane.mirror.state, len(plane.switch.asked)
    for spelling in (KEY, {"Idempotency-Key": "4f1b6c9e"}):
        again = await client.request(method, path, json=body, headers=spelling)
        assert (again.status, replayed(again)) == (200, True)
        assert await again.read() == await first.read()
    assert (plane.mirror.state, len(plane.switch.asked)) == (standing, asked), "nothing is tried before it is looked up"


async def test_without_a_key_nothing_is_remembered(client, plane):
    await plane.ledger.flip("green", actor="ada", reason="")
    for epoch in (3, 4, 5):
        answer = await client.post("/v1/rollback")
        assert ((await answer.json())["epoch"], replayed(answer)) == (epoch, False)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/flip", {"to": "blue"}),
        ("POST", "/v1/flip", {"to": "green", "reason": "another"}),
        ("POST", "/v1/rollback", {"to": "green"}),
        ("POST", "/v1/rollback", {}),
        ("PUT", "/v1/colors/violet", STAGE),
    ],
)
async def test_the_key_of_another_request_is_refused_and_named(client, plane, method, path, body):
    await client.post("/v1/flip", json={"to": "green"}, headers=KEY)
    answer = await client.request(method, path, json=body, headers=KEY)
    problem = await answer.json()
    if body == {"to": "green"}:
        assert answer.status == 400, "what cannot be understood is told first"
        return
    assert (answer.status, problem["code"], problem["type"]) == (422, "key_reused", "urn:bgproxy:problem:key_reused")
    assert "4f1b6c9e" in problem["detail"]
    assert plane.mirror.state.revision == 2


@pytest.mark.parametrize(
    "value", ["", '""', '"a', 'a"', '"a";b=1', "a,b", '"a\\"b"', '"ü"', "a b", '"' + "x" * 256 + '"']
)
async def test_a_key_that_is_none(client, plane, value):
    answer = await client.post("/v1/flip", json={"to": "green"}, headers={"Idempotency-Key": value})
    assert (answer.status, (await answer.json())["code"]) == (400, "bad_input")
    assert plane.mirror.state.revision == 1


async def test_the_key_of_another_color_is_another_requests(client):
    assert (await client.put("/v1/colors/violet", json=STAGE, headers=KEY)).status == 200
    assert (await client.put("/v1/colors/green", json=STAGE, headers=KEY)).status == 422


async def test_the_answer_of_a_twin_that_was_faster_is_the_answer(client, plane, monkeypatch):
    straight = plane.store.keep

    async def faster(key: str, done: Any) -> Any:
        await straight(key, replace(done, body='{"epoch": 2, "twin": true}'))
        return await straight(key, done)

    monkeypatch.setattr(plane.store, "keep", faster)
    answer = await client.post("/v1/flip", json={"to": "green"}, headers=KEY)
    assert await answer.json() == {"epoch": 2, "twin": True}


async def test_two_keys_are_none(client):
    fields = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    assert (await client.post("/v1/flip", json={"to": "green"}, headers=fields)).status == 400


async def test_many_at_once_do_it_once_and_say_the_same(client, plane):
    await client.post("/v1/flip", json={"to": "green"})
    answers = await asyncio.gather(*(client.post("/v1/rollback", headers=KEY) for _ in range(12)))
    assert {answer.status for answer in answers} == {200}
    assert sum(not replayed(answer) for answer in answers) == 1
    assert len({await answer.read() for answer in answers}) == 1
    assert plane.mirror.state.pointer.epoch == 3


async def test_a_refusal_is_judged_anew(client, plane):
    refused = await client.post("/v1/flip", json={"to": "violet"}, headers=KEY)
    assert (refused.status, replayed(refused)) == (409, False)
    await client.put("/v1/colors/violet", json=STAGE)
    forced = await client.post("/v1/flip", json={"to": "violet", "force": True}, headers=KEY)
    assert (forced.status, replayed(forced)) == (200, False)


async def test_an_answer_that_was_lost_with_its_store_is_told_by_the_retry(client, plane, monkeypatch):
    straight = plane.store.commit

    async def lossy(*given: Any, **terms: Any) -> Any:
        await straight(*given, **terms)
        raise StoreUnavailable("no answer; whether the change was made is not known")

    monkeypatch.setattr(plane.store, "commit", lossy)
    assert (await client.post("/v1/flip", json={"to": "green"}, headers=KEY)).status == 503
    monkeypatch.setattr(plane.store, "commit", straight)
    answers = [await client.post("/v1/flip", json={"to": "green"}, headers=KEY) for _ in range(2)]
    assert [(answer.status, replayed(answer)) for answer in answers] == [(200, True)] * 2
    assert await answers[0].read() == await answers[1].read()
    body = await answers[0].json()
    assert (body["active"], body["previous"], body["epoch"], body["changed"]) == ("green", "blue", 2, True)
    assert await verbs(client) == ["bootstrap", "flip"]


async def test_an_answer_that_cannot_be_kept_goes_out_all_the_same(client, plane, monkeypatch, caplog):
    async def away(*_: Any) -> Any:
        raise StoreUnavailable("nobody answers")

    monkeypatch.setattr(plane.store, "keep", away)
    answer = await client.post("/v1/flip", json={"to": "green"}, headers=KEY)
    assert (answer.status, (await answer.json())["epoch"]) == (200, 2)
    assert "is not kept" in caplog.text


async def test_a_store_that_is_away_does_nothing_unasked(client, plane, monkeypatch):
    async def away(*_: Any) -> Any:
        raise StoreUnavailable("nobody answers")

    monkeypatch.setattr(plane.store, "recall", away)
    assert (await client.post("/v1/flip", json={"to": "green"}, headers=KEY)).status == 503
    assert plane.mirror.state.revision == 1


async def test_a_long_answer_is_told_anew(client, plane, monkeypatch):
    monkeypatch.setattr(once_module, "BODY_BYTES", 10)
    first = await (await client.put("/v1/colors/violet", json=STAGE, headers=KEY)).json()
    answer = await client.put("/v1/colors/violet", json=STAGE, headers=KEY)
    again = await answer.json()
    assert replayed(answer)
    now = {"took_ms": 0, "double_running": None}
    assert {**again, **now} == {**first, **now}
    assert await verbs(client) == ["bootstrap", "stage"]


@pytest.mark.parametrize("fields", [{}, {"Idempotency-Key": "job-4711"}])
async def test_how_many_replicas_have_it_is_told_where_they_were_waited_for(client, plane, monkeypatch, fields):
    commit = plane.store.commit

    async def waiting(*arguments, **named):
        state, entry = await commit(*arguments, **named)
        return state, replace(entry, replicas=Replicas(0, 1))

    monkeypatch.setattr(plane.store, "commit", waiting)
    answers = [await client.post("/v1/flip", json={"to": "green"}, headers=fields) for _ in range(1 + len(fields))]
    for answer in answers:  # a retry is told what was true the first time
        assert (await answer.json())["replicas"] == {"have": 0, "wanted": 1}
    staged = await client.put("/v1/colors/blue", json={**STAGE, "force": True})
    assert (await staged.json())["replicas"]["wanted"] == 1
