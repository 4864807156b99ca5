"""A drained release is taken down over HTTP: ordered, looked at, taken back; and what it costs until then."""

from __future__ import annotations

from typing import Any

import pytest
from admin_plane import OPERATOR, TOKENS, VIEWER, Plane, bearer
from jsonschema import Draft202012Validator

from bgproxy.admin.shapes import ANSWERS
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.release import Event

PATH = "/v1/colors/blue/retire"


@pytest.fixture
async def drained(plane: Plane) -> None:
    await plane.ledger.flip("green", actor="test", reason="")
    await plane.ledger.step("blue", "v1", Event.DRAINED, actor="test", reason="")


async def post(client: Any, body: Any, path: str = PATH, **more: Any) -> tuple[int, dict[str, Any]]:
    answer = await client.post(path, json=body, **more)
    document = await answer.json()
    schema = ANSWERS["Retiring" if answer.status == 200 else "Problem"]
    Draft202012Validator({**schema, "components": {"schemas": ANSWERS}}).validate(document)
    return answer.status, document


@pytest.mark.usefixtures("drained")
async def test_it_is_ordered_and_told_until_it_is_retired(client, plane: Plane):
    status, body = await post(client, {"reason": "v2 is good"})
    assert (status, body["changed"], body["phase"]) == (200, True, "drained")
    order = body["retirement"]
    assert (order["actor"], order["reason"], order["leader"], order["forced"]) == (
        "admin@loopback",
        "v2 is good",
        "",
        False,
    )
    cost = body["double_running"]
    assert (cost["replicas"], cost["successor"]) == (1, "v2")
    assert 0 <= cost["replica_hours"] < 1
    assert (await post(client, {}))[1]["changed"] is False
    text = await (await client.get("/metrics")).text()
    assert 'bgproxy_idle_replicas{color="blue",release="v1"} 1.0' in text
    assert 'bgproxy_double_running_replica_seconds{color="blue",release="v1"}' in text
    await plane.retirer.finishes("blue", Finding(Verdict.PASS, "gone"))
    colors = (await (await client.get("/v1/status")).json())["colors"]
    assert (colors["blue"]["phase"], colors["blue"]["retirement"], colors["blue"]["double_running"]) == (
        "retired",
        None,
        None,
    )
    assert "bgproxy_idle_replicas{" not in await (await client.get("/metrics")).text()


@pytest.mark.usefixtures("drained")
async def test_it_is_taken_back(client):
    await post(client, {"when_drained": True})
    status, body = await post(client, {"cancel": True})
    assert (status, body["changed"], body["retirement"]) == (200, True, None)


@pytest.mark.usefixtures("drained")
async def test_what_is_refused_says_why(client, plane: Plane):
    plane.retirer.window = 600.0
    status, body = await post(client, {})
    assert (status, body["code"]) == (409, "refused")
    assert "the rollback window of v1 on blue is open" in body["detail"]
    status, body = await post(client, {"force": True}, "/v1/colors/green/retire")
    assert (status, "green is active and is never retired" in body["detail"]) == (409, True)
    assert (await post(client, {}, "/v1/colors/red/retire"))[0] == 404
    assert (await post(client, {"forced": True}))[0] == 400


@pytest.mark.usefixtures("drained")
async def test_only_an_operator_may(connect):
    client = await connect(tokens=TOKENS)
    assert (await post(client, {}, headers=bearer(VIEWER)))[0] == 403
    assert (await post(client, {}, headers=bearer(OPERATOR)))[1]["retirement"]["actor"] == "deploy"
