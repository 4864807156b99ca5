"""Exchanges of published clients and servers as they went over the wire, with the fields that matter, fed in pieces of
all sizes down to single bytes: mcp 2.3, a2a-sdk 1.3, openai 3.54, langgraph-sdk 0.4.14, websockets 17.
"""

from typing import NamedTuple

import pytest
from turns import DEFAULT, Keys, recogniser, sighted, turn

TASK, CONTEXT = b"5408ea9f-914b-4d63-bb8a-a9d0fe025882", b"9c4f6a3d-5098-46ba-9c10-7939c10273d9"
T, C = TASK.decode(), CONTEXT.decode()
A2A: Keys = [("a2a.task", TASK), ("a2a.context", CONTEXT)]
STATE = (
    "v1.dbgpilrV7KCw3oQk12D_yxp0_L9i3nq_jyNNJz56YFajhwbN-LKwuNO08kubdqxGZseoQoOeJKtfn4atIk0lG4p-2i3mqMzLhFecVy93UetPt4"
    "98QRR4AGxwY3J_qI9QIuFRrt1l9ody4t6cY3tholdS9kEOX6_KLvYHzIwBMjdZRH1bg7LH7QI7TFBHV96BYfh3VTEeSpPv8RozF3dU2f0a6fZBVPm"
    "4_zal4L5IWenyaUFK4t3zBLtXMpzfuK8GRs0-rbZg"
)
JSON = "HTTP/1.1 200 OK\ncontent-type: application/json\n\n"
SSE = "HTTP/1.1 200 OK\ncontent-type: text/event-stream; charset=utf-8\n\n"
META = (
    '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":'
    '{"name":"mcp","version":"0.1.0"},"io.modelcontextprotocol/clientCapabilities":{}}'
)


class Exchange(NamedTuple):
    """One request, its answer, and what is to be seen in them."""

    name: str
    request: str
    answer: str
    keys: Keys
    minted: Keys


def posted(target: str, body: str, *fields: str) -> str:
    return "\n".join([f"POST {target} HTTP/1.1", "content-type: application/json", *fields]) + f"\n\n{body}"


def got(target: str, *fields: str) -> str:
    return "\n".join([f"GET {target} HTTP/1.1", *fields]) + "\n\n"


