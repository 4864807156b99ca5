"""What an operator's deadline ends on a release, is ended in its protocol's own words, and nothing else is touched."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from rig import Proxy, Rig, Script, Serving, get, ok, post, until
from test_data_path_sessions import JSON, SESSION, a2a, says, two_colors
from test_data_path_streams import EVENTS, chunk
from test_data_path_tunnels import SWITCH, UPGRADE
from wire import Message, Wire

NAMED = ("header:X-Session-Id",)
LINES = EVENTS.replace(b"text/event-stream", b"application/x-ndjson")
QUICK = {"end_grace": 0.6}
TASK_IN_HEAD = ("Mcp-Method: tasks/get", "Mcp-Name: t-1", "MCP-Protocol-Version: 2026-07-28")


async def left(rig: Rig, *presets: str, **options: Any) -> tuple[Proxy, Script]:
    """A proxy whose blue agent a test plays by hand; green says its name."""
    script = Script()
    green = (rig.agent(Serving(ok(b"green"))),)
    return await rig.proxy(rig.agent(script), green=green, sessions=presets or NAMED, **options), script


async def under_way(rig: Rig, request: bytes, *presets: str, **options: Any) -> tuple[Proxy, Wire, Wire]:
    """A request that the blue agent has and has not answered, while green is active: proxy, client, agent."""
    proxy, script = await left(rig, *presets, **options)
    client = await proxy.connect()
    await client.send(request)
    agent = await script.next()
    await agent.request()
    proxy.flip("green")
    return proxy, client, agent


async def streaming(rig: Rig, head: bytes = EVENTS, request: bytes = b"", **options: Any) -> tuple[Proxy, Wire, Wire]:
    """A stream of blue's that has had one event, while green is active."""
    proxy, client, agent = await under_way(rig, request or get("/", SESSION), **options)
    await agent.send(head, chunk(b"data: 1\n\n") if b"chunked" in head else b"data: 1\n\n")
    await client.until(b"data: 1\n\n")
    return proxy, client, agent


def problem(answer: Message) -> tuple[int, str]:
    assert answer.get(b"content-type") == b"application/problem+json"
    assert answer.get(b"cache-control") == (b"no-store" if answer.status in (404, 410) else None)
    return answer.status, json.loads(answer.body)["code"]


# 1. a session that is at rest: its next request is told, the one after that begins anew


@pytest.mark.parametrize(
    ("preset", "request_", "told"),
    [
        ("header:X-Session-Id", get("/", SESSION), (410, "session_ended")),
        ("mcp", post(b"{}", JSON, "Mcp-Session-Id: s", target="/mcp"), (404, "session_not_found")),
        ("mcp", get("/mcp", "Mcp-Session-Id: s", "Accept: text/event-stream"), (404, "session_not_found")),
        ("langgraph", get("/threads/t-1/state"), (404, "session_not_found")),
        ("openai", post(b'{"previous_response_id":"r"}', JSON, target="/v1/responses"), (410, "session_ended")),
        ("a2a", get("/tasks/t-1"), (410, "session_ended")),
        ("a2a", post(b'{"message":{"contextId":"c"}}', JSON, target="/message:send"), (410, "session_ended")),
        ("header:X-Session-Id", get("/ws", SESSION, *UPGRADE), (410, "session_ended")),
        # A task of MCP that is named in the head: nobody has read the body, so its id cannot be echoed.
        ("mcp", post(b'{"jsonrpc":"2.0","id":1}', JSON, *TASK_IN_HEAD, target="/mcp"), (410, "session_ended")),
    ],
)
async def test_the_next_request_is_told_once(rig: Rig, preset: str, request_: bytes, told: tuple[int, str]) -> None:
    proxy, blue, green = await two_colors(rig, preset)
    assert (await proxy.ask(request_, b"POST")).body == b"blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    answer = await proxy.ask(request_, b"POST")
    assert problem(answer) == told
    assert answer.get(b"connection") is None  # it may be used for the new session
    assert (await proxy.ask(request_, b"POST")).body == b"green"
    assert (len(blue.seen), len(green.seen)) == (1, 1)
    assert proxy.metrics.refused == {told[1]: 1}


