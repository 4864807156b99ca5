"""Releases that are brought out by HTTP, which is quicker than a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving import PATIENCE, Agent, Serve, until


async def begin(serve: Serve, agent: Agent, plan: Mapping[str, Any]) -> None:
    """Bring the agent's release out on green, by a plan that must be good."""
    await _begin(serve, {"color": "green", "release": agent.label, "upstreams": [agent.url], "plan": plan})


async def brought_out(
    serve: Serve, agent: Agent, plan: Mapping[str, Any], patience: float = PATIENCE
) -> dict[str, Any]:
    """What it came to."""
    await begin(serve, agent, plan)
    return await ended(serve, patience)


async def validated(serve: Serve, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What came of trying the release that waits on green."""
    await _begin(serve, {"color": "green", "kind": "validate", "plan": plan})
    return await ended(serve)


async def run_of(serve: Serve) -> dict[str, Any]:
    code, body = await serve.api("GET", "/v1/run")
    assert code == 200, body
    return dict(body)


async def ended(serve: Serve, patience: float = PATIENCE) -> dict[str, Any]:
    """The run that stands, once it is over."""

    async def over() -> dict[str, Any] | None:
        run = await run_of(serve)
        return None if run["open"] else run

    return dict(await until(over, "the run is over", patience))


async def _begin(serve: Serve, asked: Mapping[str, Any]) -> None:
    code, body = await serve.api("POST", "/v1/run", asked)
    assert code == 200, body
