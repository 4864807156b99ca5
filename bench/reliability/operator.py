"""An operator who flips to and fro as a careful one would: with a key, and again where nothing was heard.

Each attempt is noted: when it was asked, when it was told, what came of it, and on which connection it was, so that a
fault can take away the very worker that has it in hand.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from math import inf
from typing import Any

from bench.history import Flip

OTHER = {"blue": "green", "green": "blue"}
ANSWER_TIMEOUT = 10.0  # seconds for one call


@dataclass(slots=True)
class Operator:
    """Calls the admin API of hosts, one after the other."""

    doors: list[tuple[str, int]]
    token: str = ""
    pause: float = 0.0  # seconds between two flips
    rolls_back: float = 0.0  # the share of flips that are made by a rollback
    terms: dict[str, Any] = field(default_factory=dict)  # further members of each flip
    outcomes: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)  # seconds of those that were made
    flips: dict[int, Flip] = field(default_factory=dict)
    over: bool = False
    waits: bool = False  # told to leave the pointer alone for a moment
    busy: bool = False  # a flip is under way
    asked: Callable[[tuple[int, int]], None] | None = None  # hears of each call that is under way, see `fleet.End`
    told: dict[str, str] = field(default_factory=dict)  # the last refusal of each kind, in its own words
    record: dict[int, str] = field(default_factory=dict)  # the colors of the epochs in the audit, once that was read
    _dice: random.Random = field(default_factory=lambda: random.Random(1))

    async def flip_on(self) -> None:
        """Flip until told to stop."""
        to, number = "green", 0
        while not self.over:
            if self.waits:
                await asyncio.sleep(0.01)
                continue
            number += 1
            self.busy = True
            is_back = bool(self.flips) and self._dice.random() < self.rolls_back
            epoch, active = await self._flip("" if is_back else to, self.doors[number % len(self.doors) :] + self.doors)
            if epoch:
                to = OTHER[active]
            self.busy = False
            await asyncio.sleep(self.pause)

    async def rests(self) -> None:
        """No flip is under way, and none will be until `waits` is taken back."""
        self.waits = True
        while self.busy:  # noqa: ASYNC110 - a bench may look again and again
            await asyncio.sleep(0.005)

    async def roll_back(self) -> bool:
        """Make one more move, once `flip_on` has ended: a rollback. Whether that was made in time."""
        until = time.monotonic() + ANSWER_TIMEOUT
        while time.monotonic() < until:
            if (await self._flip("", self.doors))[0]:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _flip(self, to: str, doors: list[tuple[str, int]]) -> tuple[int, str]:
        """One flip, or where it leads nowhere a rollback, made or not; the epoch that stands then, where that was told,
        and its color. Who does not hear what came of it asks again with the same key, and the next host."""
        key, began = secrets.token_hex(8), time.monotonic()
        path, body = ("/v1/flip", {"to": to, **self.terms}) if to else ("/v1/rollback", self.terms)
        for door in islice(cycle(doors), 100):
            sent = time.monotonic()
            try:
                status, answer = await self.call(door, "POST", path, body, key)
            except (OSError, EOFError, TimeoutError, ValueError):
                self.outcomes["no answer, asked again"] += 1
                await asyncio.sleep(0.02)
                continue
            now = time.monotonic()
            if status == 200:
                asked = began if answer["changed"] else -inf
                self._made(int(answer["epoch"]), answer, asked, now, now - sent, back=not to)
                return int(answer["epoch"]), str(answer["active"])
            code = str(answer.get("code", status))
            self.outcomes[f"{status} {code}"] += 1
            self.told[f"{status} {code}"] = str(answer.get("detail", ""))
            if code == "store_unavailable":  # whether it was made is not known
                await asyncio.sleep(0.05)
                continue
            await asyncio.sleep(0.01)
            return 0, ""
        return 0, ""

    def _made(self, epoch: int, answer: Any, began: float, now: float, seconds: float, *, back: bool = False) -> None:
        if epoch not in self.flips:
            self.outcomes["made"] += 1
            self.took.append(seconds)
            replicas = answer.get("replicas")
            is_kept = replicas is not None and replicas["have"] >= replicas["wanted"]
            if replicas is not None and not is_kept:
                self.outcomes["of these told that no replica has it yet"] += 1
            self.flips[epoch] = Flip(epoch, str(answer["active"]), began, now, is_kept, back)

    async def call(
        self, door: tuple[str, int], method: str, path: str, body: object = None, key: str = ""
    ) -> tuple[int, Any]:
        """One call on a connection of its own. Raises `OSError`, `EOFError`, `TimeoutError`, `ValueError`."""
        async with asyncio.timeout(ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_connection(*door)
            try:
                content = json.dumps(body).encode() if body is not None else b""
                lines = [f"{method} {path} HTTP/1.1", f"Host: {door[0]}:{door[1]}", "Connection: close"]
                lines += [f"Content-Length: {len(content)}", "Content-Type: application/json"]
                lines += [f"Authorization: Bearer {self.token}"] if self.token else []
                lines += [f"Idempotency-Key: {key}"] if key else []
                if self.asked is not None and method == "POST":
                    self.asked((writer.get_extra_info("sockname")[1], door[1]))
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
                head = await reader.readuntil(b"\r\n\r\n")
                rest = await reader.read()
                return int(head[9:12]), json.loads(_unchunked(rest) if b"chunked" in head.lower() else rest)
            finally:
                writer.close()

    async def epochs(self) -> list[Flip]:
        """Every epoch that ever was, as far as the audit, which is read for it, and the operator know."""
        known = {1: Flip(1, "blue")} | self.flips
        before = ""
        while True:
            query = f"?limit=1000{f'&before={before}' if before else ''}"
            _, page = await self.call(self.doors[0], "GET", f"/v1/audit{query}")
            for entry in page["entries"]:
                if "to" in entry["facts"] and entry["verb"] in ("flip", "rollback"):
                    epoch, to = entry["epoch"], entry["facts"]["to"]
                    is_back = entry["verb"] == "rollback"  # who flips may be told of what another one did
                    known[epoch] = known.get(epoch, Flip(epoch, to))._replace(back=is_back)
                    self.record[epoch] = to
            if not page["entries"] or not page.get("next"):
                break
            before = page["next"]
        return sorted(known.values())


def _unchunked(data: bytes) -> bytes:
    """A body in chunks, taken apart (RFC 9112 §7.1)."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        body, data = body + data[:count], data[count + 2 :]
        if not count:
            break
    return body


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of them lies; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
