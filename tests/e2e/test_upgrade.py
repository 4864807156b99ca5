"""The proxy is exchanged for a new one while it serves: nobody who talks to it can tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from serving import Serve, cli, is_alive, until
from websockets.asyncio.client import connect

POST = "POST {path} HTTP/1.1\r\nHost: a\r\nMcp-Session-Id: {session}\r\nContent-Length: 2\r\n{more}\r\n{{}}"

LONG = 40.0  # seconds for two starts of a process, one after the other, on a busy machine


class Traffic:
    """Clients that notice everything: raw connections, on which nothing is tried twice."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.faults: list[str] = []
        self.answered: Counter[str] = Counter()
        self.sessions: dict[str, set[str]] = {}  # which releases have answered each
        self.closes = 0  # answers that said that they were the last on their connection
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[Traffic]:
        """All of it, until the block's end."""
        kinds = [*[self._fresh] * 3, *[self._kept] * 3, *[self._stream] * 2, *[self._socket] * 2]
        self._tasks = [asyncio.create_task(kind(f"s-{number}")) for number, kind in enumerate(kinds)]
        try:
            yield self
        finally:
            self._stop.set()
            await asyncio.gather(*self._tasks)

    async def on_every_worker(self) -> int:
        """Have streams on each of them: the kernel draws one for a connection. How many there are then."""
        opened = 2
        while not all(await until(partial(self._streams, opened), "every worker has told its streams")):
            self._tasks.append(asyncio.create_task(self._stream(f"s-{len(self._tasks)}")))
            opened += 1
        return opened

    async def _streams(self, total: int) -> list[int]:
        """How many each worker has, once they say that there are so many."""
        nodes = (await self.serve.status())["nodes"]
        streams = [sum(node["streams"].values()) for node in nodes]
        return streams if sum(streams) == total else []

    async def _fresh(self, session: str) -> None:
        """A connection for each request."""
        while not self._stop.is_set():
            await self._turn(session, await self.serve.connect(), last=True)
            await self._breath()

    async def _kept(self, session: str) -> None:
        """One connection for as long as the proxy lets it be used."""
        while not self._stop.is_set():
            wire = await self.serve.connect()
            while not self._stop.is_set():
                if not await self._turn(session, wire):
                    break
                await self._breath()
            wire.close()

    async def _breath(self) -> None:
        """A moment in which the processes that start have the machine."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), 0.02)

    async def _turn(self, session: str, wire: Any, *, last: bool = False) -> bool:
        """Whether the connection may be used for another."""
        more = "Connection: close\r\n" if last else ""
        try:
            await wire.send(POST.format(path="/mcp", session=session, more=more).encode())
            answer = await wire.answer()
        except Exception as error:
            self.faults.append(f"{session}: {error!r}")
            return False
        finally:
            if last:
                wire.close()
        if answer.status != 200:
            self.faults.append(f"{session}: {answer.status} {answer.body!r}")
        said = answer.body.decode()
        self.sessions.setdefault(session, set()).add(said)
        self.answered[said] += 1
        closes = answer.get(b"connection") == b"close"
        self.closes += closes and not last
        return not closes

    async def _stream(self, session: str) -> None:
        """Numbered events, for as long as all of it lasts."""
        wire = await self.serve.connect()
        try:
            await wire.send(b"GET /events?every=0.02 HTTP/1.1\r\nHost: a\r\n\r\n")
            await wire.head()
            number = 0
            while not self._stop.is_set():
                number += 1
                chunk = await wire.chunk()
                assert chunk.startswith(b"id: %d\n" % number), chunk
        except Exception as error:
            self.faults.append(f"{session}: the stream broke: {error!r}")
        finally:
            wire.close()

    async def _socket(self, session: str) -> None:
        """Words there and back."""
        try:
            async with connect(f"ws://127.0.0.1:{self.serve.port}/socket", ping_interval=None) as line:
                label = ""
                while not self._stop.is_set():
                    await line.send(session)
                    said = await line.recv()
                    label = label or str(said).split()[0]
                    assert said == f"{label} {session}", said
                    await self._breath()
        except Exception as error:
            self.faults.append(f"{session}: the WebSocket broke: {error!r}")


async def asked(serve: Serve, **what: Any) -> dict[str, Any]:
    """What the supervisor answers to a request for an upgrade."""
    return await ask_at(Path((await serve.status())["runtime_dir"]), verb="upgrade", **what)


async def ask_at(runtime_dir: Path, **what: Any) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(runtime_dir / "supervisor.sock")
    writer.write(json.dumps(what).encode() + b"\n")
    answer = json.loads(await asyncio.wait_for(reader.readline(), LONG))
    writer.close()
    return dict(answer)


def names(directory: str) -> list[str]:
    """What stands in it."""
    return sorted(one.name for one in Path(directory).iterdir())


async def supervises_again(serve: Serve, times: int) -> None:
    """Its program has been exchanged so many times, and it heeds what it is told."""
    await until(lambda: serve.log.count("listening on") == times + 1, "the supervisor's new program", LONG)


@pytest.mark.redis
@pytest.mark.timeout(150)
async def test_upgrades_under_load_break_nothing_and_no_session_notices(town, agents, shared):
    serve = await town.serve(*agents, *shared, workers=2)
    pid, first = serve.process.pid, serve.workers
    async with Traffic(serve).flowing() as traffic:
        await until(lambda: len(traffic.sessions) == 6)
        streams = await traffic.on_every_worker()
        told = await asked(serve)
        assert told == {"done": True, "before": "0.1.0", "version": "0.1.0", "finishing": 2}, serve.log
        began = {session: {*said} for session, said in traffic.sessions.items()}
        await serve.flip("green")
        assert await serve.all_say("v2")
        assert [is_alive(worker) for worker in first] == [True, True], "their streams go on"
        await supervises_again(serve, 1)
        nodes = (await serve.status())["nodes"]
        assert len(nodes) == 4
        assert {node["epoch"] for node in nodes} == {2}, "those that finish follow flips, too"
        assert sorted(node["state"] for node in nodes) == ["finishing", "finishing", "live", "live"]
        assert sum(node["streams"].get("blue", 0) for node in nodes) == streams
        before = await serve.counted("bgproxy_requests_total", **{"class": "2xx"})
        serve.signal(signal.SIGUSR2)
        await until(lambda: serve.log.count("upgraded from") == 2, "its end", LONG)
        await supervises_again(serve, 2)
        assert await serve.counted("bgproxy_requests_total", **{"class": "2xx"}) >= before
    assert not traffic.faults
    assert traffic.sessions == began
    assert all(len(said) == 1 for said in traffic.sessions.values())
    assert traffic.closes >= 3, "each kept connection was told once at least that it must connect anew"
    assert serve.process.pid == pid
    assert serve.process.poll() is None
    await until(lambda: not any(map(is_alive, first)), "nothing is left to be finished")
    assert serve.log.count(" error ") == 0, serve.log
    serve.signal(signal.SIGTERM)
    assert await serve.ended() == 0


@pytest.mark.timeout(150)
async def test_a_sidecar_on_the_embedded_store_hands_its_state_and_its_sessions_on(town, agents):
    """Also to the successor of a successor, and after the new worker was killed while the old one still finishes."""
    serve = await town.serve(*agents)
    (first,) = serve.workers
    stream = await serve.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    async with Traffic(serve).flowing() as traffic:
        await until(lambda: len(traffic.sessions) == 6)
        assert (await asked(serve))["done"], serve.log
        await supervises_again(serve, 1)
        await serve.flip("green", reason="on the new one")
        assert await serve.all_say("v2")
        status = await serve.status()
        assert [node["epoch"] for node in status["nodes"]] == [2, 2]
        assert sum(node["streams"].get("blue", 0) for node in status["nodes"]) == 3
        assert status["colors"]["blue"]["sessions"] == 6
        serve.signal(signal.SIGUSR2)
        await until(lambda: serve.log.count("upgraded from") == 2, "its end", LONG)
        await supervises_again(serve, 2)
        began = {session: {*said} for session, said in traffic.sessions.items()}
    assert not traffic.faults
    assert began == {session: {"v1"} for session in began}
    await until(lambda: len(serve.workers) == 2, "the second one holds nothing any more")
    (new,) = (pid for pid in serve.workers if pid != first)
    os.kill(new, signal.SIGKILL)
    await until(lambda: serve.log.count("serves fleet") == 4, "its successor")
    for session in began:
        assert await serve.ask("/mcp", f"Mcp-Session-Id: {session}") == (200, "v1")
    assert await serve.ask() == (200, "v2")
    _, audit = await serve.api("GET", "/v1/audit")
    assert [entry["reason"] for entry in audit["entries"] if entry["verb"] == "flip"] == ["on the new one"]
    assert len((await serve.status())["nodes"]) == 2
    agents[0].say()
    assert [await stream.chunk() for _ in range(2)] == [b"id: %d\ndata: v1\n\n" % number for number in (1, 2)]
    stream.close()
    serve.signal(signal.SIGTERM)
    assert await serve.ended() == 0
    assert serve.log.count(" error ") == 1, "but for the one that was killed"


async def test_where_the_new_one_dies_with_the_state_in_its_hands_the_old_one_takes_it_back(town, agents):
    serve = await town.serve(*agents)
    (first,) = serve.workers
    assert await serve.ask("/mcp", "Mcp-Session-Id: s") == (200, "v1")
    asking = asyncio.create_task(asked(serve))
    (trial,) = await until(lambda: [pid for pid in serve.workers if pid != first])
    await until(Path(f"/proc/{trial}/task/{trial}/children").read_text, "its worker")
    os.kill(trial, signal.SIGSTOP)  # or it would be ready, and all in order, before we can look
    await serve.said("handed over to another process")
    os.kill(trial, signal.SIGKILL)
    told = await asking
    assert "was killed by signal 9 before it was ready" in told["why"]
    await serve.said("it is taken back")
    await serve.flip("green")
    assert await serve.ask("/mcp", "Mcp-Session-Id: s") == (200, "v1")
    assert await serve.ask() == (200, "v2")
    await until(lambda: serve.workers == [first], "nothing of it is left")


@pytest.mark.redis
async def test_the_new_one_has_its_own_configuration_and_what_is_left_ends_when_its_time_is_up(
    town, agents, shared, tmp_path
):
    """More workers, an address more and one less; what listens on both sides of it stays open throughout."""
    blue, _ = agents
    written = """
        listen = ["127.0.0.1:0", "unix:{path}/{name}.sock"]
        admin = "unix:{path}/a.sock"
        workers = {workers}
        runtime_dir = "{path}/run"
        upgrade.finish_timeout = 0.4
        colors.blue.upstreams = ["{blue.url}"]
    """
    config = tmp_path / "bgproxy.toml"
    with tempfile.TemporaryDirectory(prefix="bgp-") as path:
        config.write_text(written.format(path=path, name="old", workers=1, blue=blue))
        serve = town.start("--config", str(config), *shared)
        await serve.said("serves fleet")
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", serve.log)
        assert found
        serve.address = "127.0.0.1", int(found[1])
        stream = await serve.connect()
        await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        await stream.head()
        assert await stream.chunk() == b"id: 1\ndata: v1\n\n"
        config.write_text(written.format(path=path, name="new", workers=3, blue=blue))
        told = await ask_at(Path(path, "run"), verb="upgrade")
        assert (told["done"], told["finishing"]) == (True, 1), told
        assert names(path) == ["a.sock", "new.sock", "run"]
        assert await serve.all_say("v1", 30)
        assert await stream.until(b"0\r\n\r\n") == b"c\r\nretry: 1000\n\r\n0\r\n\r\n", "ended politely, at last"
        code, out, _ = await cli("status", "--json", "--admin", f"unix:{path}/a.sock")
        assert (code, len(json.loads(out)["nodes"])) == (0, 3)
        assert (await ask_at(Path(path, "run"), verb="else"))["why"] == "this proxy knows no such request"
        serve.signal(signal.SIGTERM)
        assert await serve.ended() == 0
        assert names(path) == ["run"]


@pytest.mark.redis
async def test_one_that_fails_leaves_the_running_one_as_it_was_and_says_why(town, agents, shared, tmp_path):
    config = tmp_path / "bgproxy.toml"
    good = f"""
        admin = "127.0.0.1:0"
        workers = 2
        colors.blue.upstreams = ["{agents[0].url}"]
    """
    config.write_text(f'listen = "127.0.0.1:0"\n{good}')
    serve = await town.start("--config", str(config), *shared).ready(2)
    workers = serve.workers
    async with Traffic(serve).flowing() as traffic:
        config.write_text(f"listem = 1\n{good}")
        code, _, err = await cli("upgrade", "--admin", serve.admin)
        assert (code, "listem" in err, "did you mean listen?" in err) == (1, True, True), err
        config.write_text(f'listen = ["127.0.0.1:0", "127.0.0.1:{agents[0].port}"]\n{good}')
        assert "Address already in use: another process listens there" in (await asked(serve))["why"]
        config.write_text(f'listen = "127.0.0.1:0"\n{good}')
        assert "/no/bgproxy cannot be started: No such file" in (await asked(serve, program="/no/bgproxy"))["why"]
        assert "ended with status 1 before it was ready" in (await asked(serve, program="/bin/false"))["why"]
        asking = asyncio.create_task(asked(serve))
        trial = await until(lambda: [pid for pid in serve.workers if pid not in workers])
        assert (await asked(serve))["why"] == "an upgrade is under way already"
        os.kill(trial[0], signal.SIGKILL)
        assert "was killed by signal 9 before it was ready" in (await asking)["why"]
        await until(lambda: serve.workers == workers, "nothing of it is left")
        assert serve.log.count("the upgrade failed, everything goes on as it was") == 4
    assert not traffic.faults
    assert traffic.closes == 0
    assert len((await serve.status())["nodes"]) == 2
