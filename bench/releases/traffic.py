"""Live traffic through the proxy while releases are brought out: turns at a steady pace, each looked at whole."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

PATIENCE = 2.0  # seconds after which a client gives a turn up
PROMPT = "count to 3 every 1 ms for ann"
WORDS = "ann:0 ann:1 ann:2"


@dataclass(frozen=True, slots=True)
class Turn:
    """One request as its client saw it. `began`: unix seconds; `release`, `trouble`: empty where there was none."""

    began: float
    took: float
    release: str
    trouble: str


@dataclass(slots=True)
class Traffic:
    """Turns at `rate` per second, every second one streamed, whatever becomes of those before."""

    url: str
    rate: float
    turns: list[Turn] = field(default_factory=list)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    async def flow(self) -> None:
        """Until `is_over`; those under way are then waited for."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(self.url, timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            due, number = time.monotonic(), 0
            while not self.is_over.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._turn(session, streamed=number % 2 == 1))
                number += 1
                due += 1 / self.rate

    async def _turn(self, session: aiohttp.ClientSession, *, streamed: bool) -> None:
        began, release, trouble = time.time(), "", ""
        asked = {"model": "counter", "stream": streamed, "messages": [{"role": "user", "content": PROMPT}]}
        try:
            async with session.post("/v1/chat/completions", json=asked) as answer:
                if answer.status != 200:
                    trouble = f"status {answer.status}"
                elif streamed:
                    said = ""
                    async for line in answer.content:
                        if line.startswith(b"data: {"):
                            chunk = json.loads(line[6:])
                            release = chunk["system_fingerprint"]
                            said += chunk["choices"][0]["delta"].get("content", "")
                    trouble = "" if said.strip() == WORDS else "not whole"
                else:
                    document = await answer.json()
                    release = document["system_fingerprint"]
                    trouble = "" if document["choices"][0]["message"]["content"].strip() == WORDS else "not whole"
        except TimeoutError:
            trouble = f"no end within {PATIENCE:g} s"
        except (aiohttp.ClientError, OSError) as error:
            trouble = f"broken off ({type(error).__name__})"
        self.turns.append(Turn(began, time.time() - began, release, trouble))

    def troubles(self) -> Counter[str]:
        """What went wrong, and how often."""
        return Counter(turn.trouble for turn in self.turns if turn.trouble)
