"""Fields on their way: which end at this hop, which are written here, which nobody can name away, and where a request
goes by its host and path."""

from __future__ import annotations

import asyncio
import socket

import pytest
from rig import Agent, Proxy, Rig, Serving, get, ok, until
from wire import Message, Wire

from bgproxy.rules.route import Route


async def seen(rig: Rig, *fields: str, host: str = "agents.test", **options: object) -> Message:
    """What an agent gets of a request with these fields."""
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent), **options)
    assert (await proxy.ask(get("/", *fields, host=host))).status == 200
    return agent.seen[0]


async def got(rig: Rig, *fields: bytes, **options: object) -> Message:
    """What a client gets of an answer with these fields."""
    proxy = await rig.proxy(rig.agent(Serving(ok(b"hello", *fields))), **options)
    return await proxy.ask(get())


HOP_BY_HOP = ("Keep-Alive: timeout=5", "Proxy-Connection: close", "TE: trailers", "HTTP2-Settings: x")


@pytest.mark.parametrize("field", HOP_BY_HOP)
async def test_hop_by_hop_fields_of_a_request_end_here(rig: Rig, field: str) -> None:
    head = await seen(rig, field, "X-Stays: 1")
    assert head.get(field.partition(":")[0].encode()) is None
    assert head.get(b"x-stays") == b"1"


@pytest.mark.parametrize("field", [b"Keep-Alive: timeout=5", b"Proxy-Connection: close", b"Connection: X-Other"])
async def test_hop_by_hop_fields_of_an_answer_end_here(rig: Rig, field: bytes) -> None:
    answer = await got(rig, field, b"X-Stays: 1")
    assert answer.get(field.partition(b":")[0]) is None
    assert answer.get(b"x-stays") == b"1"


async def test_fields_that_connection_names_end_here(rig: Rig) -> None:
    head = await seen(rig, "Connection: X-Mine, x-yours ,, close", "X-Mine: 1", "X-YOURS: 2", "X-Stays: 3")
    assert (head.get(b"x-mine"), head.get(b"x-yours"), head.get(b"x-stays")) == (None, None, b"3")
    answer = await got(rig, b"Connection: X-Mine", b"x-mine: 1", b"X-Stays: 3")
    assert (answer.get(b"x-mine"), answer.get(b"x-stays")) == (None, b"3")


PROTECTED = {
    "Host": "agents.test",
    "Cookie": "a=b",
    "Authorization": "Bearer x",
    "Content-Type": "text/plain",
    "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "Mcp-Session-Id": "s1",
    "X-Request-Id": "r1",
}


@pytest.mark.parametrize("name", PROTECTED)
async def test_what_matters_to_others_cannot_be_named_away(rig: Rig, name: str) -> None:
    fields = [] if name == "Host" else [f"{name}: {PROTECTED[name]}"]
    head = await seen(rig, f"Connection: keep-alive, {name}, X-Forwarded-For, Content-Length, Via", *fields)
    assert head.get(name.encode()) == PROTECTED[name].encode()
    assert head.get(b"x-forwarded-for") == b"127.0.0.1"
    assert head.get(b"via") == b"1.1 bgproxy"


async def test_a_length_cannot_be_named_away(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    request = get("/", "Connection: Content-Length", "Content-Length: 4", method="POST") + b"body"
    assert (await proxy.ask(request)).status == 200
    assert agent.seen[0].body == b"body"


SPOOFED = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.test",
    "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
    "X-Bgproxy-Color: green",
)


async def test_what_a_stranger_says_of_itself_is_overwritten(rig: Rig) -> None:
    head = await seen(rig, *SPOOFED)
    assert head.get(b"x-forwarded-for") == b"127.0.0.1"
    assert head.get(b"x-forwarded-proto") == b"http"
    assert head.get(b"x-forwarded-host") == b"agents.test"
    for name in (b"x-real-ip", b"forwarded", b"x-bgproxy-color"):
        assert head.get(name) is None


@pytest.mark.parametrize("networks", [("127.0.0.0/8",), ("10.0.0.0/8", "127.0.0.1"), ("0.0.0.0/0",)])
async def test_what_a_trusted_proxy_says_is_kept_and_added_to(rig: Rig, networks: tuple[str, ...]) -> None:
    head = await seen(rig, *SPOOFED, forwarding={"trusted_proxies": networks, "forwarded": True})
    assert head.get(b"x-forwarded-for") == b"6.6.6.6, 127.0.0.1"
    assert head.get(b"x-forwarded-proto") == b"https"
    assert head.get(b"x-forwarded-host") == b"evil.test"
    assert head.get(b"x-real-ip") == b"6.6.6.6"
    assert head.get(b"forwarded") == b'for=6.6.6.6, for=127.0.0.1;proto=http;host="agents.test"'
    assert head.get(b"x-bgproxy-color") is None


