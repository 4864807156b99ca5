"""A release that proves bad only under live traffic: two workers watch it, one judges, and both are back at once."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from aiohttp import web
from serving import Agent, Serve, Town, cli, until

from tests.e2e.releases import run_of

pytestmark = pytest.mark.redis

PLAN = """
[bake]
duration = 60.0
max_error_rate = 0.01
max_p95_ratio = 20.0
min_samples = 200
"""


class Leaky(Agent):
    """Fails one turn in ten, once it `leaks`."""

    leaks = False

    def add_routes(self, router: web.UrlDispatcher) -> None:
        self.turns = itertools.count(1)
        router.add_route("*", "/turn", self._turn)

    async def _turn(self, _: web.Request) -> web.StreamResponse:
        failed = self.leaks and not next(self.turns) % 10
        return web.Response(status=500 if failed else 200, text=self.label)


class Traffic:
    """Clients that ask over and over."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.seen: dict[tuple[str, int], int] = {}
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(4)]

    async def turn(self, **fields: str) -> tuple[str, int]:
        async with self._serve.session.get(f"{self._serve.url}/turn", headers=fields) as answer:
            return await answer.text(), answer.status

    async def _ask(self) -> None:
        while True:
            key = await self.turn()
            self.seen[key] = self.seen.get(key, 0) + 1
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_leak_of_errors_is_rolled_back_by_itself(town: Town, shared: tuple[str, ...], tmp_path: Path):
    v1, v2 = await town.agent("v1", Leaky), await town.agent("v2", Leaky)
    presets = {"BGPROXY_SESSIONS__PRESETS": "header:X-Session-Id"}
    serve = await town.serve(v1, None, *shared, workers=2, **presets)
    traffic = Traffic(serve)
    await until(lambda: traffic.seen.get(("v1", 200), 0) > 100)
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)

    async def watched_by_both() -> bool:
        watch = (await run_of(serve))["watch"]
        return bool(watch) and watch["nodes"] == 2

    words = ("release", "green", "--release", "v2", "--upstream", v2.url, "--plan", str(plan), "--yes")
    command = asyncio.create_task(cli(*words, "--admin", serve.admin))
    await until(lambda: any(label == "v2" for label, _ in traffic.seen))
    assert (await traffic.turn(**{"X-Session-Id": "on v2"}))[0] == "v2"
    await until(watched_by_both)
    v2.leaks = True
    code, out, err = await command
    await traffic.stop()

    last = out.splitlines()[-1]
    assert (code, err) == (1, "")
    assert last.startswith("rolled back, v2 on green: blue was made active by bgproxy: bake of v2: error rate 0."), out
    assert "limit 0.01" in last
    assert any(line.startswith("baking ") for line in out.splitlines()), out
    assert await serve.all_say("v1", 5)
    assert (await traffic.turn(**{"X-Session-Id": "on v2"}))[0] == "v1", "on_rollback is move: it left the bad release"
    status = await serve.status()
    assert (status["active"], status["epoch"]) == ("blue", 3)
    assert await serve.phase("green") in ("rolled_back", "rejected")
    _, body = await serve.api("GET", "/v1/audit?limit=100")
    facts = next(entry["facts"] for entry in body["entries"] if entry["facts"].get("step") == "bake")
    assert (facts["verdict"], facts["evidence"]["nodes"]) == ("fail", 2)
    counted = facts["evidence"]["new"]
    harmed = traffic.seen["v2", 500]
    assert counted["errors"] <= harmed + 3
    assert facts["evidence"]["old"]["answers"] > 50, "the old release's before the flip"
    code, _, err = await cli("flip", "green", "--admin", serve.admin)
    assert code == 1, "what was rolled back is not flipped to again"
