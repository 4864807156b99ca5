"""Agents given by name: looked up anew while running, and connections to addresses that are gone drain."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

import pytest
from rig import Agent, Proxy, Rig, Script, Serving, get, ok, until

Book = dict[str, list[str] | Exception]


@pytest.fixture
async def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    """A name server of the test's own: name → addresses, or the error it answers with."""
    book: Book = {}

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        found = book.get(host, [host])
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return book


def agents_on_one_port(rig: Rig, count: int = 2) -> list[Agent]:
    """Agents on 127.0.0.1, 127.0.0.2, … and the same port; each answers with its address."""
    while True:
        first = Agent(Serving(ok(b"127.0.0.1")))
        agents = [first]
        try:
            for number in range(2, count + 1):
                address = f"127.0.0.{number}"
                agents.append(Agent(Serving(ok(address.encode())), address=f"{address}:{first.port}"))
        except OSError:
            continue
        finally:
            rig.agents.extend(agents)
        return agents


async def named(rig: Rig, port: int, **options: object) -> Proxy:
    """A proxy to `agent.test`, whose name has been looked up."""
    proxy = await rig.proxy(f"http://agent.test:{port}", **options)
    await until(lambda: proxy.upstream().addresses != ("agent.test",), "the name is looked up")
    return proxy


async def test_a_name_is_looked_up_anew_every_dns_interval(rig: Rig, book: Book) -> None:
    one, two = agents_on_one_port(rig)
    book["agent.test"] = ["127.0.0.1"]
    proxy = await named(rig, one.port, pool={"dns_interval": 0.1})
    client = await proxy.connect()
    await client.send(get())
    assert (await client.answer()).body == b"127.0.0.1"
    book["agent.test"] = ["127.0.0.2"]
    await until(lambda: proxy.upstream().addresses == ("127.0.0.2",))
    await client.send(get())
    assert (await client.answer()).body == b"127.0.0.2"
    assert len(two.wires) == 1
    await until(lambda: one.wires[0].sock.fileno() < 0, "the resting connection to the old address is closed")


async def test_a_busy_connection_to_an_old_address_finishes_and_is_not_kept(rig: Rig, book: Book) -> None:
    one, _ = agents_on_one_port(rig)
    script = Script()
    one.handler = script
    book["agent.test"] = ["127.0.0.1"]
    proxy = await named(rig, one.port, pool={"dns_interval": 0.1})
    client = await proxy.connect()
    await client.send(get())
    agent = await script.next()
    await agent.head()
    book["agent.test"] = ["127.0.0.2"]
    await until(lambda: proxy.upstream().addresses == ("127.0.0.2",))
    await agent.send(ok(b"from the old one"))
    assert (await client.answer()).body == b"from the old one"
    await agent.gone()
    await client.send(get())
    assert (await client.answer()).body == b"127.0.0.2"


async def test_a_failed_connect_has_the_name_looked_up_again(rig: Rig, book: Book) -> None:
    """Long before `dns_interval`: the agent has moved."""
    one, _ = agents_on_one_port(rig)
    book["agent.test"] = ["127.0.0.1"]
    proxy = await named(rig, one.port, pool={"max_idle": 0})
    book["agent.test"] = ["127.0.0.2"]
    await one.close()
    assert (await proxy.ask(get())).status == 502
    await until(lambda: proxy.upstream().addresses == ("127.0.0.2",))
    assert (await proxy.ask(get())).body == b"127.0.0.2"


async def test_a_name_server_that_is_away_takes_nothing_with_it(
    rig: Rig, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = agents_on_one_port(rig)
    book["agent.test"] = ["127.0.0.1"]
    proxy = await named(rig, one.port, pool={"dns_interval": 0.05})
    book["agent.test"] = OSError("the name server is away")
    await until(lambda: caplog.text.count("the name server is away") >= 2)
    assert (await proxy.ask(get())).body == b"127.0.0.1"


async def test_a_look_up_that_fails_in_an_odd_way_is_not_the_last(
    rig: Rig, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a resolver raises (a label too long for IDNA is a UnicodeError), the next one is asked all the same."""
    one, _ = agents_on_one_port(rig)
    book["agent.test"] = ["127.0.0.1"]
    proxy = await named(rig, one.port, pool={"dns_interval": 0.05})
    book["agent.test"] = UnicodeError("label too long")
    await until(lambda: "label too long" in caplog.text)
    book["agent.test"] = ["127.0.0.2"]
    await until(lambda: proxy.upstream().addresses == ("127.0.0.2",))


async def test_a_name_with_several_addresses_uses_them_in_turn(rig: Rig, book: Book) -> None:
    agents = agents_on_one_port(rig, 3)
    book["agent.test"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    proxy = await named(rig, agents[0].port, pool={"max_idle": 0})
    bodies = Counter([(await proxy.ask(get())).body for _ in range(9)])
    assert set(bodies.values()) == {3}


async def test_one_address_of_several_that_refuses_costs_no_request(rig: Rig, book: Book) -> None:
    """Nothing was sent to it: the next address of the same name is tried, whatever the method."""
    agents = agents_on_one_port(rig, 2)
    book["agent.test"] = ["127.0.0.1", "127.0.0.2"]
    proxy = await named(rig, agents[0].port, pool={"max_idle": 0})
    await agents[0].close()
    statuses = Counter([(await proxy.ask(get(method="DELETE"))).status for _ in range(6)])
    assert statuses == {200: 6}