async def test_another_network_is_not_trusted(rig: Rig) -> None:
    head = await seen(rig, *SPOOFED, forwarding={"trusted_proxies": ("10.0.0.0/8", "unix")})
    assert head.get(b"x-forwarded-for") == b"127.0.0.1"


async def test_each_request_of_a_trusted_connection_speaks_for_itself(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent), forwarding={"trusted_proxies": ("127.0.0.1",)})
    client = await proxy.connect()
    for number in (1, 2):
        await client.send(get("/", f"X-Forwarded-For: 10.0.0.{number}"))
        await client.answer()
    assert [head.get(b"x-forwarded-for") for head in agent.seen] == [b"10.0.0.1, 127.0.0.1", b"10.0.0.2, 127.0.0.1"]


async def test_each_host_of_a_connection_is_told_as_it_is(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    for host in ("one.test", "two.test:8080", "one.test"):
        await client.send(get(host=host))
        await client.answer()
    hosts = [(head.get(b"host"), head.get(b"x-forwarded-host")) for head in agent.seen]
    assert hosts == [(host, host) for host in (b"one.test", b"two.test:8080", b"one.test")]


async def dual_stack(rig: Rig, **options: object) -> tuple[Proxy, Serving]:
    """A proxy that listens on IPv6 for both families."""
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    agent = Serving()
    return await rig.proxy(rig.agent(agent), listening=listening, **options), agent


async def test_an_ipv6_client_is_quoted_where_it_must_be(rig: Rig) -> None:
    proxy, agent = await dual_stack(rig, forwarding={"forwarded": True})
    proxy.address = ("::1", proxy.port)
    assert (await proxy.ask(get())).status == 200
    assert agent.seen[0].get(b"x-forwarded-for") == b"::1"
    assert agent.seen[0].get(b"forwarded") == b'for="[::1]";proto=http;host="agents.test"'


async def test_an_ipv4_client_of_an_ipv6_socket_is_known_by_its_own_address(rig: Rig) -> None:
    """The kernel writes it as ::ffff:127.0.0.1; networks and agents know it as 127.0.0.1."""
    proxy, agent = await dual_stack(rig, forwarding={"trusted_proxies": ("127.0.0.0/8",)})
    proxy.address = ("::ffff:127.0.0.1", proxy.port)
    assert (await proxy.ask(get("/", "X-Forwarded-For: 10.0.0.1"))).status == 200
    assert agent.seen[0].get(b"x-forwarded-for") == b"10.0.0.1, 127.0.0.1"


async def test_a_client_that_is_gone_is_not_taken_for_a_unix_socket(rig: Rig) -> None:
    """Its address cannot be asked for any more; its request is read all the same."""
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent), forwarding={"trusted_proxies": ("unix",)})
    for _ in range(20):
        client = Wire(socket.create_connection(proxy.address))
        client.sock.send(get("/", "X-Forwarded-For: 6.6.6.6"))
        client.reset()
        await asyncio.sleep(0)
    await until(lambda: proxy.metrics.connections_total == 20)
    await until(lambda: not proxy.plane.connections)
    assert {head.get(b"x-forwarded-for") for head in agent.seen} <= {b"127.0.0.1", b"0.0.0.0"}


async def test_the_host_that_is_made_up_is_of_the_color_that_serves(rig: Rig) -> None:
    handlers = [Serving(ok(b"hello", b"Connection: keep-alive")) for _ in range(2)]
    blue, green = [rig.agent(handler) for handler in handlers]
    proxy = await rig.proxy(blue, green=(green,))
    client = await proxy.connect()
    for agent, handler in ((blue, handlers[0]), (green, handlers[1])):
        await client.send(get("/", "Connection: keep-alive", version="1.0", host=""))
        assert (await client.answer()).status == 200
        assert handler.seen[0].get(b"host") == f"127.0.0.1:{agent.port}".encode()
        if agent is blue:
            proxy.flip("green")


async def test_an_agent_on_ipv6(rig: Rig) -> None:
    agent = Serving()
    server = rig.agent(agent, address="[::1]:0")
    proxy = await rig.proxy(server)
    assert (await proxy.ask(get(version="1.0", host=""))).status == 200
    assert agent.seen[0].get(b"host") == f"[::1]:{server.port}".encode()


