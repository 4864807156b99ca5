"""WebSockets that remember: a session is either the connection itself (`/socket`), or what a token in the query names
(`/rejoin?token=…`), so that another connection with the same token finds what was said on the first.
"""

from __future__ import annotations

import uuid

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from agents.memory import Memory, Stranger

CONNECTION, TOKEN = "websocket", "websocket token"  # the names of two protocols
_UNKNOWN = 4_404  # the close code for a token that nobody here knows


def routes(memory: Memory) -> list[BaseRoute]:
    async def socket(line: WebSocket) -> None:
        session = uuid.uuid4().hex
        memory.begin(CONNECTION, session)
        await _converse(memory, line, CONNECTION, session)

    async def rejoin(line: WebSocket) -> None:
        session = line.query_params["token"]
        if line.query_params.get("new"):
            memory.begin(TOKEN, session)
        await _converse(memory, line, TOKEN, session)

    return [WebSocketRoute("/socket", socket), WebSocketRoute("/rejoin", rejoin)]


async def _converse(memory: Memory, line: WebSocket, protocol: str, session: str) -> None:
    await line.accept()
    try:
        async for word in line.iter_text():
            await line.send_json(memory.turn(protocol, session, word))
    except Stranger as stranger:
        await line.close(_UNKNOWN, str(stranger)[:100])
    except WebSocketDisconnect:
        return
