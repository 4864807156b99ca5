"""Sessions on the embedded store: a worker that is killed and a proxy that is started anew know them still."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from serving import Agent, Serve, Town, until


async def turn(serve: Serve, session: str) -> str:
    """One turn of a session; a worker that has just died may not have a successor yet."""

    async def said() -> str:
        try:
            status, text = await serve.ask("/mcp", f"Mcp-Session-Id: {session}")
        except (ConnectionError, EOFError):
            return ""
        return text if status == 200 else ""

    return str(await until(said))


async def turns(serve: Serve, sessions: list[str]) -> dict[str, str]:
    return {session: await turn(serve, session) for session in sessions}


async def begun(serve: Serve) -> dict[str, str]:
    """Sessions on both releases, and one that was moved by hand; green is active in the end."""
    began = await turns(serve, [f"a-{each}" for each in range(6)])
    assert set(began.values()) == {"v1"}
    await serve.flip("green")
    began |= await turns(serve, [f"b-{each}" for each in range(6)])
    await asyncio.sleep(0.2)  # what has been made reaches the file within 50 ms
    return began


async def live(serve: Serve) -> dict[str, int]:
    return {color: one["sessions"] for color, one in (await serve.status())["colors"].items()}


async def test_a_worker_that_is_killed_takes_no_session_with_it(town: Town, agents: tuple[Agent, Agent]) -> None:
    serve = await town.serve(*agents)
    began = await begun(serve)
    for number in range(2):
        os.kill(serve.workers[0], signal.SIGKILL)
        await serve.ready(workers=2 + number)
        assert await turns(serve, [*began]) == began
        assert await live(serve) == {"blue": 6, "green": 6}
    assert set(began.values()) == {"v1", "v2"}
    await serve.flip("blue")
    assert await turns(serve, [*began, "new"]) == {**began, "new": "v1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_proxy_that_is_started_anew_on_its_snapshot_knows_its_sessions(
    town: Town, agents: tuple[Agent, Agent], tmp_path: Path, number: int
) -> None:
    place = "--store", f"memory://{tmp_path}/fleet.json"
    serve = await town.serve(*agents, *place)
    began = await begun(serve)
    serve.signal(number, group=number == signal.SIGKILL)
    await serve.ended()
    await until(lambda: not serve.workers)
    again = await town.serve(*agents, *place)
    assert await turns(again, [*began]) == began
    assert await live(again) == {"blue": 6, "green": 6}
    assert await turn(again, "new") == "v2"
