"""The ledger of each flip over HTTP: one, the newest, in the status and the metrics; and a store that is away."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bgproxy.admin.shapes import ANSWERS
from bgproxy.errors import StoreUnavailable
from bgproxy.store.pinning import Want


async def ask(client: Any, path: str, name: str) -> dict[str, Any]:
    answer = await client.get(path)
    body: dict[str, Any] = await answer.json()
    assert answer.status == 200, body
    Draft202012Validator({**ANSWERS[name], "components": {"schemas": ANSWERS}}).validate(body)
    return body


async def flipped(plane: Any, *sessions: bytes) -> None:
    """With so many sessions on blue, to green."""
    if sessions:
        await plane.store.pins.resolve([Want((key,), "chat", "mcp", 600.0) for key in sessions])
    await plane.ledger.flip("green", actor="ada", reason="v2")


async def test_one_has_all_that_is_counted(client, plane):
    await flipped(plane, b"a" * 16, b"b" * 16, b"c" * 16)
    await plane.ledger.move_session(b"a" * 16, "green", actor="ada", reason="")
    await plane.store.pins.move(b"a" * 16)
    await plane.store.tally(2, lost=1, turns_cut=4)
    body = await ask(client, "/v1/flips/2", "Flip")
    assert body.pop("at") > 0
    assert body == {
        "epoch": 2,
        "verb": "flip",
        "from": "blue",
        "to": "green",
        "actor": "ada",
        "reason": "v2",
        "kept": 1,
        "moved": 1,
        "ended": 0,
        "lost": 1,
        "turns_cut": 4,
    }


async def test_the_newest_come_first(client, plane):
    assert await ask(client, "/v1/flips", "Flips") == {"flips": []}
    await flipped(plane)
    await plane.ledger.rollback(actor="ada", reason="")
    await plane.ledger.flip("green", actor="ada", reason="")
    body = await ask(client, "/v1/flips", "Flips")
    assert [(one["epoch"], one["verb"]) for one in body["flips"]] == [(4, "flip"), (3, "rollback"), (2, "flip")]
    body = await ask(client, "/v1/flips?limit=2", "Flips")
    assert [one["epoch"] for one in body["flips"]] == [4, 3]
    assert await ask(client, "/v1/flips?limit=1000", "Flips") == await ask(client, "/v1/flips", "Flips")


@pytest.mark.parametrize(
    ("epoch", "status", "code"),
    [
        ("1", 404, "unknown_flip"),  # the fleet's first, which no flip has made
        ("3", 404, "unknown_flip"),
        ("0", 404, "unknown_flip"),
        ("999999999999999", 404, "unknown_flip"),
        ("9" * 40, 400, "bad_input"),
        ("-1", 400, "bad_input"),
        ("x", 400, "bad_input"),
        ("%D9%A2", 400, "bad_input"),
    ],
)
async def test_an_epoch_without_one(client, plane, epoch, status, code):
    await flipped(plane)
    answer = await client.get(f"/v1/flips/{epoch}")
    assert (answer.status, (await answer.json())["code"]) == (status, code)


@pytest.mark.parametrize("limit", ["0", "1001", "x"])
async def test_a_limit_that_is_none(client, limit):
    assert (await client.get(f"/v1/flips?limit={limit}")).status == 400


async def test_the_status_and_the_metrics_tell_the_last(client, plane):
    assert (await ask(client, "/v1/status", "Status"))["flip"] is None
    assert "bgproxy_flip" not in await (await client.get("/metrics")).text()
    await flipped(plane, b"a" * 16, b"b" * 16)
    await plane.store.tally(2, turns_cut=1)
    assert (await ask(client, "/v1/status", "Status"))["flip"] == await ask(client, "/v1/flips/2", "Flip")
    told = await (await client.get("/metrics")).text()
    assert 'bgproxy_flip_sessions{outcome="kept"} 2.0' in told
    assert "bgproxy_flip_turns_cut 1.0" in told


@pytest.mark.parametrize("known_to_be_away", [True, False])
async def test_with_the_store_away_the_status_does_not_fail(client, plane, monkeypatch, known_to_be_away):
    async def away(_: Any) -> Any:
        raise StoreUnavailable("away")

    await flipped(plane)
    monkeypatch.setattr(plane.store, "flips", away)
    plane.mirror.connected = not known_to_be_away
    assert (await ask(client, "/v1/status", "Status"))["flip"] is None
    assert (await client.get("/metrics")).status == 200
    for path in ("/v1/flips", "/v1/flips/2"):
        assert (await client.get(path)).status == 503
