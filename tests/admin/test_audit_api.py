"""`/v1/audit` in both directions and `/v1/audit/verify`: as the OpenAPI document says it, also of a broken record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from admin_plane import OPERATOR, TOKENS, VIEWER, bearer

from bgproxy.admin.shapes import ANSWERS


def fits(document: Any, name: str) -> None:
    jsonschema.validate(document, {"$ref": f"#/components/schemas/{name}", "components": {"schemas": ANSWERS}})


async def flipped(client: Any, times: int) -> None:
    for number in range(times):
        await client.post("/v1/flip", json={"to": ("green", "blue")[number % 2]})


async def test_the_record_oldest_first_page_by_page(client):
    await flipped(client, 4)
    found: list[Any] = []
    after = "0"
    while after is not None:
        page = await (await client.get(f"/v1/audit?limit=2&after={after}")).json()
        fits(page, "Audit")
        found += page["entries"]
        after = page["next"]
    newest_first = (await (await client.get("/v1/audit")).json())["entries"]
    assert [entry["seq"] for entry in found] == [1, 2, 3, 4, 5]
    assert found == newest_first[::-1]


@pytest.mark.parametrize("query", ["after=x", "after=", "after=0&before=1", "after=1-1"])
async def test_a_place_that_is_none(client, query):
    answer = await client.get(f"/v1/audit?{query}")
    assert (answer.status, (await answer.json())["code"]) == (400, "bad_input")


async def test_an_intact_record(client):
    await flipped(client, 3)
    report = await (await client.get("/v1/audit/verify")).json()
    newest = (await (await client.get("/v1/audit?limit=1")).json())["entries"][0]
    fits(report, "AuditReport")
    assert report == {
        "intact": True,
        "entries": 4,
        "first": 1,
        "last": 4,
        "head": newest["hash"],
        "anchor": "",
        "before": 0,
        "fault": None,
    }


async def test_a_record_that_was_edited_names_the_entry(client, plane):
    await flipped(client, 3)
    plane.store._audit[2] = replace(plane.store._audit[2], actor="eve")
    answer = await client.get("/v1/audit/verify")
    report = await answer.json()
    fits(report, "AuditReport")
    assert (answer.status, report["intact"]) == (200, False)
    assert (report["fault"]["kind"], report["fault"]["seq"], report["fault"]["id"]) == ("edited", 3, "3")


async def test_a_head_that_was_kept(client):
    await flipped(client, 2)
    kept = (await (await client.get("/v1/audit/verify")).json())["head"]
    await flipped(client, 2)
    report = await (await client.get(f"/v1/audit/verify?head={kept}")).json()
    assert (report["intact"], report["head"] != kept) == (True, True)
    report = await (await client.get(f"/v1/audit/verify?head={'ab' * 32}")).json()
    fits(report, "AuditReport")
    assert (report["intact"], report["fault"]["kind"], report["fault"]["seq"]) == (False, "missing", None)
    assert (await client.get("/v1/audit/verify?head=ab")).status == 400


async def test_who_may_look(connect):
    client = await connect(tokens=TOKENS)
    assert (await client.get("/v1/audit/verify")).status == 401
    assert (await client.get("/v1/audit/verify", headers=bearer(VIEWER))).status == 200


async def test_the_actor_is_the_tokens_name_whatever_the_body_says(connect, plane):
    client = await connect(tokens=TOKENS)
    await client.post("/v1/flip", json={"to": "green"}, headers=bearer(OPERATOR))
    refused = await client.post("/v1/rollback", json={"actor": "ada"}, headers=bearer(OPERATOR))
    assert refused.status == 400
    newest = (await (await client.get("/v1/audit?limit=1", headers=bearer(VIEWER))).json())["entries"][0]
    assert newest["actor"] == "deploy"
