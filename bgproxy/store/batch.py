"""What is asked for in one turn of the event loop goes out in one round trip.

Promises order within a batch, and that a batch is never larger than `LARGEST`, so that no script holds a store up for
long. Must not know what is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from bgproxy import tasks

T = TypeVar("T")

LARGEST: Final = 128


class Batch(Generic[T]):
    """Collects until the loop turns, then sends all of it in the background."""

    __slots__ = ("_items", "_name", "_send")

    def __init__(self, send: Callable[[list[T]], Coroutine[Any, Any, None]], name: str) -> None:
        """`send` answers for its own failures; `name` is its task's."""
        self._send = send
        self._name = name
        self._items: list[T] = []

    def add(self, item: T) -> None:
        """Send this with what else comes in this turn."""
        if not self._items:
            asyncio.get_running_loop().call_soon(self._flush)
        self._items.append(item)

    def _flush(self) -> None:
        items, self._items = self._items, []
        for at in range(0, len(items), LARGEST):
            tasks.spawn(self._send(items[at : at + LARGEST]), self._name)
