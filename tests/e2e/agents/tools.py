"""An MCP server by the `mcp` package, in all eras that it speaks, with everything in the memory of this process.

Handshake era: stateful sessions over Streamable HTTP; `work` closes its own stream half-way, so that the client must
take it up again with `Last-Event-ID`, which only this process's event store can answer; and HTTP+SSE of 2024-11-05.
Era of 2026-07-28: a conversation in a chain of `requestState`, and a task by an extension's `tasks/get` and
`tasks/update`.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.request_state import RequestStateSecurity
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import (
    CallToolRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    JSONRPCMessage,
    RequestParams,
)

from agents.memory import Memory

SESSION, SSE, STATE, TASK = "mcp session", "mcp sse", "mcp requestState", "mcp task"
_STEP = 0.02  # seconds between two steps of `work`
_RETRY = 20  # milliseconds until a client takes a stream up again
# One for all processes: a chain that strayed must fail at the memory, where it is counted, not at the seal.
_SEAL = RequestStateSecurity(keys=["x" * 32])


class Events(EventStore):
    """What was sent on each stream, in order."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._sent: dict[str, tuple[str, JSONRPCMessage | None]] = {}

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        event = uuid.uuid4().hex
        self._sent[event] = (stream_id, message)
        return event

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        if last_event_id not in self._sent:
            self._memory.stranger(SESSION)
            return None
        stream, _ = self._sent[last_event_id]
        events = list(self._sent)
        for event in events[events.index(last_event_id) + 1 :]:
            other, message = self._sent[event]
            if other == stream and message is not None:
                await send_callback(EventMessage(message, event))
        return stream


class Tasks(Extension):
    """Calls of the tool `delegate` become tasks, which are asked for and added to by their id."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def methods(self) -> Sequence[MethodBinding]:
        return [
            MethodBinding("tasks/get", TaskParams, self._get),
            MethodBinding("tasks/update", TaskParams, self._update),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if params.name != "delegate":
            return await call_next(ctx)
        task = str(uuid.uuid4())
        self._memory.begin(TASK, task)
        said = self._memory.turn(TASK, task, (params.arguments or {})["word"])
        return {"resultType": "task", "taskId": task, "status": "working", "said": said}

    async def _get(self, _: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        return {"resultType": "complete", "said": self._memory.recall(TASK, params.task_id)}

    async def _update(self, _: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        return {"resultType": "complete", "said": self._memory.turn(TASK, params.task_id, params.word)}


class TaskParams(RequestParams):
    """Of both methods on a task."""

    task_id: str
    word: str = ""


def server(memory: Memory) -> MCPServer[None]:
    """One server for one transport: each app runs its own sessions."""
    tools: MCPServer[None] = MCPServer(
        "agent", log_level="CRITICAL", extensions=[Tasks(memory)], request_state_security=_SEAL
    )

    def turn(ctx: Context[None, Any], word: str) -> str:
        fields = ctx.headers or {}
        request = ctx.request_context.request
        query = request.query_params.get("session_id") if request is not None else None
        protocol, session = (SSE, query) if query else (SESSION, fields["mcp-session-id"])
        if word == "0":  # minted by the package itself, which answers 404 to a session that is not its own
            memory.begin(protocol, session)
        return json.dumps(memory.turn(protocol, session, word))

    @tools.tool()
    async def say(word: str, ctx: Context[None, Any]) -> str:
        """Remember a word."""
        return turn(ctx, word)

    @tools.tool()
    async def work(word: str, ctx: Context[None, Any]) -> str:
        """Remember a word, with progress, on a stream that has to be taken up again."""
        said = turn(ctx, word)
        for step in range(4):
            await ctx.report_progress(step, 4)
            if step == 1:
                await ctx.close_sse_stream()
            await asyncio.sleep(_STEP)
        return said

    @tools.tool()
    async def delegate(word: str) -> str:
        """What is listed of the tool whose calls become tasks."""
        raise AssertionError("the extension answers its calls")

    @tools.tool()
    async def ask(ctx: Context[None, Any]) -> InputRequiredResult:
        """A conversation: each round asks for the next word."""
        word, state = "0", ctx.request_state
        if state is None:
            state = uuid.uuid4().hex
            memory.begin(STATE, state)
        elif ctx.input_responses:
            word = ctx.input_responses["word"].content["word"]
        session = state.partition(" ")[0]
        said = memory.turn(STATE, session, word)
        form = ElicitRequestFormParams(
            message=json.dumps(said), requested_schema={"type": "object", "properties": {"word": {"type": "string"}}}
        )
        return InputRequiredResult(
            input_requests={"word": ElicitRequest(params=form)}, request_state=f"{session} {word}"
        )

    return tools


def streamable(memory: Memory) -> Any:
    """The app of `/mcp`."""
    return server(memory).streamable_http_app(event_store=Events(memory), retry_interval=_RETRY)


def sse(memory: Memory) -> Any:
    """The app of `/sse` and `/messages/`."""
    return server(memory).sse_app()
