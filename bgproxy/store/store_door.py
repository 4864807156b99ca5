"""The door of a host's memory store: processes of the same host ask there what they would ask their own.

Promises to answer every call, and to end the line where it cannot. What an asker is told when the store changes hands
is the end of its line, too: it finds the next one's door under the same path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from bgproxy import tasks
from bgproxy.errors import BgproxyError
from bgproxy.store.calls import Message, call_of, error_written, next_message, packed, plain

log = logging.getLogger(__name__)

HAND_OVER: Final = "hand over"
"""Who says this is to have the store; its line stays open as long as it lives."""

HandOver = Callable[[asyncio.Event], Awaitable[None]]
"""Awaited when another process asks for the store; raises where it cannot be. The event: that one's line has ended."""


class StoreDoor:
    """Open from `start` to `close`."""

    def __init__(self, path: Path, store: Any, hand_over: HandOver) -> None:
        self._path = path
        self._store = store
        self._hand_over = hand_over
        self._server: asyncio.Server | None = None
        self._file = 0  # the number of our socket's file
        self._lines: set[asyncio.Task[None]] = set()
        self._met = asyncio.Event()

    async def start(self) -> None:
        """Take the path over, from whoever has it. Raises OSError."""
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, new)
        self._file = new.stat().st_ino
        new.replace(self._path)

    async def met(self, patience: float) -> bool:
        """Whether anybody has come in within so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._met.wait(), patience)
        return self._met.is_set()

    def shut(self) -> None:
        """Let nobody in any more. Who is in stays."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._file:  # not the next one's
                    self._path.unlink()

    async def close(self) -> None:
        """Let go of the path's socket, and end every line."""
        self.shut()
        await tasks.stop(*self._lines)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it was shut while this one was on its way in
            writer.close()
            return
        line = tasks.spawn(self._line(reader, writer), "store door")
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._met.set()
        asked: set[asyncio.Task[None]] = set()
        gone = asyncio.Event()
        try:
            while True:
                message = await next_message(reader)
                if message[1] == HAND_OVER:
                    self.shut()  # or they would come in again at once
                    await tasks.stop(*(line for line in self._lines if line is not asyncio.current_task()))
                task = tasks.spawn(self._answer(message, writer, gone), f"store call {message[1]}")
                asked.add(task)
                task.add_done_callback(asked.discard)
        except EOFError:
            pass
        except ValueError as error:
            log.warning("store: a process of this host asked for what is not understood: %s", error)
        finally:
            gone.set()
            await tasks.stop(*asked)
            writer.close()

    async def _answer(self, message: Message, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        number, name, told = message
        call = call_of(name)
        try:
            if name == HAND_OVER:
                await self._hand_over(gone)
                answer: Any = None
            elif call is None:
                raise BgproxyError(f"{name} is not known here")
            elif call.streams:
                await self._stream(number, name, writer)
                return
            else:
                answer = plain(await self._method(name)(**call.read(told)))
        except BgproxyError as error:
            writer.write(packed((number, "failed", error_written(error))))
        except ValidationError as error:
            writer.write(packed((number, "failed", ("StoreUnavailable", f"{name}: {error}", None))))
        except Exception:
            log.exception("store: %s failed", name)
            writer.write(packed((number, "failed", ("StoreUnavailable", f"{name} failed in the other process", None))))
        else:
            writer.write(packed((number, "ok", answer)))

    async def _stream(self, number: int, name: str, writer: asyncio.StreamWriter) -> None:
        async with contextlib.aclosing(self._method(name)()) as items:
            async for item in items:
                writer.write(packed((number, "item", plain(item))))
                await writer.drain()

    def _method(self, name: str) -> Callable[..., Any]:
        place, _, method = name.rpartition(".")
        found: Callable[..., Any] = getattr(getattr(self._store, place) if place else self._store, method)
        return found