SESSION = "mcp-session-id: 2d4c2515992943de980076334633f518"
SESSION_KEY: Keys = [("mcp", b"2d4c2515992943de980076334633f518")]
MCP = (
    Exchange(
        "initialize",
        posted(
            "/mcp",
            '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
            '"clientInfo":{"name":"mcp","version":"0.1.0"}}}',
        ),
        f"HTTP/1.1 200 OK\ncontent-type: text/event-stream\n{SESSION}\n\n"
        "id: d9bf0a8abe3240f49a42b2fcaf58660c\r\ndata: \r\nretry: 20\r\n\r\n"
        'id: 65b492ea2ff14b8aaee8e78be89b33f5\r\nevent: message\r\ndata: {"jsonrpc":"2.0","id":1,"result":{}}\r\n\r\n',
        [],
        SESSION_KEY,
    ),
    Exchange(
        "a call",
        posted(
            "/mcp",
            '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"say","arguments":{"word":"0"}}}',
            SESSION,
            "mcp-protocol-version: 2025-11-25",
        ),
        f"HTTP/1.1 200 OK\ncontent-type: text/event-stream\n{SESSION}\n\ndata: \r\n\r\n",
        SESSION_KEY,
        [],
    ),
    Exchange(
        "a stream that is resumed",
        got("/mcp", SESSION, "mcp-protocol-version: 2025-11-25", "last-event-id: 7493c80e0d43487dbe60539fb80d73ec"),
        f"HTTP/1.1 200 OK\ncontent-type: text/event-stream\n{SESSION}\n\n",
        SESSION_KEY,
        [],
    ),
    Exchange(
        "HTTP+SSE",
        got("/sse", "Accept: text/event-stream"),
        f"{SSE}event: endpoint\r\ndata: /messages/?session_id=bbde212861484c97b1c9517ead7281f6\r\n\r\n",
        [],
        [("mcp.sse", b"bbde212861484c97b1c9517ead7281f6")],
    ),
    Exchange(
        "HTTP+SSE, a message",
        posted(
            "/messages/?session_id=bbde212861484c97b1c9517ead7281f6",
            '{"jsonrpc":"2.0","method":"notifications/initialized"}',
        ),
        "HTTP/1.1 202 Accepted\n\nAccepted",
        [("mcp.sse", b"bbde212861484c97b1c9517ead7281f6")],
        [],
    ),
    Exchange(
        "a state",
        posted(
            "/mcp",
            f'{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"ask","arguments":{{}},{META}}}}}',
            "mcp-protocol-version: 2026-07-28",
            "mcp-method: tools/call",
            "mcp-name: ask",
        ),
        f'{JSON}{{"jsonrpc":"2.0","id":2,"result":{{"inputRequests":{{"word":{{"method":"elicitation/create","params":'
        '{"message":"{\\"place\\": \\"v1/0\\"}","mode":"form"}}},'
        f'"requestState":"{STATE}","resultType":"input_required"}}}}',
        [],
        [("mcp.state", STATE.encode())],
    ),
    Exchange(
        "the state sent back",
        posted(
            "/mcp",
            '{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"inputResponses":{"word":{"action":"accept",'
            f'"content":{{"word":"1"}}}}}},"requestState":"{STATE}","name":"ask","arguments":{{}},{META}}}}}',
            "mcp-protocol-version: 2026-07-28",
            "mcp-method: tools/call",
            "mcp-name: ask",
        ),
        "",
        [("mcp.state", STATE.encode())],
        [],
    ),
    Exchange(
        "a call that becomes a task",
        posted(
            "/mcp",
            f'{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"delegate","arguments":{{}},{META}}}}}',
            "mcp-protocol-version: 2026-07-28",
            "mcp-method: tools/call",
            "mcp-name: delegate",
        ),
        f'{JSON}{{"jsonrpc":"2.0","id":2,"result":{{"resultType":"task","taskId":"{T}","status":"working"}}}}',
        [],
        [("mcp.task", TASK)],
    ),
    Exchange(
        "the task asked for",
        posted(
            "/mcp",
            f'{{"jsonrpc":"2.0","id":4,"method":"tasks/get","params":{{"taskId":"{T}",{META}}}}}',
            "mcp-protocol-version: 2026-07-28",
            "mcp-method: tasks/get",
            f"mcp-name: {T}",
        ),
        f'{JSON}{{"jsonrpc":"2.0","id":4,"result":{{"resultType":"complete"}}}}',
        [("mcp.task", TASK)],
        [],
    ),
)

