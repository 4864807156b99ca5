"""Named background tasks. The only caller of `create_task`: a task that dies of an error is never silent.

A bare `create_task` may be collected before it ends and hides its exception until then; here each task is held by
name until it is done, and what it dies of is logged once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)

_alive: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Start a task that is kept alive until it ends; an error that ends it is logged with its name."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _alive.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _alive.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s died", task.get_name(), exc_info=error)


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks and wait until they have ended."""
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of these is set."""
    waiting = [spawn(event.wait(), "wait") for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await stop(*waiting)
