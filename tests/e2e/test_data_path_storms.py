"""Everything at odds, many times over: random cuts, resets at every stage, garbage from either side. Whatever happens,
every answer is either right or an honest error, nobody hangs, nothing leaks, and the loop hears of no exception."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from rig import Rig, Serving, get, ok, post, until
from wire import Ended, Message, Wire

SEEDS = range(3)


def cuts(dice: random.Random, data: bytes) -> Iterator[bytes]:
    """The data in pieces of random size, often very small ones."""
    at = 0
    while at < len(data):
        size = dice.choice((1, 1, 2, 3, 7, 50, 1_000))
        yield data[at : at + size]
        at += size


def chunks(dice: random.Random, body: bytes) -> bytes:
    """The body in chunks of random size, written in odd but allowed ways."""
    parts = []
    while body:
        size = min(len(body), dice.choice((1, 2, 15, 16, 17, 300)))
        head = dice.choice((b"%x", b"%X", b"0%x", b"00%x;a=b", b"%x;x"))
        parts.append(head % size + b"\r\n" + body[:size] + b"\r\n")
        body = body[size:]
    return b"".join(parts) + b"0\r\n" + dice.choice((b"", b"X-Sum: 1\r\n")) + b"\r\n"


class Echo:
    """Answers with what it was asked, in random framing and random pieces."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def framed(self, body: bytes) -> bytes:
        dice = self.dice
        interim = dice.choice((b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"))
        if dice.random() < 0.5:
            return interim + ok(body)
        return interim + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(dice, body)

    async def __call__(self, wire: Wire) -> None:
        while True:
            request = await wire.asked()
            await wire.send_each(cuts(self.dice, self.framed(request.target + b" " + request.body)))


async def final(client: Wire) -> Message:
    """The next answer that is no interim one."""
    while (answer := await client.answer()).status < 200:
        pass
    return answer


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_cuts_change_nothing(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    proxy = await rig.proxy(rig.agent(Echo(seed)))

    async def talk(number: int) -> None:
        client = await proxy.connect()
        for turn in range(8):
            body = dice.randbytes(dice.choice((0, 1, 100, 5_000)))
            target = f"/{number}/{turn}"
            if dice.random() < 0.5:
                request = post(body, target=target)
            else:
                request = get(target, "Transfer-Encoding: chunked", method="PUT") + chunks(dice, body)
            await client.send_each(cuts(dice, request))
            assert (await final(client)).body == target.encode() + b" " + body

    await asyncio.gather(*(talk(number) for number in range(6)))
    assert proxy.slot().classes == [0, 0, 48, 0, 0, 0]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_pipeline_in_random_cuts_is_answered_in_order(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    proxy = await rig.proxy(rig.agent(Echo(seed)), limits={"max_pipelined": 3})
    bodies = [dice.randbytes(dice.choice((0, 1, 3_000))) for _ in range(40)]
    requests = [
        post(body, target=f"/{n}")
        if n % 3
        else get(f"/{n}", "Transfer-Encoding: chunked", method="POST") + chunks(dice, body)
        for n, body in enumerate(bodies)
    ]
    client = await proxy.connect()
    sender = asyncio.create_task(client.send_each(cuts(dice, b"".join(requests))))
    for number, body in enumerate(bodies):
        assert (await final(client)).body == f"/{number} ".encode() + body
    await sender


@pytest.mark.parametrize("seed", SEEDS)
async def test_clients_that_leave_at_any_byte_leave_nothing_behind(rig: Rig, seed: int) -> None:
    """Some by FIN, some by reset, after a random part of a request and of its answer; who stays is served."""
    dice = random.Random(seed)
    proxy = await rig.proxy(rig.agent(Echo(seed)), pool={"max_connections": 8})
    request = get("/x", "Transfer-Encoding: chunked", method="PUT") + chunks(dice, b"y" * 200)

    async def leave() -> None:
        client = await proxy.connect()
        part = dice.randrange(len(request) + 1)
        await client.send_each(cuts(dice, request[:part]))
        if part == len(request) and dice.random() < 0.5:
            with suppress(Ended):
                await client.exactly(dice.randrange(1, 120))
        dice.choice((Wire.close, Wire.reset))(client)

    async def stay() -> None:
        client = await proxy.connect()
        for _ in range(5):
            await client.send(post(b"stay"))
            assert (await final(client)).body == b"/ stay"

    await asyncio.gather(*(leave() if number % 4 else stay() for number in range(60)))


class Saboteur:
    """Plays a random trick on every request; a good answer is among them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    async def __call__(self, wire: Wire) -> None:
        dice = self.dice
        while True:
            trick = dice.randrange(10)
            if trick == 0:
                return  # right after the accept, or after an answer
            if trick == 1:
                wire.reset()
                return
            head = await wire.head()
            good = self.good(head.target)
            if trick == 2:
                await wire.send(dice.randbytes(dice.randrange(1, 300)))
                return
            if trick == 3:
                await wire.send_each(cuts(dice, good[: dice.randrange(len(good))]))
                dice.choice((Wire.close, Wire.reset))(wire)
                return
            if trick == 4:
                await wire.send(good + dice.choice((good, b"garbage", b"\r\n")))
                await wire.gone()
                return
            if trick == 5:
                spoiled = bytearray(good)
                spoiled[dice.randrange(len(good))] = dice.randrange(256)
                await wire.send(bytes(spoiled))
                return
            await wire.send_each(cuts(dice, good))

    def good(self, target: bytes) -> bytes:
        body = b"answer to %b " % target * 5
        if self.dice.random() < 0.5:
            return ok(body)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(self.dice, body)


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_an_agent_does_its_clients_are_told_the_truth(rig: Rig, seed: int) -> None:
    """No answer ever belongs to another request, and no client waits for what never comes."""
    saboteurs = [rig.agent(Saboteur(seed * 10 + number)) for number in range(2)]
    proxy = await rig.proxy(*saboteurs, health={"eject_after": 0}, timeouts={"response_head_timeout": 1.0})
    statuses: list[int] = []

    async def ask(number: int) -> None:
        client = await proxy.connect()
        for turn in range(10):
            target = f"/{number}/{turn}"
            try:
                await client.send(get(target))
                answer = await final(client)
            except (Ended, ConnectionError):  # it broke off, and the client could tell
                client = await proxy.connect()
                continue
            statuses.append(answer.status)
            if b"answer to" in answer.body:  # a spoiled byte may have been one of the body, but never of another's
                assert answer.body.count(target.encode()) >= 4

    await asyncio.gather(*(ask(number) for number in range(12)))
    assert statuses.count(200) > 30
    assert statuses.count(502) > 5


@pytest.mark.parametrize("seed", SEEDS)
async def test_garbage_of_clients_reaches_no_agent(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    request = get("/fine", "X-Some: field", "Content-Length: 4", method="POST") + b"body"

    async def spoil() -> None:
        client = await proxy.connect()
        kind = dice.randrange(3)
        if kind == 0:
            data = dice.randbytes(300) + b"\r\n\r\n"
        elif kind == 1:
            at = dice.randrange(len(request) - 8)
            data = request[:at] + bytes([dice.choice((0, 9, 10, 13, 32, 58, 127, 200))]) + request[at + 1 :]
        else:
            data = request.replace(b": ", dice.choice((b" : ", b":\n", b":\0", b": \r\n ", b": \r")), 1)
        with suppress(ConnectionError):  # it may have turned into a request that was answered before its end
            await client.send_each(cuts(dice, data))
            client.fin()
            await client.rest()
        client.close()

    await asyncio.gather(*(spoil() for _ in range(80)))
    for head in agent.seen:  # what came through is well, as parsing it here without forgiveness has shown
        assert len(head.all(b"host")) == 1
        assert head.start.endswith(b"HTTP/1.1")


async def test_resets_right_after_the_connect(rig: Rig) -> None:
    """In the kernel's queue, before we have accepted them."""
    proxy = await rig.proxy(rig.agent(Serving()))
    for _ in range(20):
        for _ in range(20):
            Wire(socket.create_connection(proxy.address)).reset()
        await asyncio.sleep(0)
    await until(lambda: proxy.metrics.connections_total > 0)
    assert (await proxy.ask(get())).status == 200
    await until(lambda: not proxy.counts())


@pytest.mark.parametrize("seed", SEEDS)
async def test_tunnels_torn_at_random(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)

    async def agent(wire: Wire) -> None:
        await wire.head()
        await wire.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", dice.randbytes(9)
        )
        for _ in range(dice.randrange(5)):
            await wire.send(await wire.more())
        dice.choice((Wire.close, Wire.reset, Wire.fin))(wire)

    proxy = await rig.proxy(rig.agent(agent), pool={"max_connections": 10})

    async def talk() -> None:
        client = await proxy.connect()
        await client.send(get("/", "Connection: upgrade", "Upgrade: websocket"), dice.randbytes(dice.randrange(20)))
        try:
            assert (await client.head()).status == 101
            for _ in range(dice.randrange(5)):
                await client.send(dice.randbytes(dice.choice((1, 100, 100_000))))
            if dice.random() < 0.5:
                client.fin()
                await client.gone()
        except (Ended, ConnectionError):
            pass
        dice.choice((Wire.close, Wire.reset))(client)

    for _ in range(4):
        await asyncio.gather(*(talk() for _ in range(8)))
    await until(lambda: not proxy.plane.tunnels)
    await until(lambda: proxy.upstream().open == 0)
