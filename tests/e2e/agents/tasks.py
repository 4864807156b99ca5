"""An A2A agent by the `a2a-sdk` package: 1.0 and 0.3, over JSON-RPC and REST, its tasks in this process's memory.

A message that names a task or a context that another process has begun is counted and refused.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    GetTaskRequest,
    Message,
    Part,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import TaskNotFoundError
from starlette.routing import BaseRoute

from agents.memory import Memory

PROTOCOL = "a2a"
BINDINGS = {"JSONRPC": "/a2a", "HTTP+JSON": "/rest"}
_STEP = 0.02  # seconds between two events
_JOIN_TIMEOUT = 20.0  # seconds, for a client that left a stream to come back


def card(url: str, binding: str, version: str) -> AgentCard:
    """What client and agent know of each other beforehand."""
    interface = AgentInterface(url=url + BINDINGS[binding], protocol_binding=binding, protocol_version=version)
    return AgentCard(
        name="agent",
        description="remembers",
        version="1",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text"],
        default_output_modes=["text"],
        skills=[],
    )


class Executor(AgentExecutor):
    """Remembers each message's word. The task of "… and end" waits until its stream was taken up, and is then complete;
    another one stays open for more.
    """

    def __init__(self, memory: Memory) -> None:
        self.joined: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)  # by task
        self._memory = memory

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task, session = str(context.task_id), str(context.context_id)
        word, _, rest = context.get_user_input().partition(" ")
        if context.current_task is None:
            status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
            await event_queue.enqueue_event(Task(id=task, context_id=session, status=status))
            if self._memory.knows(PROTOCOL, session):
                self._memory.also(PROTOCOL, session, task)
            else:
                self._memory.begin(PROTOCOL, session, task)
        said = self._memory.turn(PROTOCOL, task, word)
        updater = TaskUpdater(event_queue, task, session)
        for _ in range(3):
            await updater.start_work()
            await asyncio.sleep(_STEP)
        if rest:
            await asyncio.wait_for(self.joined[task].wait(), _JOIN_TIMEOUT)
            await updater.start_work()
        answer = updater.new_agent_message([Part(text=json.dumps(said))])
        await (updater.complete(answer) if rest else updater.requires_input(answer))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, str(context.task_id), str(context.context_id)).cancel()


class Handler(DefaultRequestHandler):
    """The package's own, with a look at who comes."""

    def __init__(self, memory: Memory) -> None:
        self._executor = Executor(memory)
        super().__init__(self._executor, InMemoryTaskStore(), card("http://agent", "JSONRPC", "1.0"))
        self._memory = memory

    def _check(self, *ids: str) -> None:
        for each in ids:
            if each and not self._memory.knows(PROTOCOL, each):
                self._memory.stranger(PROTOCOL)
                raise TaskNotFoundError(f"{self._memory.place} does not know {each}")

    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Message | Task:
        self._check(params.message.task_id, params.message.context_id)
        return await super().on_message_send(params, context)

    async def on_message_send_stream(self, params: SendMessageRequest, context: ServerCallContext):
        self._check(params.message.task_id, params.message.context_id)
        async for event in super().on_message_send_stream(params, context):
            yield event

    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task | None:
        self._check(params.id)
        return await super().on_get_task(params, context)

    async def on_subscribe_to_task(self, params: SubscribeToTaskRequest, context: ServerCallContext):
        self._check(params.id)
        async for event in super().on_subscribe_to_task(params, context):
            yield event
            self._executor.joined[params.id].set()


def routes(memory: Memory) -> list[BaseRoute]:
    handler = Handler(memory)
    return [
        *create_jsonrpc_routes(handler, BINDINGS["JSONRPC"], enable_v0_3_compat=True),
        *create_rest_routes(handler, path_prefix=BINDINGS["HTTP+JSON"], enable_v0_3_compat=True),
    ]
