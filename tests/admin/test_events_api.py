"""`GET /v1/events`: what a watcher hears, in order; heartbeats, reconnects, slow readers, the server's end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from admin_plane import TOKENS, VIEWER, bearer, release

from bgproxy.admin import events as events_module
from bgproxy.admin.events import MAX_WAITING, MAX_WATCHERS, WATCHERS, Watcher, Watchers, changes, encode
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Phase


class Stream:
    """One SSE response, read event by event."""

    def __init__(self, response) -> None:
        self.response = response

    async def block(self) -> list[str]:
        lines: list[str] = []
        while line := (await asyncio.wait_for(self.response.content.readline(), 5)).decode():
            if line == "\n":
                return lines
            lines.append(line.rstrip("\n"))
        return lines

    async def event(self) -> tuple[str, int, dict[str, Any]]:
        """The next event, comments and hints skipped."""
        while True:
            block = await self.block()
            assert block, "the stream ended"
            if block[0].startswith("event: "):
                name, number, data = (line.partition(": ")[2] for line in block)
                return name, int(number), json.loads(data)


async def open_stream(client, **headers: str) -> Stream:
    response = await client.get("/v1/events", headers=headers)
    assert response.status == 200
    assert response.content_type == "text/event-stream"
    stream = Stream(response)
    assert await stream.block() == ["retry: 1000"]
    return stream


async def settled_stream(client) -> Stream:
    """A stream whose first events, the state of three colors, have been read."""
    stream = await open_stream(client)
    for _ in range(4):
        await stream.event()
    return stream


async def test_the_state_comes_first_then_each_change(client):
    stream = await open_stream(client)
    first = [await stream.event() for _ in range(4)]
    await client.post("/v1/flip", json={"to": "green", "reason": "v2"})
    then = [await stream.event() for _ in range(3)]

    assert [(name, number) for name, number, _ in first] == [("pointer", 1), *[("release", 1)] * 3]
    assert [data.get("color") for _, _, data in first] == [None, "blue", "green", "violet"]
    name, number, pointer = then[0]
    assert (name, number) == ("pointer", 2)
    assert pointer.pop("at") > 0
    assert pointer == {
        "active": "green",
        "previous": "blue",
        "epoch": 2,
        "actor": "admin@loopback",
        "reason": "v2",
        "revision": 2,
    }
    assert [(data["color"], data["phase"]) for _, _, data in then[1:]] == [("blue", "standby"), ("green", "active")]


async def test_a_staged_release_is_told_without_a_pointer(client):
    stream = await settled_stream(client)
    await client.put("/v1/colors/violet", json={"release": "v3", "upstreams": ["http://127.0.0.1:9103"]})

    name, number, data = await stream.event()

    assert (name, number, data["color"], data["release"], data["phase"]) == ("release", 2, "violet", "v3", "staged")
    assert data["upstreams"] == ["http://127.0.0.1:9103"]


@pytest.mark.parametrize("last", ["2", "1", "7", "x", ""])
async def test_whoever_comes_back_gets_the_state_first_then_each_change(client, last):
    await client.post("/v1/flip", json={"to": "green"})
    stream = await open_stream(client, **{"Last-Event-ID": last})
    told = [await stream.event() for _ in range(4)]
    await client.post("/v1/rollback")
    assert {number for _, number, _ in told} == {2}
    assert told[0][2]["active"] == "green"
    name, number, data = await stream.event()
    assert (name, number, data["active"]) == ("pointer", 3, "blue")


async def test_a_quiet_stream_has_a_heartbeat(client, monkeypatch):
    monkeypatch.setattr(events_module, "HEARTBEAT_INTERVAL", 0.01)
    stream = await settled_stream(client)
    assert await stream.block() == [": still here"]
    assert await stream.block() == [": still here"]


async def test_the_stream_ends_with_the_server(client):
    stream = await settled_stream(client)
    await client.app.shutdown()
    assert await asyncio.wait_for(stream.response.content.read(), 5) == b""
    assert len(client.app[WATCHERS]) == 0
    late = await client.get("/v1/events")
    assert b"event: pointer" in await asyncio.wait_for(late.content.read(), 5)


async def test_a_reader_that_left_is_forgotten(client, monkeypatch):
    monkeypatch.setattr(events_module, "HEARTBEAT_INTERVAL", 0.01)
    stream = await open_stream(client)
    assert len(client.app[WATCHERS]) == 1
    stream.response.close()
    async with asyncio.timeout(5):
        while len(client.app[WATCHERS]):  # noqa: ASYNC110 - the heartbeat that finds out has no event to wait for
            await asyncio.sleep(0.01)


async def test_too_many_streams_are_refused(client):
    watchers = client.app[WATCHERS]
    watchers._open |= {Watcher() for _ in range(MAX_WATCHERS)}
    answer = await client.get("/v1/events")
    assert (answer.status, (await answer.json())["code"]) == (503, "too_many_watchers")
    assert answer.headers["Retry-After"]


async def test_a_stream_needs_a_token_too(connect):
    client = await connect(tokens=TOKENS)
    assert (await client.get("/v1/events")).status == 401
    await open_stream(client, **bearer(VIEWER))


POINTER = Pointer("blue", None, 1, "test", "", 0.0)
STATE = FleetState(1, POINTER, {"blue": release("v1", 9101, Phase.ACTIVE)}, ("blue", "green"))


def test_a_slow_reader_misses_states_in_between_but_never_the_last():
    watcher = Watcher()
    for revision in range(2, MAX_WAITING + 20):
        watcher.tell(replace(STATE, revision=revision))
    told = list(watcher._states)
    assert len(told) == MAX_WAITING
    assert told[-1].revision == MAX_WAITING + 19


async def test_what_waits_is_told_before_the_end():
    watcher = Watcher()
    watcher.tell(STATE)
    watcher.close()
    assert await watcher.next(5.0) is STATE
    with pytest.raises(EOFError):
        await watcher.next(5.0)


async def test_nothing_within_the_time_is_none():
    assert await Watcher().next(0.001) is None


def test_only_what_changed_is_told():
    flipped = replace(STATE, revision=2, pointer=POINTER.moved("green", "x", "y", 1.0))
    staged = replace(flipped, revision=3, releases={**STATE.releases, "green": release("v2", 9102, Phase.STAGED)})
    added = replace(staged, revision=4, colors=("blue", "green", "violet"))
    gone = replace(added, revision=5, releases={})

    def told(old: FleetState | None, new: FleetState) -> list[tuple[str, Any]]:
        return [(name, data.get("color")) for name, data in changes(old, new)]

    assert told(None, STATE) == [("pointer", None), ("release", "blue"), ("release", "green")]
    assert told(STATE, STATE) == []
    assert told(STATE, flipped) == [("pointer", None)]
    assert told(flipped, staged) == [("release", "green")]
    assert told(staged, added) == [("release", "violet")]
    assert told(added, gone) == [("release", "blue"), ("release", "green")]
    assert encode(STATE, STATE) == b""


def test_text_that_would_break_the_stream_stays_inside_its_line():
    nasty = replace(STATE, pointer=replace(POINTER, reason="a\n\nevent: pointer\ndata: x\r"), revision=2)
    lines = encode(STATE, nasty).split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"event", b"id", b"data", b"", b""]
    assert b"\r" not in lines[2]


async def test_the_mirror_s_listener_reaches_every_watcher(plane):
    watchers = Watchers(plane.mirror)
    with watchers.watch() as one, watchers.watch() as other:
        await plane.ledger.flip("green", actor="t", reason="")
        for watcher in (one, other):
            told = await watcher.next(5.0)
            assert told.pointer.active == "green"
    assert len(watchers) == 0
