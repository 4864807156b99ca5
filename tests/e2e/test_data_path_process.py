"""The data path of `bgproxy serve`, in its own process: what it weighs while bodies pass, and what it does when the
file descriptors run out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import time
from contextlib import suppress
from pathlib import Path

from rig import Rig, Script, Serving, get, ok, until
from serving import Serve, Town
from wire import Ended, Wire

SIZE = 200_000_000
PIECE = b"0123456789abcdef" * 6_250  # 100 kB
ROOM = 4 * 1_024  # KiB by which a worker may grow while it passes 200 MB through


class Asked(Script):
    """Only connections that say something count: health checks just knock."""

    async def __call__(self, wire: Wire) -> None:
        wire.held = await wire.more(60.0)
        if wire.held:
            await super().__call__(wire)


def descriptors(pid: int) -> int:
    """How many are open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def allow(pid: int, count: int) -> None:
    """Let the process have so many descriptors."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def memory(pid: int, what: str = "VmRSS") -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":"))


def forget_peak(pid: int) -> None:
    """Let VmHWM begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def processor(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def write(wire: Wire) -> None:
    for _ in range(SIZE // len(PIECE)):
        await wire.send(PIECE)


async def read(wire: Wire) -> bytes:
    """All of it, with pauses in which the writer could run ahead; its digest."""
    digest = hashlib.blake2b()
    left = SIZE
    for share in range(10):
        await asyncio.sleep(0.05)
        while left > SIZE * (9 - share) // 10:
            data = wire.held or await wire.more()
            wire.held = b""
            assert data, "it ended early"
            digest.update(data)
            left -= len(data)
    assert left == 0
    return digest.digest()


def whole() -> bytes:
    digest = hashlib.blake2b()
    for _ in range(SIZE // len(PIECE)):
        digest.update(PIECE)
    return digest.digest()


async def test_two_hundred_megabytes_each_way_leave_the_worker_as_small_as_it_was(rig: Rig, town: Town) -> None:
    script = Asked()
    serve = await town.start("--blue", rig.agent(script).url).ready()
    (worker,) = serve.workers
    client = await serve.connect()
    await client.send(get("/warm"))
    agent = await script.next()
    await agent.head()
    await agent.send(ok())
    await client.answer()
    expected = whole()

    before = memory(worker)
    forget_peak(worker)
    await client.send(get("/down"))
    await agent.head()
    await agent.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
    await client.head()
    _, digest = await asyncio.gather(write(agent), read(client))
    assert digest == expected
    assert memory(worker, "VmHWM") - before < ROOM

    forget_peak(worker)
    await client.send(get("/up", f"Content-Length: {SIZE}", method="POST"))
    await agent.head()
    _, digest = await asyncio.gather(write(client), read(agent))
    assert digest == expected
    await agent.send(ok(b"done"))
    assert (await client.answer()).body == b"done"
    assert memory(worker, "VmHWM") - before < ROOM
    client.close()


async def crowd(serve: Serve, count: int) -> tuple[list[Wire], list[str]]:
    """So many clients that each ask once and stay; who was served, and the codes of who was not."""
    served, codes = [], []
    for _ in range(count):
        client = await serve.connect()
        await client.send(get())
        try:
            async with asyncio.timeout(0.3):
                answer = await client.answer()
        except (TimeoutError, Ended, ConnectionError):
            codes.append("queued")  # in the kernel's queue, until there is room
            served.append(client)
            continue
        if answer.status == 200:
            served.append(client)
        else:
            assert answer.status == 503
            codes.append(json.loads(answer.body)["code"])
            client.close()
    return served, codes


async def test_out_of_file_descriptors(rig: Rig, town: Town) -> None:
    """It says so to some, lets the others wait, burns no processor, calls no agent ill for it, and comes back."""
    serve = await town.start("--blue", rig.agent(Serving()).url).ready()
    (worker,) = serve.workers
    early = await serve.connect()
    await early.send(get())
    assert (await early.answer()).status == 200

    used = descriptors(worker)
    allow(worker, used + 12)
    clients, codes = await crowd(serve, 25)
    assert codes, "the limit was never met"
    assert set(codes) <= {"out_of_descriptors", "queued"}
    assert "out_of_descriptors" in codes
    assert serve.log.count("out of file descriptors") >= 1

    began, busy = time.monotonic(), processor(worker)
    await asyncio.sleep(0.5)
    assert processor(worker) - busy < 0.5 * (time.monotonic() - began)
    await early.send(get())  # who is connected is served on
    assert (await early.answer()).status == 200

    for client in clients:
        client.close()
    await until(lambda: descriptors(worker) <= used + 2)
    late, codes = await crowd(serve, 5)
    assert (len(late), codes) == (5, [])
    allow(worker, 1_024)
    status = await serve.status()
    (upstream,) = status["colors"]["blue"]["upstreams"]
    assert upstream["healthy"] is True
    for client in (early, *late):
        client.close()


async def test_no_descriptor_for_the_agent_is_our_fault_and_said_so(rig: Rig, town: Town) -> None:
    """A client is in, but no connection can be opened to an agent: 503, and the agent is not ejected."""
    script = Asked()
    serve = await town.start("--blue", rig.agent(script).url).ready()
    (worker,) = serve.workers
    busy, client = await serve.connect(), await serve.connect()
    await client.send(get("/first"))
    agent = await script.next()
    await agent.head()
    await agent.send(ok())
    await client.answer()
    await busy.send(get("/busy"))  # which takes the one connection that rests
    await agent.head()
    allow(worker, 4)  # all of the lowest are taken
    for _ in range(5):
        await client.send(get())
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "out_of_descriptors")
    allow(worker, 1_024)
    await client.send(get("/again"))
    other = await script.next()
    await other.head()
    await other.send(ok(b"back"))
    assert (await client.answer()).body == b"back"
    await agent.send(ok(b"never disturbed"))
    assert (await busy.answer()).body == b"never disturbed"
    (upstream,) = (await serve.status())["colors"]["blue"]["upstreams"]
    assert upstream["healthy"] is True
    for wire in (busy, client):
        wire.close()


async def test_streams_hold_little_each(rig: Rig, town: Town) -> None:
    """Memory per open stream, measured: below 16 KiB."""
    count = 400

    async def stream(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await wire.send(b"9\r\ndata: x\n\n\r\n")
        await wire.gone(60.0)

    serve = await town.start("--blue", rig.agent(stream).url).ready()
    (worker,) = serve.workers
    clients: list[Wire] = []

    async def open_streams(number: int) -> None:
        for _ in range(number):
            client = await serve.connect()
            clients.append(client)
            await client.send(get("/events", "Accept: text/event-stream", *[f"X-{n}: {'v' * 20}" for n in range(10)]))
        for client in clients[-number:]:
            await client.head()
            assert await client.chunk() == b"data: x\n\n"

    await open_streams(100)  # what the process needs anyway
    before = memory(worker)
    await open_streams(count)
    each = (memory(worker) - before) / count
    assert each < 16, f"{each:.1f} KiB per stream"
    assert (await serve.status())["colors"]["blue"]["streams"] == count + 100
    for client in clients:
        with suppress(OSError):
            client.close()
