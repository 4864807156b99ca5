"""Moves the pointer through the admin API, as an operator's script would, and writes down how each move went."""

from __future__ import annotations

import time
from typing import Any, Literal

import aiohttp

from bgproxy.cli.demo.tally import Move, Tally

_CALL_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Mover:
    """Flips to and fro between two colors. `releases` says which agent stands behind which color."""

    def __init__(self, http: aiohttp.ClientSession, admin: str, tally: Tally, releases: dict[str, str]) -> None:
        self._http = http
        self._admin = admin
        self._tally = tally
        self._releases = releases
        self._epoch = 0
        self.active = ""

    async def ready(self) -> bool:
        """Whether the proxy takes traffic; learns the pointer as it stands."""
        try:
            async with self._http.get(f"{self._admin}/readyz", timeout=_CALL_TIMEOUT) as answer:
                if answer.status != 200:
                    return False
            async with self._http.get(f"{self._admin}/v1/status", timeout=_CALL_TIMEOUT) as answer:
                status = await answer.json()
        except aiohttp.ClientError:
            return False
        self.active, self._epoch = status["active"], status["epoch"]
        return True

    async def flip(self) -> str:
        """Flip to the other color, provided that nobody else has moved the pointer."""
        target = next(color for color in self._releases if color != self.active)
        return await self._move("flip", target, {"to": target, "reason": "demo", "if_epoch": self._epoch})

    async def rollback(self) -> str:
        """Back to where the last flip came from."""
        target = next(color for color in self._releases if color != self.active)
        return await self._move("rollback", target, {"reason": "demo"})

    async def _move(self, verb: Literal["flip", "rollback"], target: str, body: dict[str, Any]) -> str:
        """Ask for the move and tell the tally; returns one line about it, for people."""
        tally, source = self._tally, self.active
        streams, websockets = tally.under_way("streams"), tally.under_way("websockets")
        began = time.perf_counter()
        tally.pointer.moving(self._releases[target], began)
        told = await self._ask(verb, body)
        returned = time.perf_counter()
        if told.get("active") != target or not told.get("changed", True):
            problem = f"{verb} {source} → {target} was not done: {told.get('detail', told)}"
            tally.problems.append(problem)
            return problem
        tally.pointer.moved(returned)
        self.active, self._epoch = target, told["epoch"]
        move = Move(
            verb,
            source,
            target,
            self._epoch,
            took_ms=told["took_ms"],
            call_ms=round((returned - began) * 1000, 2),
            streams=len(streams & tally.under_way("streams")),
            websockets=len(websockets & tally.under_way("websockets")),
        )
        tally.moves.append(move)
        across = f"across {move.streams} streams and {move.websockets} websockets"
        return f"{verb} {source} → {target} took {move.took_ms:.1f} ms, {across}, {tally.lost} lost so far"

    async def _ask(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            async with self._http.post(f"{self._admin}/v1/{verb}", json=body, timeout=_CALL_TIMEOUT) as answer:
                told: dict[str, Any] = await answer.json(content_type=None)
                return told
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return {"detail": f"the admin API did not answer: {error!r}"}
