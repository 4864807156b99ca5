"""The nodes as they are, and those that an operator forgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from admin_plane import OPERATOR, TOKENS, Plane, bearer, hear_nothing
from jsonschema import Draft202012Validator

from bgproxy.admin.shapes import ANSWERS
from bgproxy.errors import StoreUnavailable
from bgproxy.store.base import NodeReport

THERE = NodeReport("there-1", "there", 7, "0.3", 4, {"blue": 10}, {"blue": 4}, {"blue": 0}, revision=9, serial=12)
PATH = "/v1/nodes/there-1"


def fits(value: Any, name: str) -> None:
    Draft202012Validator({**ANSWERS[name], "components": {"schemas": ANSWERS}}).validate(value)


async def entries(client: Any) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What is on record of nodes."""
    told = (await (await client.get("/v1/audit")).json())["entries"]
    found = [entry for entry in told if entry["verb"] == "forget"]
    return [(entry["verb"], entry["actor"], entry["reason"], entry["facts"]) for entry in found]


async def test_live_finishing_and_silent(client, plane: Plane):
    await plane.store.beat(THERE)
    body = await (await client.get("/v1/nodes")).json()
    fits(body, "Nodes")
    assert [(node["id"], node["state"]) for node in body["nodes"]] == [("here-1", "live"), ("there-1", "live")]
    assert (body["complete"], body["silent"]) == (True, [])
    there = body["nodes"][1]
    assert (there["version"], there["epoch"], there["revision"], there["serial"]) == ("0.3", 4, 9, 12)
    assert (there["schema"], there["protocol"], there["in_flight"]) == (1, 1, {"blue": 10})
    await plane.store.beat(replace(THERE, finishing=True))
    body = await (await client.get("/v1/nodes")).json()
    fits(body, "Nodes")
    assert body["nodes"][1]["state"] == "finishing"
    hear_nothing(plane, 60.0)
    body = await (await client.get("/v1/nodes")).json()
    assert [(node["id"], node["state"]) for node in body["nodes"]] == [("here-1", "live"), ("there-1", "silent")]
    assert 60 <= body["nodes"][1]["age"] < 61
    assert body["silent"] == ["there-1"]
    plane.fenced.add(("there-1", 12))
    body = await (await client.get("/v1/nodes")).json()
    fits(body, "Nodes")
    assert (body["nodes"][1]["state"], body["silent"]) == ("fenced", [])
    await plane.store.beat(replace(THERE, serial=13))
    assert (await (await client.get("/v1/nodes")).json())["nodes"][1]["state"] == "live", "it has beaten since"


async def test_one_that_is_waited_for_though_silent_is_told_by_the_status_and_the_metrics(client, plane: Plane):
    async def told() -> tuple[list[str], bool]:
        body = await (await client.get("/v1/status")).json()
        fits(body, "Status")
        return body["silent"], "bgproxy_silent_nodes 1.0" in await (await client.get("/metrics")).text()

    await plane.store.beat(THERE)
    assert await told() == ([], False)
    hear_nothing(plane, 60.0)
    assert await told() == (["there-1"], True)
    plane.fenced.add(("there-1", 12))
    assert await told() == ([], False)


@pytest.mark.parametrize("known", [False, True])
async def test_while_the_store_is_away_it_says_that_others_are_missing(client, plane: Plane, monkeypatch, known):
    async def away() -> list[NodeReport]:
        raise StoreUnavailable("away")

    await plane.store.beat(THERE)
    monkeypatch.setattr(plane.store, "nodes", away)
    plane.mirror.connected = not known
    body = await (await client.get("/v1/nodes")).json()
    fits(body, "Nodes")
    assert ([node["id"] for node in body["nodes"]], body["complete"]) == (["here-1"], False)


async def test_a_silent_one_is_forgotten_and_that_is_on_record(connect, plane: Plane):
    client = await connect(tokens=TOKENS)
    await plane.store.beat(THERE)
    hear_nothing(plane, 60.0)

    answer = await client.delete(PATH, params={"reason": "the host burnt"}, headers=bearer(OPERATOR))

    body = await answer.json()
    fits(body, "NodeForgotten")
    assert (answer.status, body["id"], body["state"], body["forgotten"]) == (200, "there-1", "silent", True)
    assert await plane.store.nodes() == []
    [entry] = await plane.store.audit(limit=1)
    assert (entry.verb, entry.actor, entry.reason) == ("forget", "deploy", "the host burnt")
    assert dict(entry.facts) | {"silent": round(float(str(entry.facts["silent"])))} == {
        "node": "there-1",
        "host": "there",
        "pid": 7,
        "version": "0.3",
        "epoch": 4,
        "serial": 12,
        "in_flight": {"blue": 10},
        "streams": {"blue": 4},
        "silent": 60,
    }


async def test_a_live_one_is_forgotten_by_force_only(client, plane: Plane):
    await plane.store.beat(THERE)
    answer = await client.delete(PATH)
    assert (answer.status, (await answer.json())["code"]) == (409, "refused")
    assert len(await plane.store.nodes()) == 1
    assert await entries(client) == []
    answer = await client.delete(PATH, params={"force": "true"})
    assert (answer.status, await plane.store.nodes()) == (200, [])
    [(_, _, _, facts)] = await entries(client)
    assert facts["forced"] == ["it was live"]


async def test_one_that_nobody_knows(client):
    answer = await client.delete(PATH)
    assert (answer.status, (await answer.json())["code"]) == (404, "unknown_node")
    assert await entries(client) == []


@pytest.mark.parametrize("back", [True, False])
async def test_one_that_comes_back_or_leaves_at_that_moment(client, plane: Plane, monkeypatch, back):
    await plane.store.beat(THERE)
    hear_nothing(plane, 60.0)
    commit = plane.store.commit

    async def meanwhile(change: Any, **terms: Any) -> Any:
        if back:
            await plane.store.beat(NodeReport("there-1", "there", 7, "0.3", 4, serial=13))
        else:
            await plane.store.leave("there-1")
        return await commit(change, **terms)

    monkeypatch.setattr(plane.store, "commit", meanwhile)
    answer = await client.delete(PATH)
    assert answer.status == 409
    assert "it has beaten since it was looked at, or left by itself" in (await answer.json())["detail"]
    assert len(await plane.store.nodes()) == int(back)
    assert len(await entries(client)) == 1


async def test_a_store_that_goes_away_after_the_record(client, plane: Plane, monkeypatch):
    async def away(*_: Any) -> bool:
        raise StoreUnavailable("away")

    await plane.store.beat(THERE)
    hear_nothing(plane, 60.0)
    monkeypatch.setattr(plane.store, "leave", away)
    answer = await client.delete(PATH)
    assert answer.status == 503
    assert (
        "that node there-1 is to be forgotten is on record, but it may be there still"
        in (await answer.json())["detail"]
    )
