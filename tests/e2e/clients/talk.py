"""A conversation that a driver leads turn by turn: it runs in a task of its own, as the clients' libraries require, and
checks after each turn that it is still where it began and that the agent remembers every word.

While something is broken on purpose (a worker killed, the proxy restarted) a turn that fails is taken again, as a
client would; at any other time its failure is a fault. Whether one went to a stranger the agents count themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

Said = dict[str, Any]  # `place` of the agent that answered, and the `words` that it remembers
Turn = Callable[[int], Awaitable[Said]]
PATIENCE = 15.0  # seconds for one turn, with all that is tried again


@dataclass(frozen=True)
class Way:
    """One way of having a conversation."""

    name: str
    open: Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[Turn]]
    bound: bool = False  # to its connection: it is over, rightly, when that is cut


class Talk:
    """One conversation. `faults` stays empty where all is well."""

    def __init__(
        self, way: Way, url: str, fields: Mapping[str, str], broken: Callable[[], bool], patience: float = PATIENCE
    ) -> None:
        self.way = way
        self.place = ""
        self.turns = 0
        self.faults: list[str] = []
        self.over = False  # it ended with its connection, while something was broken on purpose
        self._broken = broken
        self._patience = patience
        self._orders: asyncio.Queue[asyncio.Future[None] | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(url, fields))

    async def turn(self) -> None:
        """One turn; returns when it is done, or is a fault, or the conversation is over."""
        if self._task.done():
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders.put_nowait(done)
        await asyncio.wait([done, self._task], timeout=3 * self._patience, return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and not self._task.done():
            await self._give_up("it did not answer")

    async def close(self) -> None:
        self._orders.put_nowait(None)
        await asyncio.wait([self._task], timeout=self._patience)
        if not self._task.done():
            await self._give_up("it did not end")

    async def _give_up(self, why: str) -> None:
        self._fault(why)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self, url: str, fields: Mapping[str, str]) -> None:
        try:
            async with self.way.open(url, fields) as turn:
                while (done := await self._orders.get()) is not None:
                    await self._take(turn)
                    done.set_result(None)
        except Exception as error:
            if self.way.bound and self._broken():
                self.over = True
            else:
                self._fault(f"ended by {error!r} {getattr(error, 'exceptions', '')}")

    async def _take(self, turn: Turn) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            broken = self._broken()
            try:
                said = await asyncio.wait_for(turn(self.turns), self._patience)
                break
            except Exception as error:
                broken = broken or self._broken()
                if self.way.bound and broken:
                    raise
                if not broken or time.monotonic() > deadline:
                    self._fault(f"turn {self.turns} failed: {error!r}")
                    return
                await asyncio.sleep(0.05)
        self._check(said)
        self.turns += 1

    def _check(self, said: Said) -> None:
        self.place = self.place or said["place"]
        words = [str(number) for number in range(self.turns + 1)]
        if (said["place"], said["words"]) != (self.place, words):
            self._fault(f"began on {self.place}, now on {said['place']} which remembers {said['words']}, not {words}")

    def _fault(self, text: str) -> None:
        self.faults.append(f"{self.way.name}, begun on {self.place or 'nothing'}: {text}")