async def test_a_request_id_is_kept_or_made(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    for fields in ((), (), ("X-Request-Id: mine-1",), ("X-Request-Id: two words",), ("X-Request-Id: a",) * 2):
        await client.send(get("/", *fields))
        await client.answer()
    ids = [head.get(b"x-request-id") or b"" for head in agent.seen]
    assert ids[2] == b"mine-1"
    made = [ids[0], ids[1], ids[3], ids[4]]
    assert len(set(made)) == 4
    assert all(len(made_id) == 32 for made_id in made)


async def test_trace_context_passes(rig: Rig) -> None:
    head = await seen(rig, f"traceparent: {PROTECTED['Traceparent']}", "tracestate: a=1")
    assert head.get(b"traceparent") == PROTECTED["Traceparent"].encode()
    assert head.get(b"tracestate") == b"a=1"


async def test_repeated_fields_stay_in_order(rig: Rig) -> None:
    head = await seen(rig, "X-Many: 1", "X-Other: o", "X-Many: 2", "x-many: 3")
    assert head.all(b"x-many") == [b"1", b"2", b"3"]
    answer = await got(rig, b"Set-Cookie: a=1", b"Set-Cookie: b=2")
    assert answer.all(b"set-cookie") == [b"a=1", b"b=2"]


async def test_via_and_the_debug_header(rig: Rig) -> None:
    agents = [rig.agent(Serving()) for _ in range(2)]
    proxy = await rig.proxy(agents[0], green=(agents[1],), forwarding={"via": "edge", "debug_header": True})
    client = await proxy.connect()
    for color, epoch in ((b"blue", b"1"), (b"green", b"2")):
        await client.send(get())
        answer = await client.answer()
        assert (answer.get(b"x-bgproxy-color"), answer.get(b"x-bgproxy-epoch")) == (color, epoch)
        if color == b"blue":
            proxy.flip("green")
    handler = agents[0].handler
    assert isinstance(handler, Serving)
    assert handler.seen[0].get(b"via") == b"1.1 edge"


# Routes


async def test_routes_by_host_and_longest_prefix_and_one_flip_for_all(rig: Rig) -> None:
    names = ("chat", "tools", "deep", "rest")
    agents: dict[str, Agent] = {
        f"{name} {color}": rig.agent(Serving(ok(f"{name} {color}".encode())))
        for name in names
        for color in ("blue", "green")
    }
    routes = [
        Route("rest"),
        Route("chat", host="chat.test"),
        Route("tools", path="/tools"),
        Route("deep", host="chat.test", path="/tools/deep"),
    ]
    proxy = await rig.proxy(
        agents["rest blue"],
        green=(agents["rest green"],),
        routes=routes,
        routes_of_blue={name: (agents[f"{name} blue"].url,) for name in names},
        routes_of_green={name: (agents[f"{name} green"].url,) for name in names},
    )
    cases = [
        ("any.test", "/", "rest"),
        ("any.test", "/toolsmith", "rest"),
        ("any.test", "/tools", "tools"),
        ("any.test", "/tools?x", "tools"),
        ("any.test", "/tools/deep/er", "tools"),
        ("chat.test", "/", "chat"),
        ("CHAT.test:8080", "/x", "chat"),
        ("chat.test.", "/x", "chat"),
        ("chat.test", "/tools/deep/er", "deep"),
    ]
    client = await proxy.connect()
    for color in ("blue", "green"):
        if color == "green":
            proxy.flip("green")
        for host, target, name in cases:
            await client.send(get(target, host=host))
            assert (await client.answer()).body == f"{name} {color}".encode(), (host, target)


async def test_no_route_is_a_404_of_our_own(rig: Rig) -> None:
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent, routes=(Route("chat", host="chat.test", path="/v1"),))
    for host, target in (("other.test", "/v1"), ("chat.test", "/v2")):
        answer = await proxy.ask(get(target, host=host))
        assert answer.status == 404
        assert b"no_route" in answer.body
    assert not agent.wires


async def test_a_color_without_a_release_is_a_503_that_keeps_the_connection(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()))
    proxy.flip("green")
    client = await proxy.connect()
    for _ in range(2):
        await client.send(get())
        answer = await client.answer()
        assert (answer.status, answer.get(b"connection")) == (503, None)
        assert b"no_upstream" in answer.body
    await client.send(get(method="HEAD"))
    assert (await client.answer(b"HEAD")).status == 503
    assert client.is_silent()


async def test_fields_with_an_underscore_stay_here_and_are_counted(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    await proxy.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX_A: 1\r\nX-B: 2\r\nC_: 3\r\n\r\n")
    names = [name for name, _ in agent.seen[0].fields]
    assert b"x-b" in [name.lower() for name in names]
    assert not [name for name in names if b"_" in name]
    assert proxy.metrics.dropped_fields == 2