@pytest.mark.parametrize("request_id", ["1", '"a-1"'])
@pytest.mark.parametrize("framing", ["whole", "pieces", "chunks"])
async def test_json_rpc_gets_an_error_with_the_request_s_id(rig: Rig, request_id: str, framing: str) -> None:
    proxy, _, _ = await two_colors(rig, "a2a")
    body = f'{{"jsonrpc":"2.0","id":{request_id},"method":"tasks/get","params":{{"id":"T"}}}}'.encode()
    assert await says(proxy, post(body, JSON), b"POST") == "blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    client = await proxy.connect()
    if framing == "whole":
        await client.send(post(body, JSON))
    elif framing == "pieces":
        await client.send_each([get("/", JSON, f"Content-Length: {len(body)}", method="POST"), body[:7], body[7:]])
    else:
        head = get("/", JSON, "Transfer-Encoding: chunked", method="POST")
        await client.send_each([head, chunk(body[:25]), chunk(body[25:]) + b"0\r\n\r\n" + get("/next")])
    answer = await client.answer()
    assert (answer.status, answer.get(b"content-type")) == (200, b"application/json")
    said = json.loads(answer.body)
    assert (said["jsonrpc"], said["id"], said["error"]["code"]) == ("2.0", json.loads(request_id), -32_001)
    if framing == "chunks":  # what came behind the request on the same connection is not lost
        assert (await client.answer()).body == b"green"
    assert await says(proxy, post(body, JSON), b"POST") == "green"


@pytest.mark.parametrize(
    ("method", "params"), [("tasks/get", {"taskId": "t"}), ("tools/call", {"name": "say", "requestState": "s"})]
)
async def test_mcp_without_sessions_gets_an_error_with_the_request_s_id_too(
    rig: Rig, method: str, params: dict[str, str]
) -> None:
    proxy, _, _ = await two_colors(rig, "mcp")
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": "i"}).encode()
    assert await says(proxy, post(body, JSON, target="/mcp"), b"POST") == "blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    answer = await proxy.ask(post(body, JSON, target="/mcp"), b"POST")
    said = json.loads(answer.body)
    assert (answer.status, said["id"], said["error"]["code"]) == (200, "i", -32_602)


async def test_a_context_has_no_error_of_its_own_and_a_long_body_is_read_as_far_as_it_is_kept(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "a2a")
    long = a2a("C-1", padding="x" * 20_000)
    assert await says(proxy, post(long, JSON), b"POST") == "blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    said = json.loads((await proxy.ask(post(long, JSON), b"POST")).body)
    assert (said["id"], said["error"]["code"]) == (1, -32_000)


async def test_a_body_that_tells_its_session_early_is_answered_before_its_end_and_the_rest_is_dropped(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, "json:/session")
    body = b'{"session":"s","rest":"' + b"x" * 5_000 + b'"}'
    assert await says(proxy, post(body, JSON), b"POST") == "blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    client = await proxy.connect()
    await client.send(get("/", JSON, f"Content-Length: {len(body)}", method="POST") + body[:40])
    answer = await client.answer()
    assert (problem(answer), answer.get(b"connection")) == ((410, "session_ended"), b"close")


async def test_the_sessions_of_the_other_color_and_requests_without_one_go_on(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, *NAMED)
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.flip("green")
    assert await says(proxy, get("/", "X-Session-Id: s-2")) == "green"
    proxy.end_sessions("blue")
    assert await says(proxy, get("/", "X-Session-Id: s-2")) == "green"
    assert await says(proxy, get("/", "X-Session-Id: s-3")) == "green"
    assert await says(proxy, get("/")) == "green"
    assert proxy.metrics.refused == {}


