"""Sessions on the data path: known by what requests say and answers mint, and kept where they began."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from rig import Proxy, Rig, Script, Serving, get, ok, post, until
from wire import Message, Wire

from bgproxy.store.pinning import Turn, Want

JSON = "Content-Type: application/json"
SESSION = "X-Session-Id: s-1"
PATIENT = {"pin_write_timeout": 5.0}


def saying(name: str, *fields: bytes) -> Serving:
    """An agent that says who it is."""
    return Serving(lambda _: ok(name.encode(), *fields))


async def two_colors(rig: Rig, *presets: str, **options: object) -> tuple[Proxy, Serving, Serving]:
    """A proxy before two agents that say their color."""
    blue, green = saying("blue"), saying("green")
    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(green),), sessions=presets, **options)
    return proxy, blue, green


async def asked_on_green(rig: Rig, *fields: str) -> tuple[Proxy, Script, Wire, Wire]:
    """An MCP client's turn under way on the new color: the proxy, its agent, and the wires to client and agent."""
    script = Script()
    proxy = await rig.proxy(
        rig.agent(saying("blue")),
        green=(rig.agent(script),),
        sessions=["mcp"],
        session_options={"on_rollback": "move"},
    )
    proxy.flip("green")
    client = await proxy.connect()
    await client.send(get("/mcp", *fields))
    agent = await script.next()
    await agent.request()
    return proxy, script, client, agent


async def applied(rig: Rig, proxy: Proxy) -> None:
    """The store has heard that the proxy routes by the state that stands."""
    state = proxy.plane.state
    assert state is not None
    await until(lambda: rig.pins._turns.states.get("node") == (state.pointer.epoch, state.revision))


async def at_rest(rig: Rig, proxy: Proxy) -> None:
    """No turn is under way, and the store has heard so."""
    await until(lambda: not proxy.plane.busy and not rig.pins._turns.under_way)


async def says(proxy: Proxy, request: bytes, method: bytes = b"GET") -> str:
    answer = await proxy.ask(request, method)
    assert answer.status == 200, answer
    return answer.body.decode()


