"""OpenAI's Responses and Conversations, as far as a client needs them: every response and conversation is kept in this
process, and an id that it does not know gets 404, as the API has it. The proxy's client is the `openai` package.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from agents.memory import Memory

CHAIN, CONVERSATION = "openai responses", "openai conversations"
_STEP = 0.02  # seconds between two events


def routes(memory: Memory) -> list[BaseRoute]:
    api = Responses(memory)
    return [
        Route("/v1/responses", api.create, methods=["POST"]),
        Route("/v1/responses/{response}", api.retrieve, methods=["GET"]),
        Route("/v1/conversations", api.converse, methods=["POST"]),
        Route("/v1/conversations/{conversation}/items", api.items, methods=["GET"]),
    ]


class Responses:
    """The endpoints."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def create(self, request: Request) -> Response:
        body = await request.json()
        response, word = f"resp_{uuid.uuid4().hex}", str(body["input"])
        previous, conversation = body.get("previous_response_id"), body.get("conversation")
        conversation = conversation["id"] if isinstance(conversation, dict) else conversation
        if conversation:
            said = self._memory.turn(CONVERSATION, conversation, word)
            self._memory.also(CONVERSATION, conversation, response)
        else:
            if previous:
                self._memory.recall(CHAIN, previous)
                self._memory.branch(CHAIN, previous, response)
            else:
                self._memory.begin(CHAIN, response)
            said = self._memory.turn(CHAIN, response, word)
        whole = _response(response, said, previous, conversation)
        if body.get("stream"):
            return StreamingResponse(_events(whole), media_type="text/event-stream")
        return JSONResponse(whole)

    async def retrieve(self, request: Request) -> Response:
        """A response again; as a stream from an event on, where that is asked for."""
        response = request.path_params["response"]
        protocol = CONVERSATION if self._memory.knows(CONVERSATION, response) else CHAIN
        whole = _response(response, self._memory.recall(protocol, response), None, None)
        if request.query_params.get("stream") == "true":
            after = int(request.query_params.get("starting_after", -1))
            return StreamingResponse(_events(whole, after), media_type="text/event-stream")
        return JSONResponse(whole)

    async def converse(self, request: Request) -> Response:
        conversation = f"conv_{uuid.uuid4().hex}"
        self._memory.begin(CONVERSATION, conversation)
        return JSONResponse({"id": conversation, "object": "conversation", "created_at": 1, "metadata": {}})

    async def items(self, request: Request) -> Response:
        said = self._memory.recall(CONVERSATION, request.path_params["conversation"])
        items = [_message(f"msg_{number}", word) for number, word in enumerate(said["words"])]
        return JSONResponse({"object": "list", "data": items, "has_more": False, "first_id": "", "last_id": ""})


async def _events(whole: dict[str, Any], after: int = -1) -> AsyncIterator[str]:
    text = whole["output"][0]["content"][0]["text"]
    begun = {**whole, "status": "in_progress", "output": []}
    delta = {"item_id": "msg_0", "output_index": 0, "content_index": 0, "logprobs": []}
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_text.delta", "delta": text[:7], **delta},
        {"type": "response.output_text.delta", "delta": text[7:], **delta},
        {"type": "response.completed", "response": whole},
    ]
    for number, event in enumerate(events):
        if number > after:
            yield f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
            await asyncio.sleep(_STEP)


def _message(name: str, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": name, "role": "assistant", "status": "completed", "content": content}


def _response(response: str, said: dict[str, Any], previous: str | None, conversation: str | None) -> dict[str, Any]:
    return {
        "id": response,
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": [_message("msg_0", json.dumps(said))],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "previous_response_id": previous,
        "conversation": {"id": conversation} if conversation else None,
    }