async def test_a_session_that_only_the_store_knows_is_told_too(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, *NAMED)
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.flip("green")
    rig.pins.open.clear()
    assert proxy.plane.pins is not None
    proxy.plane.pins._line_is_new()  # as after a broken line: the node asks the store again
    client = await proxy.connect()
    await client.send(get("/", SESSION))
    await until(lambda: rig.pins.asked == 2, "the store is asked")
    proxy.end_sessions("blue")  # while the request is parked
    assert client.is_silent()
    rig.pins.open.set()
    assert problem(await client.answer()) == (410, "session_ended")
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_who_was_admitted_before_the_flip_and_is_still_asked_for_begins_where_traffic_is(rig: Rig) -> None:
    proxy, blue, _ = await two_colors(rig, *NAMED)
    rig.pins.open.clear()
    client = await proxy.connect()
    await client.send(get("/", SESSION))
    await until(lambda: rig.pins.asked == 1, "the store is asked")
    proxy.flip("green")
    proxy.end_sessions("blue")
    await asyncio.sleep(0.3)
    assert client.is_silent()
    rig.pins.open.set()
    assert (await client.answer()).body == b"green"
    assert blue.seen == []


async def test_a_session_that_stays_for_a_turn_is_told_where_its_release_ends_meanwhile(rig: Rig) -> None:
    policy = {"policy": "follow"}
    proxy, stream, _ = await streaming(rig, request=post(b"{}", SESSION), session_options=policy)
    await stream.exactly(2)
    rig.pins.open.clear()
    second = await proxy.connect()
    await second.send(get("/", SESSION))
    await until(lambda: rig.pins.asked == 2, "the store says that it stays, as a turn is under way")
    await asyncio.sleep(0.05)
    proxy.end_sessions("blue")
    assert [await stream.chunk(), await stream.chunk()] == [b"retry: 1000\n", b""]
    assert second.is_silent()
    rig.pins.open.set()
    assert problem(await second.answer()) == (410, "session_ended")
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_a_session_that_was_brought_to_the_release_after_the_flip_is_told_too(rig: Rig) -> None:
    """Its pin has the pointer's epoch, as one moved by hand has."""
    proxy, _, _ = await two_colors(rig, *NAMED)
    proxy.flip("green")
    assert await says(proxy, get("/", SESSION)) == "green"
    ((pin, _),) = (await rig.pins.page("", 10))[0]
    proxy.order(pin, "blue")
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.end_sessions("blue")
    assert problem(await proxy.ask(get("/", SESSION))) == (410, "session_ended")
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_a_session_of_a_release_that_was_replaced_meanwhile_is_told_too(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, *NAMED)
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    proxy.stage("blue", "v3", rig.agent(Serving(ok(b"v3"))))
    assert problem(await proxy.ask(get("/", SESSION))) == (410, "session_ended")
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_who_was_told_by_another_node_begins_anew(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, *NAMED)
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    [(pin, _)], _ = await rig.pins.page("", 10)
    assert await rig.pins.end([pin.id]) == [True]  # its bell has not rung here
    assert await says(proxy, get("/", SESSION)) == "green"
    assert proxy.metrics.refused == {}


async def test_who_was_not_told_before_traffic_came_back_goes_on(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig, *NAMED)
    assert await says(proxy, get("/", SESSION)) == "blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    proxy.flip("blue")
    assert await says(proxy, get("/", SESSION)) == "blue"


# 2. requests that wait for an answer


@pytest.mark.parametrize(
    ("preset", "request_", "told"),
    [
        ("mcp", post(b"{}", JSON, "Mcp-Session-Id: s", target="/mcp"), (404, "session_not_found")),
        ("header:X-Session-Id", get("/", SESSION), (410, "session_ended")),
        ("header:X-Session-Id", get("/"), (503, "release_ended")),
        ("mcp", post(b'{"method":"initialize"}', JSON, target="/mcp"), (503, "release_ended")),
    ],
)
async def test_who_waits_is_answered_and_the_agent_let_go(
    rig: Rig, preset: str, request_: bytes, told: tuple[int, str]
) -> None:
    proxy, client, agent = await under_way(rig, request_, preset)
    proxy.end_sessions("blue")
    answer = await client.answer(b"POST")
    assert problem(answer) == told
    assert answer.get(b"retry-after") == (b"1" if told[0] == 503 else None)
    await agent.gone()
    await client.send(request_)  # once more, on the same connection
    assert (await client.answer(b"POST")).body == b"green"
    assert proxy.slot().broken_proxy == 0