STATUS_10 = f'"taskId": "{T}", "contextId": "{C}", "status": {{"state": "TASK_STATE_WORKING"}}'
A2A_10 = (
    Exchange(
        "1.0 JSON-RPC, a stream begins",
        posted(
            "/a2a",
            '{"method":"SendStreamingMessage","params":{"message":{"messageId":"06e068df","role":"ROLE_USER","parts":'
            '[{"text":"0"}]},"configuration":{}},"id":"893348c3","jsonrpc":"2.0"}',
            "A2A-Version: 1.0",
        ),
        f'{SSE}data: {{"result": {{"task": {{"id": "{T}", "contextId": "{C}", "status": {{"state": '
        '"TASK_STATE_SUBMITTED"}}}, "id": "893348c3", "jsonrpc": "2.0"}\r\n\r\n'
        f'data: {{"result": {{"statusUpdate": {{{STATUS_10}}}}}, "id": "893348c3", "jsonrpc": "2.0"}}\r\n\r\n',
        [],
        A2A,
    ),
    Exchange(
        "1.0 JSON-RPC, the task goes on",
        posted(
            "/a2a",
            f'{{"method":"SendMessage","params":{{"message":{{"messageId":"f49fd324","contextId":"{C}","taskId":"{T}",'
            '"role":"ROLE_USER","parts":[{"text":"1"}]},"configuration":{}},"id":"5e2edaea","jsonrpc":"2.0"}',
            "A2A-Version: 1.0",
        ),
        f'{JSON}{{"result":{{"task":{{"id":"{T}","contextId":"{C}"}}}},"id":"5e2edaea","jsonrpc":"2.0"}}',
        A2A,
        [],
    ),
    Exchange(
        "1.0 JSON-RPC, the task asked for",
        posted("/a2a", f'{{"method":"GetTask","params":{{"id":"{T}"}},"id":"fce07c8a","jsonrpc":"2.0"}}'),
        f'{JSON}{{"result":{{"id":"{T}","contextId":"{C}","status":{{"state":"TASK_STATE_INPUT_REQUIRED"}}}},'
        '"id":"fce07c8a","jsonrpc":"2.0"}',
        [A2A[0]],
        [A2A[1]],
    ),
    Exchange(
        "1.0 REST, a stream begins",
        posted("/rest/message:stream", '{"message":{"messageId":"55fa6033","role":"ROLE_USER"},"configuration":{}}'),
        f'{SSE}data: {{"statusUpdate": {{{STATUS_10}}}}}\r\n\r\n',
        [],
        A2A,
    ),
    Exchange(
        "1.0 REST, the task asked for",
        got(f"/rest/tasks/{T}", "A2A-Version: 1.0"),
        f'HTTP/1.1 200 OK\ncontent-type: application/a2a+json\n\n{{"id":"{T}","contextId":"{C}","status":{{}}}}',
        [A2A[0]],
        [A2A[1]],
    ),
    Exchange(
        "1.0 REST, the task's stream taken up",
        f"POST /rest/tasks/{T}:subscribe HTTP/1.1\nA2A-Version: 1.0\n\n",
        f'{SSE}data: {{"task": {{"id": "{T}", "contextId": "{C}"}}}}\r\n\r\n',
        [A2A[0]],
        [A2A[1]],
    ),
)
A2A_03 = (
    Exchange(
        "0.3 JSON-RPC, a stream begins",
        posted(
            "/a2a",
            '{"method":"message/stream","params":{"configuration":{"blocking":true},"message":{"kind":"message",'
            '"messageId":"b6345809","parts":[{"kind":"text","text":"0"}],"role":"user"}},"id":"bd49","jsonrpc":"2.0"}',
            "a2a-version: 0.3",
        ),
        f'{SSE}data: {{"id":"bd49","jsonrpc":"2.0","result":{{"contextId":"{C}","final":false,"kind":"status-update",'
        f'"status":{{"state":"working"}},"taskId":"{T}"}}}}\r\n\r\n',
        [],
        A2A,
    ),
    Exchange(
        "0.3 JSON-RPC, the task's stream taken up",
        posted("/a2a", f'{{"method":"tasks/resubscribe","params":{{"id":"{T}"}},"id":"b83f","jsonrpc":"2.0"}}'),
        "",
        [A2A[0]],
        [],
    ),
    Exchange(
        "0.3 REST, the task goes on",
        posted(
            "/rest/v1/message:send",
            f'{{"request":{{"message_id":"5967cca6","context_id":"{C}","task_id":"{T}","role":"ROLE_USER","content":'
            '[{"text":"1"}]},"configuration":{"blocking":true}}',
            "a2a-version: 0.3",
        ),
        f'{JSON}{{"task":{{"id":"{T}","contextId":"{C}","status":{{"state":"TASK_STATE_INPUT_REQUIRED"}}}}}}',
        A2A,
        [],
    ),
)

