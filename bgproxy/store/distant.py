"""A memory store that another process of this host has: every call goes there, over one line to its door.

Promises what a store does (`store/base.py`): a call ends within `command_timeout`, and what goes wrong is a
`StoreUnavailable`. Once the line has ended, every call fails: whoever has this object finds the next one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bgproxy import tasks
from bgproxy.errors import StoreUnavailable
from bgproxy.store.calls import Call, call_of, error_read, next_message, packed

_GONE = "store: the process of this host that has it is gone"


class DistantStore:
    """See the module; made by `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float) -> None:
        """`timeout`: seconds that a call may take."""
        self.ended = asyncio.Event()  # the line
        self._reader = reader
        self._writer = writer
        self._timeout = timeout
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, asyncio.Queue[Any]] = {}
        self._listener = tasks.spawn(self._listen(), "distant store")

    @classmethod
    async def connect(cls, path: Path, timeout: float) -> DistantStore:
        """Raises `StoreUnavailable` where no door is open."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(path)
        except (OSError, TimeoutError) as error:
            raise StoreUnavailable(f"store: no process of this host has it open at {path}: {error}") from None
        return cls(reader, writer, timeout)

    async def close(self) -> None:
        """End the line."""
        await tasks.stop(self._listener)
        self._writer.close()

    async def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Make a call of a store. Raises what it raises there."""
        call = _known(name)
        told = await self.say(name, call.written(arguments, named), self._timeout)
        return _read(call, name, told)

    async def say(self, name: str, what: Any, timeout: float) -> Any:
        """Whatever is said at the door, and its answer as it came. `timeout` in seconds."""
        answer = asyncio.get_running_loop().create_future()
        number = self._begin(name, what)
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise StoreUnavailable(f"store: no answer within {timeout:g} s from the process that has it") from None
        finally:
            del self._waiting[number]

    async def stream(self, name: str) -> AsyncIterator[Any]:
        """Make a call that goes on answering. Raises `StoreUnavailable` when the line ends."""
        call, items = _known(name), asyncio.Queue[Any]()
        number = self._begin(name, {})
        self._streams[number] = items
        try:
            while True:
                told = await items.get()
                if isinstance(told, Exception):
                    raise told
                yield _read(call, name, told)
        finally:
            del self._streams[number]

    def _begin(self, name: str, what: Any) -> int:
        if self.ended.is_set():
            raise StoreUnavailable(_GONE)
        number = next(self._numbers)
        self._writer.write(packed((number, name, what)))
        return number

    async def _listen(self) -> None:
        try:
            while True:
                number, said, told = await next_message(self._reader)
                waiting, stream = self._waiting.get(number), self._streams.get(number)
                if stream is not None:
                    stream.put_nowait(told if said == "item" else error_read(told))
                elif waiting is not None and not waiting.done():
                    if said == "ok":
                        waiting.set_result(told)
                    else:
                        waiting.set_exception(error_read(told))
        except (EOFError, ValueError):
            pass
        finally:
            self.ended.set()
            self._writer.close()
            gone = StoreUnavailable(_GONE)
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(gone)
            for stream in self._streams.values():
                stream.put_nowait(gone)


def _known(name: str) -> Call:
    call = call_of(name)
    if call is None:
        raise AttributeError(name)
    return call


def _read(call: Call, name: str, told: Any) -> Any:
    try:
        return call.answer.validate_python(told)
    except ValidationError as error:
        raise StoreUnavailable(f"store: what {name} answered is not understood: {error}") from None