async def test_what_an_error_may_echo_is_kept_until_the_answer_comes_and_no_longer(rig: Rig) -> None:
    proxy, client, agent = await under_way(rig, post(a2a("C-1", padding="x" * 9_000), JSON), "a2a")
    ((connection,),) = [proxy.plane.connections]
    assert connection.exchange is not None
    turn = connection.exchange.turn
    assert turn is not None
    assert len(turn.said) == 4_096
    await agent.send(EVENTS)
    await client.head()
    assert turn.said == b""


async def test_who_waits_for_json_rpc_gets_an_error_with_its_id(rig: Rig) -> None:
    proxy, client, agent = await under_way(rig, post(a2a("C-1", taskId="x"), JSON), "a2a")
    proxy.end_sessions("blue")
    answer = await client.answer(b"POST")
    assert (answer.status, json.loads(answer.body)["id"]) == (200, 1)
    await agent.gone()


async def test_a_session_that_began_anew_elsewhere_does_not_end_with_what_it_left_behind(rig: Rig) -> None:
    proxy, client, agent = await under_way(rig, get("/", SESSION))
    [(pin, _)], _ = await rig.pins.page("", 10)
    await rig.pins.end([pin.id])  # forgotten by hand
    assert proxy.plane.pins is not None
    proxy.plane.pins.drop([pin.id])  # its bell has rung
    assert await says(proxy, get("/", SESSION)) == "green"
    proxy.end_sessions("blue")
    assert problem(await client.answer()) == (503, "release_ended")
    await agent.gone()
    assert await says(proxy, get("/", SESSION)) == "green"
    assert await rig.pins.find(pin.id) is not None


async def test_who_waits_for_a_connection_gets_none_of_the_ended_release(rig: Rig) -> None:
    proxy, script = await left(rig, pool={"max_connections": 1})
    first, second = await proxy.connect(), await proxy.connect()
    await first.send(get("/1"))
    agent = await script.next()
    await agent.head()
    await second.send(get("/2", SESSION))
    await until(lambda: len(proxy.upstream().waiting) == 1, "it waits for a connection")
    proxy.flip("green")
    proxy.end_sessions("blue")
    assert problem(await first.answer()) == (503, "release_ended")
    assert problem(await second.answer()) == (410, "session_ended")
    await agent.gone()
    assert len(rig.agents[1].wires) == 1  # nothing more was begun there; agents[0] is green's


async def test_a_body_that_still_comes_is_answered_too(rig: Rig) -> None:
    proxy, script = await left(rig)
    client = await proxy.connect()
    await client.send(get("/", "Content-Length: 10", method="POST") + b"12345")
    agent = await script.next()
    await agent.head()
    proxy.flip("green")
    proxy.end_sessions("blue")
    answer = await client.answer(b"POST")
    assert (problem(answer), answer.get(b"connection")) == ((503, "release_ended"), b"close")


async def test_an_answer_that_has_begun_is_let_finish(rig: Rig) -> None:
    proxy, client, agent = await under_way(rig, get("/", SESSION))
    await agent.send(ok(b"0123456789")[:-5])
    await client.until(b"01234")
    proxy.end_sessions("blue")
    await asyncio.sleep(0.6)  # two sweeps
    await agent.send(b"56789")
    assert await client.exactly(5) == b"56789"
    await client.send(get("/", SESSION))
    assert problem(await client.answer()) == (410, "session_ended")
    assert proxy.slot().broken_proxy == 0


# 3. event streams