R1, R2 = "resp_e3ecf201b3ed4cab80196b0c568a9959", "resp_14606ca88fe9445f959dc492c1274c7b"
CONV = "conv_9034edc3cfad490cb6145893679c2fdb"
THREAD, RUN = "97412cca-5f83-46ad-984e-f1685665041d", "7c884852-b413-4074-a12f-e5f367c76779"
OTHERS = (
    Exchange(
        "openai, a chain",
        posted("/v1/responses", f'{{"model":"m","stream":true,"input":"2","previous_response_id":"{R1}"}}'),
        f'{SSE}event: response.created\ndata: {{"type": "response.created", "response": {{"id": "{R2}", "object": '
        f'"response", "output": [], "previous_response_id": "{R1}", "conversation": null}}, "sequence_number": 0}}\n\n',
        [("openai.response", R1.encode())],
        [("openai.response", R2.encode())],
    ),
    Exchange(
        "openai, a stream taken up",
        got(f"/v1/responses/{R2}?starting_after=0&stream=true", "authorization: Bearer key"),
        f'{SSE}event: response.in_progress\ndata: {{"type": "response.in_progress", "response": {{"id": "{R2}"}}}}\n\n',
        [("openai.response", R2.encode())],
        [],
    ),
    Exchange(
        "openai, a conversation's stream",
        posted("/v1/responses", '{"model":"m","stream":true,"input":"1"}'),
        f'{SSE}event: response.created\ndata: {{"type": "response.created", "response": {{"id": "{R2}", "object": '
        f'"response", "output": [], "conversation": {{"id": "{CONV}"}}}}, "sequence_number": 0}}\n\n',
        [],
        [("openai.conversation", CONV.encode()), ("openai.response", R2.encode())],
    ),
    Exchange(
        "langgraph, a thread",
        posted("/threads", "{}"),
        f'{JSON}{{"thread_id":"{THREAD}","status":"idle","metadata":{{}},"values":{{}}}}',
        [],
        [("langgraph.thread", THREAD.encode())],
    ),
    Exchange(
        "langgraph, a run's stream taken up",
        got(f"/threads/{THREAD}/runs/{RUN}/stream?cancel_on_disconnect=false&stream_mode=", "Last-Event-ID: 1"),
        f"HTTP/1.1 200 OK\nlocation: /threads/{THREAD}/runs/{RUN}/stream\ncontent-type: text/event-stream\n\n",
        [("langgraph.thread", THREAD.encode())],
        [],
    ),
)


@pytest.mark.parametrize("exchange", [*MCP, *A2A_10, *A2A_03, *OTHERS], ids=lambda exchange: exchange.name)
def test_what_went_over_the_wire_is_understood_byte_by_byte(exchange: Exchange) -> None:
    seen = turn(exchange.request, exchange.answer)
    assert (sorted(seen.keys), sorted(seen.minted)) == (sorted(exchange.keys), sorted(exchange.minted))
    assert seen.unread == ""


UPGRADE = (
    "GET /rejoin?token=4f7d94823d7ede0d HTTP/1.1\nUpgrade: websocket\nConnection: Upgrade\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n"
    "Sec-WebSocket-Protocol: agent.v1.4f7d9482\nCookie: theme=dark; sid=4f7d\n\n"
)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("query:token", b"4f7d94823d7ede0d"),
        ("cookie:sid", b"4f7d"),
        ("header:Sec-WebSocket-Protocol", b"agent.v1.4f7d9482"),
    ],
)
def test_the_upgrade_of_a_websocket_may_name_its_session(place: str, value: bytes) -> None:
    of = recogniser("websocket", place)
    assert [key for _, key in turn(UPGRADE, of=of).keys] == [value]
    assert sighted(of, UPGRADE)[0].connection
    assert turn(UPGRADE, of=DEFAULT).keys == []
