"""A release's run over HTTP: begun, looked at, approved, aborted; and who may do so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from admin_plane import OPERATOR, TOKENS, VIEWER, Plane, bearer
from jsonschema import Draft202012Validator

from bgproxy.admin.events import changes
from bgproxy.admin.options import Token
from bgproxy.admin.shapes import ANSWERS
from bgproxy.errors import Problem
from bgproxy.rules.comparing import Mirror
from bgproxy.rules.plan import Plan
from bgproxy.rules.watch import JUDGEMENT, Watch
from bgproxy.store.base import NodeReport

LOOK = {"kind": "manual", "name": "look", "text": "the answers"}
BEGIN = {"color": "violet", "release": "v3", "upstreams": ["http://127.0.0.1:9103"], "plan": {"gate": [LOOK]}}
ANN = "ann-0123456789abcdefghijklmnopqrstuv"


async def post(client: Any, path: str, body: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    answer = await client.post(path, json=body, **more)
    return answer.status, await answer.json()


async def begun(client: Any, **more: Any) -> dict[str, Any]:
    status, body = await post(client, "/v1/run", BEGIN | more)
    assert status == 200, body
    Draft202012Validator({**ANSWERS["RunChanged"], "components": {"schemas": ANSWERS}}).validate(body)
    return body


async def look(client: Any) -> dict[str, Any]:
    answer = await client.get("/v1/run")
    body: dict[str, Any] = await answer.json()
    assert answer.status == 200, body
    Draft202012Validator({**ANSWERS["RunWatched"], "components": {"schemas": ANSWERS}}).validate(body)
    return body


async def test_it_is_begun_and_looked_at_step_by_step(client, plane: Plane):
    body = await begun(client, reason="why", metadata={"image": "a:3"})
    assert (body["id"], body["kind"], body["color"], body["release"]) == ("r2", "release", "violet", "v3")
    assert (body["actor"], body["reason"], body["open"], body["changed"]) == ("admin@loopback", "why", True, True)
    assert [step["name"] for step in body["steps"]] == ["ready", "parity", "approval:look", "flip"]
    assert {step["verdict"] for step in body["steps"]} == {None}
    assert (body["step"], body["waits_for"], body["waits_text"], body["outcome"]) == ("ready", None, "", None)
    await plane.runs.passes(2)
    body = await look(client)
    assert [step["verdict"] for step in body["steps"]] == ["pass", "pass", None, None]
    assert body["steps"][0] == {"name": "ready", "verdict": "pass", "why": "fine", "at": 6.0, "took": 0.5}
    assert (body["step"], body["waits_for"], body["waits_text"]) == ("approval:look", "look", "the answers")
    state = plane.mirror.state
    assert state is not None
    assert state.releases["violet"].metadata == {"image": "a:3"}


async def test_the_same_again_is_the_one_that_is_under_way(client):
    await begun(client)
    assert (await begun(client))["changed"] is False
    status, body = await post(client, "/v1/run", BEGIN | {"release": "v4"})
    assert (status, body["code"]) == (409, "refused")


async def test_under_an_idempotency_key_it_is_begun_once(client):
    key = {"Idempotency-Key": "job-1"}
    status, first = await post(client, "/v1/run", BEGIN, headers=key)
    assert (status, first["changed"]) == (200, True)
    await post(client, "/v1/run/abort", {})
    status, again = await post(client, "/v1/run", BEGIN, headers=key)
    assert (status, again) == (200, first), "its first answer, and no second run"
    assert (await look(client))["outcome"] == "aborted"


async def test_what_waits_is_validated(client, plane: Plane):
    status, body = await post(client, "/v1/run", {"color": "green", "kind": "validate", "plan": {}})
    assert (status, body["kind"], body["release"]) == (200, "validate", "v2")


@pytest.mark.parametrize(
    ("change", "status", "code", "detail"),
    [
        ({"plan": []}, 400, "bad_input", "'plan' must be an object"),
        ({"kind": "try"}, 400, "bad_input", "'kind' has the wrong form"),
        ({"kind": "validate"}, 400, "bad_input", "what is validated is what waits on violet"),
        ({"release": "a b"}, 400, "bad_input", "release label"),
        ({"upstreams": ["ftp://x"]}, 400, "bad_input", "upstream"),
        ({"upstreams": ["http://169.254.169.254"]}, 400, "bad_input", "metadata or link-local"),
        ({"upstreams": []}, 400, "bad_input", "has no upstreams"),
        ({"bake": 5}, 400, "bad_input", "'bake' is not known"),
        ({"color": "pink"}, 404, "unknown_color", "there is no color"),
        ({"color": "blue"}, 409, "refused", "blue is active"),
        ({"if_epoch": 9}, 409, "stale_epoch", "the epoch is 1"),
    ],
)
async def test_what_is_refused_begins_nothing(client, plane: Plane, change, status, code, detail):
    answered, body = await post(client, "/v1/run", BEGIN | change)
    assert (answered, body["code"], detail in body["detail"]) == (status, code, True), body
    assert plane.mirror.state is not None
    assert plane.mirror.state.run is None


async def test_a_release_needs_its_label(client):
    status, body = await post(client, "/v1/run", {"color": "violet", "plan": {}})
    assert (status, "release is missing" in body["detail"]) == (400, True)


SEEN = {
    "verdict": "undecided",
    "why": "50 answers came, 200 are needed",
    "held": False,
    "new": {"answers": 50, "errors": 0, "error_rate": 0.0, "p50": 0.1, "p95": 0.2, "p99": 0.3, "first_byte": 0.1},
    "old": {"answers": 0, "errors": 0, "error_rate": 0.0},
    "limits": {"max_error_rate": {"samples": 50, "bad": 0}},
    "nodes": 2,
    "left": 55.0,
    "synthetic": {"sent": 9, "answers": 8, "errors": 1, "p95": 0.2, "left_out": 1, "kinds": {"status 500": 1}},
    "silent": ["n3"],
    "judges": [{"judge": "prom", "verdict": "pass", "why": "it is 0"}],
}


async def test_while_it_bakes_it_tells_what_is_seen(client, plane: Plane, monkeypatch):
    await begun(client)
    assert (await look(client))["watch"] is None
    monkeypatch.setattr("bgproxy.admin.run.watched", lambda _: Watch("r2:bake:2"))
    assert (await look(client))["watch"] is None, "nobody has looked yet"
    await plane.store.tell("r2:bake:2", "n1", "{}")
    await plane.store.tell("r2:bake:2", JUDGEMENT, json.dumps(SEEN))
    assert (await look(client))["watch"] == SEEN
    await plane.store.tell("r2:bake:2", JUDGEMENT, "[")
    assert (await look(client))["watch"] is None


async def test_while_it_is_mirrored_it_tells_what_all_nodes_have_compared(client, plane: Plane):
    plane.runs.plan = Plan(mirror=Mirror())
    await begun(client)
    for number, (run, compared, example) in enumerate((("r2", 30, "GET /: a"), ("r2", 12, "GET /: b"), ("r1", 99, ""))):
        counts = {"run": run, "compared": compared, "differed": 1, "examples": [example]}
        await plane.store.beat(NodeReport(f"n{number}", "there", 7, "0", 1, mirrored=counts))
    assert (await look(client))["mirrored"] is None, "it has not come to that"
    await plane.runs.passes(2)
    assert (await look(client))["mirrored"] == {
        "compared": 42,
        "differed": 2,
        "slow": 0,
        "failed": 0,
        "dropped": 0,
        "examples": ["GET /: a", "GET /: b"],
    }
    await plane.runs.passes(1)
    assert (await look(client))["mirrored"] is None


async def test_before_there_was_one(client):
    answer = await client.get("/v1/run")
    assert (answer.status, (await answer.json())["code"]) == (404, "no_run")
    for path in ("/v1/run/approve", "/v1/run/abort"):
        status, body = await post(client, path, {})
        assert (status, "nothing is being released" in body["detail"]) == (409, True)


async def test_an_abort_is_on_record_and_over(client, plane: Plane):
    await begun(client)
    status, body = await post(client, "/v1/run/abort", {"reason": "not today"})
    assert (status, body["outcome"], body["why"], body["open"]) == (
        200,
        "aborted",
        "admin@loopback aborted it: not today",
        False,
    )
    assert (body["step"], body["waits_for"]) == (None, None)
    entry = (await plane.ledger.audit(limit=1))[0]
    assert (entry.verb, entry.actor, entry.reason) == ("release", "admin@loopback", "not today")


async def test_an_approval_counts_for_who_gives_it_and_not_for_who_began(connect, plane: Plane):
    client = await connect(tokens=(*TOKENS, Token("ann", "operator", ANN)))
    headers = bearer(OPERATOR)
    status, _ = await post(client, "/v1/run", BEGIN, headers=headers)
    assert status == 200
    await plane.runs.passes(2)
    status, body = await post(client, "/v1/run/approve", {}, headers=bearer(VIEWER))
    assert (status, "needs a token with the role operator" in body["detail"]) == (403, True)
    status, body = await post(client, "/v1/run/approve", {}, headers=headers)
    assert (status, "second pair of eyes" in body["detail"]) == (409, True)
    for changed in (True, False):
        status, body = await post(client, "/v1/run/approve", {"gate": "look"}, headers=bearer(ANN))
        assert (status, body["approvals"], body["changed"]) == (200, {"look": "ann"}, changed)


async def test_the_status_has_it_while_it_is_open(client):
    await begun(client)
    status = await (await client.get("/v1/status")).json()
    assert (status["run"]["id"], status["run"]["step"]) == ("r2", "ready")
    await post(client, "/v1/run/abort", {})
    assert (await (await client.get("/v1/status")).json())["run"] is None


async def test_events_tell_each_step(client, plane: Plane):
    before = plane.mirror.state
    await begun(client)
    begun_state = plane.mirror.state
    await plane.runs.passes(1)
    assert before is not None
    assert begun_state is not None
    assert plane.mirror.state is not None
    assert [name for name, _ in changes(before, begun_state)] == ["release", "run"]
    [(name, data)] = list(changes(begun_state, plane.mirror.state))
    assert (name, data["id"], data["step"]) == ("run", "r2", "parity")
    assert [name for name, _ in changes(None, before)] == ["pointer", "release", "release", "release"]


async def test_a_store_that_is_away_says_so(client, plane: Plane, monkeypatch):
    async def away(*_: Any, **__: Any) -> Any:
        raise Problem("away")

    monkeypatch.setattr(plane.runs, "begin", away)
    status, body = await post(client, "/v1/run", BEGIN)
    assert (status, body["detail"]) == (500, "away")