@pytest.mark.parametrize(
    ("head", "words"),
    [(EVENTS, [b"retry: 1000\n"]), (LINES, []), (EVENTS.replace(b"Transfer-Encoding: chunked\r\n", b""), [])],
)
async def test_a_stream_ends_between_two_events_and_its_connection_lives_on(
    rig: Rig, head: bytes, words: list[bytes]
) -> None:
    proxy, client, agent = await streaming(rig, head)
    if b"chunked" not in head:  # the client's is, though the agent's ends with its connection
        await client.until(b"\r\n")
        words = [b"retry: 1000\n"]
    else:
        assert await client.exactly(2) == b"\r\n"
    proxy.end_sessions("blue")
    for word in words:
        assert await client.chunk() == word
    assert await client.until(b"\r\n\r\n") == b"0\r\n\r\n"
    await agent.gone()
    await client.send(get("/"))
    assert (await client.answer()).body == b"green"
    assert proxy.slot().broken_proxy == 0


@pytest.mark.parametrize("head", [EVENTS, EVENTS.replace(b"Transfer-Encoding: chunked\r\n", b"")])
async def test_a_stream_to_an_old_client_ends_with_its_connection(rig: Rig, head: bytes) -> None:
    proxy, client, _ = await streaming(rig, head, get("/", SESSION, version="1.0"))
    proxy.end_sessions("blue")
    assert await client.rest() == b"retry: 1000\n"


@pytest.mark.parametrize(
    ("pieces", "rest"),
    [
        ([b"data: 2"], [b"\n\n"]),
        ([b"data: 2", b"\n"], [b"\n"]),  # the end of a line is not that of an event
        ([b'data: {"a":1}\n'], [b"\n"]),  # nor that of a document
        ([b"data: 2\r\n"], [b"\r", b"\n"]),
        ([b"data: 2\r\n"], [b"\r\n"]),
        ([b"data: 2\r"], [b"\r"]),
        ([b"i", b"d", b": 7"], [b"\n", b"\n"]),
    ],
)
async def test_an_event_that_has_begun_ends_first(rig: Rig, pieces: list[bytes], rest: list[bytes]) -> None:
    proxy, client, agent = await streaming(rig)
    await client.exactly(2)
    for piece in pieces:
        await agent.send(chunk(piece))
        assert await client.chunk() == piece
    proxy.end_sessions("blue")
    await asyncio.sleep(0.6)  # two sweeps
    assert client.is_silent()
    for piece in rest:
        await agent.send(chunk(piece))
        assert await client.chunk() == piece
    assert await client.chunk() == b"retry: 1000\n"
    assert await client.chunk() == b""
    assert proxy.slot().broken_proxy == 0


async def test_a_chunk_s_size_alone_does_not_end_an_event(rig: Rig) -> None:
    proxy, client, agent = await streaming(rig)
    await client.exactly(2)
    await agent.send(chunk(b"data: 2"))
    assert await client.chunk() == b"data: 2"
    await agent.send(b"2\r\n")
    await asyncio.sleep(0.05)
    proxy.end_sessions("blue")
    await asyncio.sleep(0.3)
    assert client.is_silent()
    await agent.send(b"\n\n\r\n")
    assert [await client.chunk() for _ in range(3)] == [b"\n\n", b"retry: 1000\n", b""]


async def test_an_event_that_does_not_end_is_cut_and_counted(rig: Rig) -> None:
    proxy, client, agent = await streaming(rig, timeouts=QUICK)
    cuts: list[tuple[int, int]] = []
    proxy.plane.cut = lambda turns, epoch: cuts.append((turns, epoch))
    await client.exactly(2)
    await agent.send(chunk(b"data: 2"))
    assert await client.chunk() == b"data: 2"
    proxy.end_sessions("blue")
    assert proxy.plane.state is not None
    began = asyncio.get_running_loop().time()
    ended = asyncio.create_task(client.end())
    while not ended.done():
        proxy.apply(proxy.plane.state)  # the same state again gives it no more time
        assert asyncio.get_running_loop().time() - began < 1.5
        await asyncio.sleep(0.1)
    assert await ended == "fin"  # and no last chunk: the client sees that it is broken
    assert asyncio.get_running_loop().time() - began >= 0.6
    await agent.gone()
    assert (cuts, proxy.slot().broken_proxy) == ([(1, 2)], 1)


