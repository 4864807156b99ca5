"""Conversations by the `a2a-sdk` package's client, over each binding and in each version that it speaks."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.types import (
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
)
from agents.tasks import card

from clients.talk import Said, Turn


def over(binding: str, version: str) -> Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[Turn]]:
    """The way to talk over a binding in a version of the protocol."""

    @asynccontextmanager
    async def talk(url: str, fields: Mapping[str, str]) -> AsyncIterator[Turn]:
        async with httpx.AsyncClient(headers=fields, timeout=10) as http:
            known = card(url, binding, version)
            config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding])
            whole = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding], streaming=False)
            yield _Talk(ClientFactory(config).create(known), ClientFactory(whole).create(known)).turn

    return talk


class _Talk:
    """One context with a task that stays open, and more tasks on the way."""

    def __init__(self, streaming: Client, whole: Client) -> None:
        self._streaming = streaming
        self._whole = whole
        self._context = ""
        self._task = ""

    async def turn(self, number: int) -> Said:
        if number % 4 == 1:
            return await self._send(self._whole, number)
        if number % 4 == 2:
            await self._send(self._streaming, number)
            return _said(await self._streaming.get_task(GetTaskRequest(id=self._task)))
        if number % 4 == 3:
            return await self._resubscribe(number)
        return await self._send(self._streaming, number)

    async def _send(self, client: Client, number: int) -> Said:
        """A message to the open task, read to its end."""
        async for event in client.send_message(_message(str(number), self._context, self._task)):
            self._learn(event)
            last = event
        return _said(last)

    async def _resubscribe(self, number: int) -> Said:
        """Another task of the context: its stream is left after its first event, and taken up by the task's id."""
        stream = self._streaming.send_message(_message(f"{number} and end", self._context, ""))
        first = await anext(stream)
        await stream.aclose()
        task = first.task.id or first.status_update.task_id
        async for event in self._streaming.subscribe(SubscribeToTaskRequest(id=task)):
            last = event
        return _said(last)

    def _learn(self, event: StreamResponse) -> None:
        self._context = self._context or event.task.context_id or event.status_update.context_id
        self._task = self._task or event.task.id or event.status_update.task_id


def _message(text: str, context: str, task: str) -> SendMessageRequest:
    message = Message(message_id=uuid.uuid4().hex, role=Role.ROLE_USER, parts=[Part(text=text)])
    message.context_id, message.task_id = context, task
    return SendMessageRequest(message=message)


def _said(event: StreamResponse | Task) -> Said:
    """What the agent's last message holds."""
    task = event if isinstance(event, Task) else event.task
    status = task.status if isinstance(event, Task) or event.HasField("task") else event.status_update.status
    return json.loads(status.message.parts[0].text)
