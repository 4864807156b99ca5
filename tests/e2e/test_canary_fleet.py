"""A canary as it is run: two nodes on one Redis, a plan, and sessions whose turns reach either of them at random."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from aiohttp import web
from serving import Agent, Serve, Town, cli, until

from tests.e2e.releases import begin, ended


class Wavering(Agent):
    """One that may fail."""

    status = 200

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/turn", self._turn)

    async def _turn(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=self.status, text=self.label)


class Crowd:
    """Sessions that take one turn after the other, each on the node that comes; what each was answered by, in order."""

    def __init__(self, nodes: list[Serve], name: str) -> None:
        self.answers: dict[str, list[str]] = {f"{name}-{number}": [] for number in range(24)}
        self._nodes = nodes
        self._tasks = [asyncio.create_task(self._talk(session)) for session in self.answers]

    async def _talk(self, session: str) -> None:
        while True:
            node = random.choice(self._nodes)
            fields = {"X-Session-Id": session}
            async with node.session.get(f"{node.url}/turn", headers=fields) as answer:
                self.answers[session].append(await answer.text())
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks)

    def labels(self) -> list[set[str]]:
        """By session, the releases that it has seen."""
        return [set(answers) for answers in self.answers.values()]

    def all_have(self, turns: int) -> bool:
        return all(len(answers) >= turns for answers in self.answers.values())


@pytest.fixture
async def nodes(town: Town, shared: tuple[str, ...]) -> tuple[list[Serve], Wavering, Wavering]:
    v1, v2 = await town.agent("v1", Wavering), await town.agent("v2", Wavering)
    flags = (*shared, "--session", "header:X-Session-Id")
    return [await town.serve(v1, None, *flags), await town.serve(v1, None, *flags)], v1, v2


async def canary_on(serve: Serve, agent: Agent, **canary: Any) -> None:
    await begin(serve, agent, {"canary": {"share": 0.5, "max_error_rate": 0.5, "min_samples": 20, **canary}})

    async def is_on() -> bool:
        return bool((await serve.status())["canary"])

    await until(is_on, "the canary is on")


async def test_one_that_is_good_keeps_its_sessions_through_the_flip(nodes):
    (one, two), _, v2 = nodes
    before = Crowd([one, two], "before")
    await until(lambda: before.all_have(2))
    await canary_on(one, v2, duration=3.0)
    crowd = Crowd([one, two], "during")
    await until(lambda: crowd.all_have(3))
    assert {len(labels) for labels in crowd.labels()} == {1}, "both nodes say the same of a session"
    assert {"v1"} in crowd.labels()
    assert {"v2"} in crowd.labels()
    run = await ended(one)
    assert (run["outcome"], [step["name"] for step in run["steps"]]) == (
        "settled",
        ["ready", "parity", "canary", "flip"],
    )
    await asyncio.gather(before.stop(), crowd.stop())
    assert {frozenset(labels) for labels in before.labels()} == {frozenset({"v1"})}
    assert {len(labels) for labels in crowd.labels()} == {1}
    after = Crowd([one, two], "after")
    await until(lambda: after.all_have(2))
    await after.stop()
    assert set().union(*after.labels()) == {"v2"}


async def test_one_that_is_bad_is_stopped_and_its_sessions_go_on_elsewhere(nodes):
    (one, two), _, v2 = nodes
    v2.status = 500
    await canary_on(one, v2, duration=600.0)
    status = (await two.status())["canary"]
    assert (status["color"], status["release"], status["share"], status["match"]) == ("green", "v2", 0.5, [])
    code, out, _ = await cli("status", "--admin", two.admin)
    assert code == 0
    assert "canary: 50.00% of new sessions begin on green (v2) since" in out

    async def seen() -> Any:
        return (await one.api("GET", "/v1/run"))[1]["watch"]

    watch = await until(seen, "the leader tells what it sees")
    assert (watch["verdict"], watch["new"]["answers"]) == ("undecided", 0)
    crowd = Crowd([one, two], "during")
    run = await ended(two)
    assert (run["outcome"], run["steps"][2]["verdict"]) == ("stopped", "fail")
    assert run["why"].startswith("canary failed: error rate ")
    status = await one.status()
    assert (status["active"], status["epoch"], status["canary"]) == ("blue", 2, None)
    assert status["colors"]["green"]["phase"] in ("rolled_back", "rejected")  # once none of its sessions is left there
    assert (status["flip"]["verb"], status["flip"]["from"], status["flip"]["to"]) == ("canary", "green", "blue")
    seen = {session: len(answers) for session, answers in crowd.answers.items()}

    def all_moved() -> bool:
        return all(answers[-1] == "v1" for answers in crowd.answers.values() if answers) and crowd.all_have(3)

    await until(all_moved, "their sessions live on the active color")
    await crowd.stop()

    async def rejected() -> bool:
        return bool((await one.status())["colors"]["green"]["phase"] == "rejected")

    await until(rejected, "it is drained")
    moved = [session for session, answers in crowd.answers.items() if "v2" in answers[: seen[session]]]
    assert moved
    for session in moved:
        answers = crowd.answers[session]
        assert answers == sorted(answers, reverse=True), f"{session} came back: {answers}"