async def test_a_coded_stream_ends_between_two_chunks_and_nothing_is_written_into_it(rig: Rig) -> None:
    head = EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    proxy, client, agent = await under_way(rig, get("/", SESSION))
    event = gzip.compress(b"data: 1\n\n")
    await agent.send(head, chunk(event), b"5\r\n123")
    await client.until(event + b"\r\n")
    await client.until(b"123\r\n")
    proxy.end_sessions("blue")
    await asyncio.sleep(0.3)
    assert client.is_silent()
    await agent.send(b"45\r\n")
    assert await client.chunk() == b"45"
    assert await client.until(b"\r\n\r\n") == b"0\r\n\r\n"


async def test_a_stream_lives_on_where_traffic_comes_back_before_its_event_ends(rig: Rig) -> None:
    proxy, client, agent = await streaming(rig, timeouts=QUICK)
    await client.exactly(2)
    await agent.send(chunk(b"data: 2"))
    assert await client.chunk() == b"data: 2"
    proxy.end_sessions("blue")
    proxy.flip("blue")
    await asyncio.sleep(0.9)
    await agent.send(chunk(b"\n\n"))
    assert await client.chunk() == b"\n\n"
    await asyncio.sleep(0.3)
    assert client.is_silent()


async def test_what_is_left_of_a_release_that_was_replaced_meanwhile_is_ended_too(rig: Rig) -> None:
    proxy, client, agent = await streaming(rig)
    await client.exactly(2)
    await agent.send(chunk(b"data: 2"))
    assert await client.chunk() == b"data: 2"
    proxy.end_sessions("blue")
    proxy.stage("blue", "v3", rig.agent(Serving(ok(b"v3"))))
    await agent.send(chunk(b"\n\n"))
    assert [await client.chunk() for _ in range(3)] == [b"\n\n", b"retry: 1000\n", b""]


async def test_streams_of_the_other_color_and_of_other_releases_go_on(rig: Rig) -> None:
    blue, green = Script(), Script()
    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(green),), sessions=NAMED)
    ends = []
    for script, request in ((blue, get("/", SESSION)), (green, get("/", "X-Session-Id: s-2")), (green, get("/"))):
        client = await proxy.connect()
        await client.send(request)
        agent = await script.next()
        await agent.head()
        await agent.send(EVENTS)
        await client.head()
        ends.append((client, agent))
        if script is blue:
            proxy.flip("green")
    proxy.end_sessions("blue")
    assert await ends[0][0].chunk() == b"retry: 1000\n"
    await asyncio.sleep(0.3)
    for client, agent in ends[1:]:
        assert client.is_silent()
        await agent.send(chunk(b"data: 1\n\n"))
        assert await client.chunk() == b"data: 1\n\n"


@pytest.mark.parametrize(("method", "next_"), [("GET", 200), ("POST", 410)])
async def test_a_browser_s_stream_may_be_taken_up_again_at_once(rig: Rig, method: str, next_: int) -> None:
    """An EventSource gives up for good at any status but 200; who posts is told with its next request."""
    request = get("/", SESSION) if method == "GET" else post(b"{}", SESSION)
    proxy, client, _ = await streaming(rig, request=request)
    await client.exactly(2)
    proxy.end_sessions("blue")
    assert [await client.chunk(), await client.chunk()] == [b"retry: 1000\n", b""]
    assert (await proxy.ask(get("/", SESSION))).status == next_
    assert await says(proxy, get("/", SESSION)) == "green"


async def test_a_long_answer_that_is_no_stream_of_events_is_let_finish_or_cut(rig: Rig) -> None:
    head = EVENTS.replace(b"text/event-stream", b"application/json")
    proxy, script = await left(rig, timeouts=QUICK)
    pairs = []
    for _ in range(2):
        client = await proxy.connect()
        await client.send(get("/", SESSION))
        agent = await script.next()
        await agent.head()
        await agent.send(head, chunk(b"[1,\n\n"))
        await client.until(b"[1,\n\n\r\n")
        pairs.append((client, agent))
    proxy.flip("green")
    proxy.end_sessions("blue")
    await asyncio.sleep(0.1)
    (finishing, agent), (endless, _) = pairs
    await agent.send(chunk(b"2]"), b"0\r\n\r\n")
    assert [await finishing.chunk(), await finishing.chunk()] == [b"2]", b""]
    assert await endless.end() == "fin"
    assert proxy.slot().broken_proxy == 1


