"""The record of a real fleet: a retry whose first answer was lost, and an audit that somebody has touched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from serving import Serve, cli

pytestmark = pytest.mark.redis


class Relay:
    """Stands between a proxy and its store; once it has heard `swallow`, no answer comes back on that connection."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.swallow = b""
        self.swallowed = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, store = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, store]
        silent = asyncio.Event()
        with contextlib.suppress(OSError):
            await asyncio.gather(self._ask(reader, store, silent), self._answer(there, writer, silent))

    async def _ask(self, reader: asyncio.StreamReader, store: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while data := await reader.read(65_536):
            if self.swallow and self.swallow in data:
                self.swallow, self.swallowed = b"", self.swallowed + 1
                silent.set()
            store.write(data)
        store.close()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while data := await there.read(65_536):
            if not silent.is_set():
                writer.write(data)
        writer.close()


@pytest.fixture
async def relay(own_redis: Any) -> AsyncIterator[Relay]:
    relay = Relay(own_redis.port)
    await relay.start()
    yield relay
    await relay.stop()


async def told(serve: Serve, *words: str) -> tuple[int, Any, str]:
    code, out, err = await cli(*words, "--json", BGPROXY_ADMIN=serve.admin)
    return code, json.loads(out), err


async def test_a_flip_whose_answer_was_lost_is_done_once(town, own_redis, relay, agents):
    store = ("--fleet", town.fleet, "--store")
    relayed = [*store, f"redis://127.0.0.1:{relay.port}/0"]
    one = await town.serve(*agents, *relayed, BGPROXY_STORE__COMMAND_TIMEOUT="0.4")
    two = await town.serve(*agents, *store, own_redis.url)
    flip = ("flip", "green", "--strategy", "swap", "--reason", "lost on the way", "--idempotency-key", "job 7")

    relay.swallow = b"lost on the way"
    code, problem, _ = await told(one, *flip)
    assert (code, problem["code"], relay.swallowed) == (1, "store_unavailable", 1)

    code, first, err = await told(two, *flip)
    assert (code, first["active"], first["previous"], first["epoch"], first["changed"]) == (0, "green", "blue", 2, True)
    assert "done before" in err
    assert await two.ask() == (200, "v2")

    assert (await told(one, "rollback", "--idempotency-key", "job 8"))[1]["epoch"] == 3
    for serve in (one, two, await town.serve(*agents, *store, own_redis.url)):
        assert (await told(serve, *flip))[:2] == (0, first)
        assert await serve.ask() == (200, "v1"), "the rollback stands"
    code, problem, _ = await told(two, "flip", "green", "--idempotency-key", "job 7")
    assert (code, problem["code"]) == (1, "key_reused")
    verbs = [entry["verb"] for entry in (await two.api("GET", "/v1/audit"))[1]["entries"]]
    assert [verb for verb in verbs if verb in ("flip", "rollback")] == ["rollback", "flip"]


async def test_a_key_outlives_a_worker_and_a_restart_of_the_embedded_store(town, agents, tmp_path):
    store = ("--store", f"memory://{tmp_path}/state.json")
    serve = await town.serve(*agents, *store)
    flip = ("flip", "green", "--idempotency-key", "job-7")
    _, first, _ = await told(serve, *flip)
    serve.close()
    serve = await town.serve(*agents, *store)
    assert (await told(serve, *flip))[:2] == (0, first)
    assert (await serve.status())["epoch"] == 2


async def test_a_record_that_was_touched_is_found(town, own_redis, agents, tmp_path: Path):
    serve = await town.serve(*agents, "--fleet", town.fleet, "--store", own_redis.url)
    admin = {"BGPROXY_ADMIN": serve.admin}
    for color in ("green", "blue", "green"):
        await serve.flip(color)
    file = tmp_path / "audit.jsonl"
    code, out, _ = await cli("audit", "--verify", **admin)
    assert code == 0
    assert re.match(r"intact: (\d+) entries, 1 to \1, head [0-9a-f]{64}$", out)
    assert (await cli("audit", "--export", str(file), **admin))[0] == 0
    code, out, _ = await cli("audit", "--verify", str(file))
    assert (code, out.startswith("intact: ")) == (0, True)
    assert file.read_text().count('"verb":"flip"') == 3

    key = f"bgproxy:{{{town.fleet}}}:audit"
    page = (await serve.api("GET", "/v1/audit?after=0"))[1]["entries"]
    assert own_redis.command("XDEL", key, page[1]["id"]) == b":1\r\n"
    code, out, err = await cli("audit", "--verify", **admin)
    assert (code, out) == (1, "")
    assert "entry 2 is missing: 1 is followed by 3" in err
    assert (await cli("audit", "--verify", str(file)))[0] == 0, "the export still has it"