def a2a(context: str = "", method: str = "message/send", **more: object) -> bytes:
    """A turn of A2A; its context stands behind everything else."""
    message: dict[str, object] = {"role": "user", "parts": [{"kind": "text", "text": "hello"}]}
    params: dict[str, object] = {**more, "message": {**message, **({"contextId": context} if context else {})}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


async def test_a_session_stays_where_it_began_and_a_new_one_begins_on_the_new_color(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id")
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.flip("green")
    assert await says(proxy, get("/", SESSION)) == "blue"
    assert await says(proxy, get("/", "X-Session-Id: s-2")) == "green"
    assert await says(proxy, get("/")) == "green"
    proxy.flip("blue")
    assert await says(proxy, get("/", "X-Session-Id: s-2")) == "green"
    assert await says(proxy, get("/", SESSION)) == "blue"
    assert rig.pins.asked == 2  # once per session: what is known costs nothing


async def test_the_same_id_with_other_credentials_is_another_session(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id")
    assert await says(proxy, get("/", SESSION, "Authorization: Bearer a")) == "blue"
    proxy.flip("green")
    assert await says(proxy, get("/", SESSION, "Authorization: Bearer b")) == "green"
    assert await says(proxy, get("/", SESSION)) == "green"
    assert await says(proxy, get("/", SESSION, "Authorization: Bearer a")) == "blue"


async def test_credentials_do_not_count_where_that_is_switched_off(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id", session_options={"bind_credentials": False})
    assert await says(proxy, get("/", SESSION, "Authorization: Bearer a")) == "blue"
    proxy.flip("green")
    assert await says(proxy, get("/", SESSION, "Authorization: Bearer b")) == "blue"


async def test_an_id_that_the_agent_mints_in_its_head_is_pinned_where_it_was_minted(rig: Rig) -> None:
    blue = rig.agent(saying("blue", b"Mcp-Session-Id: M-1"))
    proxy = await rig.proxy(blue, green=(rig.agent(saying("green")),), sessions=["mcp"])
    begun = await proxy.ask(post(b'{"jsonrpc":"2.0","id":1,"method":"initialize"}', JSON, target="/mcp"), b"POST")
    assert begun.get(b"mcp-session-id") == b"M-1"
    proxy.flip("green")
    assert await says(proxy, post(b"{}", JSON, "mcp-session-id: M-1", target="/mcp"), b"POST") == "blue"
    assert await says(proxy, post(b"{}", JSON, "Mcp-Session-Id: m-1", target="/mcp"), b"POST") == "green"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_is_read_for_the_key_and_goes_on_as_it_came(rig: Rig, framing: str) -> None:
    proxy, blue, _ = await two_colors(rig, "a2a")
    body = a2a("C-1")
    head = get("/", JSON, f"Content-Length: {len(body)}", method="POST")
    pieces = [body[at : at + 1] for at in range(len(body))]
    if framing == "chunked":
        head = get("/", JSON, "Transfer-Encoding: chunked", method="POST")
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    assert await says(proxy, post(body, JSON), b"POST") == "blue"
    proxy.flip("green")
    client = await proxy.connect()
    await client.send(head)
    for piece in pieces:
        await client.send(piece)
        await asyncio.sleep(0)
    assert (await client.answer(b"POST")).body == b"blue"
    assert [request.body for request in blue.seen] == [body, body]
    assert await says(proxy, post(a2a("C-2"), JSON), b"POST") == "green"


async def test_a_key_at_the_body_s_begin_lets_the_rest_pass_without_waiting(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), sessions=["json:/session"])
    client = await proxy.connect()
    body = b'{"session":"s-1","rest":"' + b"x" * 1_000 + b'"}'
    await client.send(get("/", JSON, f"Content-Length: {len(body)}", method="POST") + body[:30])
    agent = await script.next()  # though most of the body is still to come
    assert (await agent.head()).method == b"POST"
    await client.send(body[30:])
    assert await agent.exactly(len(body)) == body
    await agent.send(ok())
    assert (await client.answer(b"POST")).status == 200


@pytest.mark.parametrize(
    ("body", "fields", "why"),
    [
        (gzip.compress(a2a("C-1")), ("Content-Encoding: gzip",), "compressed"),
        (a2a("C-1", padding="x" * 70_000), (), "oversized"),
        (b"contextId=C-1", (), "not_json"),
    ],
)
async def test_a_body_that_is_not_read_passes_untouched_unpinned_and_counted(
    rig: Rig, body: bytes, fields: tuple[str, ...], why: str
) -> None:
    proxy, blue, _ = await two_colors(rig, "a2a")
    assert await says(proxy, post(body, JSON, *fields), b"POST") == "blue"
    assert blue.seen[0].body == body
    proxy.flip("green")
    assert await says(proxy, post(body, JSON, *fields), b"POST") == "green"
    assert proxy.plane.unpinned_by == {why: 2}


async def test_an_answer_that_is_not_read_is_counted_as_such(rig: Rig) -> None:
    packed = Serving(lambda _: ok(gzip.compress(b"{}"), JSON.encode(), b"Content-Encoding: gzip"))
    proxy = await rig.proxy(rig.agent(packed), sessions=["a2a"])
    assert (await proxy.ask(post(a2a(), JSON), b"POST")).status == 200
    assert proxy.plane.unpinned_by == {"answer_compressed": 1}


@pytest.mark.parametrize("known", [False, True])
async def test_a_value_that_can_be_no_id_is_counted(rig: Rig, known: bool) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-One", "header:X-Two")
    assert await says(proxy, get("/", "X-One: no id", *(["X-Two: an-id"] if known else []))) == "blue"
    told = proxy.plane.sessions()
    assert (told["ignored"], told["misses"]) == (1, int(known))


async def test_an_id_in_an_event_is_pinned_before_the_client_can_use_it(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(
        rig.agent(script), green=(rig.agent(saying("green")),), sessions=["a2a"], session_options=PATIENT
    )
    client = await proxy.connect()
    await client.send(post(a2a(method="message/stream"), JSON))
    agent = await script.next()
    await agent.request()
    await agent.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.head()
    first = b'data: {"jsonrpc":"2.0","id":1,"result":{"kind":"working"}}\n\n'
    await agent.send(b"%x\r\n%b\r\n" % (len(first), first))
    assert await client.chunk() == first
    rig.pins.open.clear()
    task = b'{"kind":"task","id":"T-1","contextId":"C-1","status":{"state":"submitted"}}'
    event = b'data: {"jsonrpc":"2.0","id":1,"result":%b}\n\n' % task
    begin, end = event[:40], event[40:]  # an id is not whole before the second
    await agent.send(b"%x\r\n%b\r\n" % (len(begin), begin))
    assert await client.chunk() == begin
    await agent.send(b"%x\r\n%b\r\n" % (len(end), end))
    await until(lambda: rig.pins.asked)
    await asyncio.sleep(0.05)
    assert client.is_silent()
    rig.pins.open.set()
    assert await client.chunk() == end
    await agent.send(b"0\r\n\r\n")
    await until(lambda: not proxy.counts().get("in_flight blue"))
    proxy.flip("green")
    asking = asyncio.create_task(says(proxy, post(a2a("C-1"), JSON), b"POST"))
    assert b"C-1" in (await agent.request()).body
    await agent.send(ok(b"blue"))
    assert await asking == "blue"


async def test_the_bytes_with_a_new_id_wait_for_the_store_but_not_for_long(rig: Rig) -> None:
    minted = ok(b"begun", b"Mcp-Session-Id: M-1")
    proxy = await rig.proxy(rig.agent(Serving(minted)), sessions=["mcp"], session_options={"pin_write_timeout": 0.2})
    rig.pins.open.clear()
    client = await proxy.connect()
    began = asyncio.get_running_loop().time()
    await client.send(get("/mcp"))
    answer = await client.answer()
    assert answer.body == b"begun"
    assert asyncio.get_running_loop().time() - began >= 0.19
    rig.pins.open.set()
    await client.send(get("/mcp"))  # and the connection lives on
    assert (await client.answer()).body == b"begun"


async def test_a_client_that_leaves_while_the_store_is_asked_leaves_nothing_behind(rig: Rig) -> None:
    proxy, blue, _ = await two_colors(rig, "header:X-Session-Id")
    rig.pins.open.clear()
    client = await proxy.connect()
    await client.send(get("/", SESSION))
    await until(lambda: rig.pins.asked)
    client.reset()
    await until(lambda: not proxy.counts())
    rig.pins.open.set()
    assert await says(proxy, get("/", SESSION)) == "blue"
    assert len(blue.seen) == 1


async def test_requests_that_ask_for_one_session_at_once_are_one_question(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id")
    rig.pins.open.clear()
    asking = [asyncio.create_task(says(proxy, get("/", SESSION))) for _ in range(10)]
    await until(lambda: len(proxy.plane.connections) == 10)
    await until(lambda: rig.pins.asked)
    await asyncio.sleep(0.01)
    rig.pins.open.set()
    assert await asyncio.gather(*asking) == ["blue"] * 10
    assert rig.pins.asked == 1


async def test_a_rollback_takes_the_sessions_of_the_bad_release_along(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id")
    proxy.flip("green")
    assert await says(proxy, get("/", SESSION)) == "green"
    proxy.roll_back()
    await applied(rig, proxy)
    assert await says(proxy, get("/", SESSION)) == "blue"
    assert await says(proxy, get("/", SESSION)) == "blue"


async def test_of_what_others_have_settled_meanwhile_a_node_decides_anew(rig: Rig) -> None:
    """The session was confirmed on green by another node, at a flip back to it; but since then green was left again."""
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id", session_options={"on_rollback": "move"})
    proxy.flip("green")
    request = post(b"", SESSION)
    assert await says(proxy, request, b"POST") == "green"
    [(pin, _)], _ = await rig.pins.page("", 1)
    proxy.roll_back()
    proxy.flip("green")
    [standing] = await rig.pins.migrate("other", [Turn(pin.id, 1, pin.epoch)])
    assert standing is not None
    assert (standing.color, standing.epoch) == ("green", 4)
    proxy.roll_back()
    await applied(rig, proxy)
    assert await says(proxy, request, b"POST") == "blue"
    await at_rest(rig, proxy)


async def test_after_a_rollback_they_stay_where_that_is_asked_for(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id", session_options={"on_rollback": "stay"})
    proxy.flip("green")
    assert await says(proxy, get("/", SESSION)) == "green"
    proxy.roll_back()
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_a_session_whose_client_only_listens_moves_and_what_it_hears_goes_on(rig: Rig) -> None:
    proxy, _, listener, ear = await asked_on_green(rig, "Mcp-Session-Id: s-1")
    await ear.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    await listener.head()
    assert (len(proxy.plane.busy), len(proxy.plane.attended)) == (0, 1)
    proxy.roll_back()
    await applied(rig, proxy)
    assert await says(proxy, get("/mcp", "Mcp-Session-Id: s-1")) == "blue"
    await ear.send(b"4\r\n:on\n\r\n0\r\n\r\n")
    assert await listener.chunk() == b":on\n"
    await until(lambda: not proxy.plane.attended)


async def test_a_session_that_an_operator_wants_elsewhere_moves_between_two_turns(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), green=(rig.agent(saying("green")),), sessions=["header:X-Session-Id"])
    client = await proxy.connect()
    await client.send(get("/", SESSION))
    agent = await script.next()
    await agent.request()
    ((pin, _),) = (await rig.pins.page("", 10))[0]
    proxy.order(pin, "green")
    await applied(rig, proxy)
    assert await rig.pins.move(pin.id) == await rig.pins.find(pin.id)  # as the turn is under way
    other = await proxy.connect()
    await other.send(get("/", SESSION))
    beside = await script.next()
    await beside.request()
    for wire, side in ((beside, other), (agent, client)):
        await wire.send(ok(b"blue"))
        assert (await side.answer()).body == b"blue"
    await at_rest(rig, proxy)
    assert await says(proxy, get("/", SESSION)) == "green"
    asked = rig.pins.asked
    assert await says(proxy, get("/", SESSION)) == "green"
    assert rig.pins.asked == asked  # what is carried out costs no round trip any more
    proxy.flip("green")
    proxy.flip("blue")
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_a_session_that_is_minted_after_the_flip_that_left_its_agent_is_held_by_that_turn(rig: Rig) -> None:
    proxy, script, client, agent = await asked_on_green(rig)
    proxy.roll_back()
    await agent.send(b"HTTP/1.1 200 OK\r\nMcp-Session-Id: M-1\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.head()
    await until(lambda: len(rig.pins._turns.under_way) == 1)
    beside = await proxy.connect()
    await beside.send(get("/mcp", "Mcp-Session-Id: M-1", "X-Turn: 2"))
    second = await script.next()  # not on blue, while the first turn goes on
    await second.request()
    await second.send(ok(b"green"))
    assert (await beside.answer()).body == b"green"
    await agent.send(b"0\r\n\r\n")
    await at_rest(rig, proxy)
    assert await says(proxy, get("/mcp", "Mcp-Session-Id: M-1")) == "blue"


async def test_a_session_that_follows_moves_between_two_turns_and_never_within_one(rig: Rig) -> None:
    script = Script()
    green = saying("green")
    proxy = await rig.proxy(
        rig.agent(script),
        green=(rig.agent(green),),
        sessions=["header:X-Session-Id"],
        session_options={"policy": "follow"},
    )
    client = await proxy.connect()
    await client.send(get("/", SESSION))
    agent = await script.next()
    await agent.request()
    proxy.flip("green")
    await applied(rig, proxy)
    other = await proxy.connect()
    await other.send(get("/", SESSION))  # while the first turn is under way
    beside = await script.next()
    await beside.request()
    await beside.send(ok(b"blue"))
    assert (await other.answer()).body == b"blue"
    await agent.send(ok(b"blue"))
    assert (await client.answer()).body == b"blue"
    await at_rest(rig, proxy)
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_a_turn_of_a_key_that_leads_to_another_session_by_now_holds_neither_when_it_is_over(rig: Rig) -> None:
    """The pin that this node knows has ended elsewhere, and what it is to move turns out to be another one."""
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id", session_options={"policy": "follow"})
    assert await says(proxy, get("/", SESSION)) == "blue"
    [(pin, _)], _ = await rig.pins.page("", 1)
    await rig.pins.end([pin.id])
    [other] = await rig.pins.resolve([Want((b"o" * 16, pin.id), pin.route, pin.preset, pin.ttl, pin.max_age)])
    assert (other.pin.id, other.created) == (b"o" * 16, True)
    proxy.flip("green")
    await applied(rig, proxy)
    assert await says(proxy, get("/", SESSION)) == "green"
    await at_rest(rig, proxy)
    assert proxy.plane.pins is not None
    assert proxy.plane.pins.counted()["gauges"]["turns"] == 0


async def test_a_session_whose_release_is_gone_moves_and_never_meets_another_release_in_silence(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "header:X-Session-Id")
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.flip("green")
    proxy.stage("blue", "v3", rig.agent(saying("v3")))
    assert await says(proxy, get("/", SESSION)) == "green"


@pytest.mark.parametrize("hears", [True, False])
async def test_a_session_on_a_release_of_which_this_node_has_not_heard_yet(rig: Rig, hears: bool) -> None:
    """Its bell was broken while a release was staged and the pointer moved to it."""
    proxy, blue, _ = await two_colors(rig, "header:X-Session-Id")
    behind = proxy.plane.state
    third = saying("v3")
    proxy.stage("green", "v3", rig.agent(third))
    proxy.flip("green")
    ahead = proxy.plane.state
    assert behind is not None
    assert ahead is not None
    proxy.plane.apply(behind)
    asked = 0

    async def refresh() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        if hears:
            proxy.plane.apply(ahead)

    proxy.plane.refresh = refresh
    requests = [get("/", f"X-Session-Id: s-{number % 3}") for number in range(6)]
    answers = await asyncio.gather(*(proxy.ask(request) for request in requests))
    assert {answer.status for answer in answers} == {200 if hears else 503}
    assert (len(blue.seen), len(third.seen)) == (0, 6 if hears else 0)
    assert asked <= 2  # for all that wait


async def test_a_404_ends_an_mcp_session_and_so_does_its_deletion(rig: Rig) -> None:
    def play(request: Message) -> bytes:
        return ok(b"", status=b"404 Not Found") if request.get(b"x-dead") else ok(b"blue")

    green = rig.agent(saying("green"))
    proxy = await rig.proxy(rig.agent(Serving(play)), green=(green,), sessions=["mcp"])
    for session in ("M-1", "M-2"):
        assert await says(proxy, get("/mcp", f"Mcp-Session-Id: {session}")) == "blue"
    proxy.flip("green")
    assert (await proxy.ask(get("/mcp", "Mcp-Session-Id: M-1", "X-Dead: 1"))).status == 404
    assert await says(proxy, get("/mcp", "Mcp-Session-Id: M-2", method="DELETE"), b"DELETE") == "blue"
    for session in ("M-1", "M-2"):
        await until(lambda: not rig.pins._pins)
        assert await says(proxy, get("/mcp", f"Mcp-Session-Id: {session}")) == "green"
        await rig.pins.end(list(rig.pins._pins))


async def test_a_session_that_is_a_stream_is_over_with_it(rig: Rig) -> None:
    """MCP over HTTP+SSE: the stream says by which address its session is spoken to."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script), sessions=["mcp"], session_options=PATIENT)
    for gone in ("client", "agent", "before it is written"):
        client = await proxy.connect()
        await client.send(get("/sse"))
        agent = await script.next()
        await agent.request()
        await agent.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await client.head()
        if gone == "before it is written":
            rig.pins.open.clear()
        asked = rig.pins.asked
        await agent.send(b"event: endpoint\ndata: /messages/?session_id=abc\n\n")
        await until(lambda asked=asked: rig.pins.asked > asked)
        if gone != "before it is written":
            await until(lambda: rig.pins._pins)
        if gone == "agent":
            agent.close()
        else:
            client.reset()
        await until(lambda: not proxy.counts().get("in_flight blue"))
        rig.pins.open.set()
        await until(lambda: not rig.pins._pins and not proxy.plane.busy)


async def test_a_stream_that_a_session_has_asked_for_does_not_take_it_along(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), sessions=["mcp", "credentials"], session_options=PATIENT)
    client = await proxy.connect()
    await client.send(get("/sse", "Authorization: Bearer one"))
    agent = await script.next()
    await agent.request()
    await agent.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    await client.head()
    await agent.send(b"event: endpoint\ndata: /messages/?session_id=abc\n\n")
    assert b"endpoint" in await client.more()
    client.reset()
    await until(lambda: not proxy.plane.busy)
    assert rig.pins._pins


async def test_within_a_color_a_session_keeps_its_host_while_that_is_well(rig: Rig) -> None:
    hosts = [rig.agent(saying(f"host {number}")) for number in range(4)]
    proxy = await rig.proxy(*hosts, sessions=["mcp"])
    for session in range(8):
        request = get("/mcp", f"Mcp-Session-Id: M-{session}")
        assert len({await says(proxy, request) for _ in range(6)}) == 1
    first = await says(proxy, request)
    gone = hosts[int(first[-1])]
    await gone.close()
    for wire in gone.wires:
        wire.close()
    others = {await says(proxy, request) for _ in range(6)}
    assert len(others) == 1
    assert others != {first}


async def test_a_browser_gets_a_cookie_of_ours_that_says_nothing(rig: Rig) -> None:
    proxy, blue, _ = await two_colors(rig, "cookie")
    cookie = (await proxy.ask(get("/"))).get(b"set-cookie")
    assert cookie is not None
    name_and_value = cookie.partition(b";")[0].decode()
    assert "blue" not in name_and_value
    proxy.flip("green")
    answer = await proxy.ask(get("/", f"Cookie: a=b; {name_and_value}"))
    assert (answer.body, answer.get(b"set-cookie")) == (b"blue", None)
    assert (await proxy.ask(get("/"))).body == b"green"
    assert len(blue.seen) == 2