# 4. tunnels


async def tunnel(rig: Rig, *fields: str, **options: Any) -> tuple[Proxy, Wire, Wire]:
    """A tunnel to blue, while green is active."""
    proxy, script = await left(rig, **options)
    client = await proxy.connect()
    await client.send(get("/ws", *fields))
    agent = await script.next()
    upgrade = (await agent.head()).get(b"upgrade")
    assert upgrade is not None
    await agent.send(SWITCH.replace(b"websocket", upgrade))
    await client.head()
    await until(lambda: proxy.slot().websockets == 1)
    proxy.flip("green")
    return proxy, client, agent


async def test_a_websocket_is_closed_on_both_sides_and_may_connect_again(rig: Rig) -> None:
    proxy, client, agent = await tunnel(rig, *UPGRADE, SESSION)
    proxy.end_sessions("blue")
    told = await client.rest()
    assert told[:4] == b"\x88\x26\x03\xf4"  # 1012: service restart
    assert told[4:] == b"the release was ended; connect again"
    heard = await agent.rest()
    assert heard[:2] == b"\x88\xa6"
    assert bytes(byte ^ heard[2 + i % 4] for i, byte in enumerate(heard[6:])) == told[2:]
    assert await says(proxy, get("/", SESSION)) == "green"  # its close has told the session
    assert proxy.slot().broken_proxy == 0


async def test_what_still_comes_to_a_websocket_that_was_told_is_dropped_and_resets_nothing(rig: Rig) -> None:
    proxy, client, agent = await tunnel(rig, *UPGRADE)
    proxy.end_sessions("blue")
    for _ in range(20):  # neither has read yet that it is over
        await client.send(b"\x82\x7e\x10\x00" + b"x" * 4_096)
        await agent.send(b"\x82\x7e\x10\x00" + b"x" * 4_096)
        await asyncio.sleep(0)
    assert len(await client.rest()) == 4 + 36
    assert len(await agent.rest()) == 4 + 4 + 36
    client.fin()
    agent.fin()
    await until(lambda: not proxy.plane.tunnels, "both have closed", patience=1.0)


async def test_who_does_not_take_part_in_the_closing_handshake_is_not_waited_for(rig: Rig) -> None:
    proxy, client, agent = await tunnel(rig, *UPGRADE, timeouts={"linger_timeout": 0.4})
    proxy.end_sessions("blue")
    assert (await client.rest())[:4] == b"\x88\x26\x03\xf4"
    await agent.rest()
    assert proxy.plane.tunnels
    await until(lambda: not proxy.plane.tunnels, patience=1.5)
    assert proxy.slot().broken_proxy == 0


async def test_a_frame_that_has_begun_ends_first(rig: Rig) -> None:
    proxy, client, agent = await tunnel(rig, *UPGRADE)
    await agent.send(b"\x81\x05he")
    assert await client.exactly(4) == b"\x81\x05he"
    proxy.end_sessions("blue")
    await asyncio.sleep(0.4)
    assert client.is_silent()
    await agent.send(b"llo")
    assert (await client.rest())[:7] == b"llo\x88\x26\x03\xf4"


@pytest.mark.parametrize("upgrade", [UPGRADE, ("Connection: Upgrade", "Upgrade: raw-tcp")])
async def test_a_tunnel_without_a_boundary_is_cut_and_counted(rig: Rig, upgrade: tuple[str, ...]) -> None:
    proxy, client, agent = await tunnel(rig, *upgrade, timeouts=QUICK)
    await agent.send(b"\x81\x7f")
    assert await client.exactly(2) == b"\x81\x7f"
    proxy.end_sessions("blue")
    await asyncio.sleep(0.3)
    assert client.is_silent()
    await client.gone()
    await agent.gone()
    assert proxy.slot().broken_proxy == 1
