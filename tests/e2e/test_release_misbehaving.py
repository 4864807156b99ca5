"""Each v2 that misbehaves is stopped by the gate that should stop it, with nothing flipped; a good one goes through.
The agents are the demo's, with a fault each, in a process of their own; the command is run as an operator runs it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import ROOT, Serve, Town, cli, environment, until
from typer.testing import CliRunner

from bench.releases.plans import BAKE, GATES, TURN
from bench.releases.traffic import Traffic
from bgproxy.cli.main import app

STOPPED = {
    "crash": ("ready", "connection refused"),
    "gone": ("parity", "mcp: tool work is gone"),
    "schema": ("parity", "mcp: tool ask requires tone"),
    "tool": ("gate:tools", "the tool ask failed"),
    "hang": ("gate:stream", "no whole answer within 1.2 s"),
    "break": ("gate:stream", "the answer broke off"),
    "sockets": ("gate:talk", "the handshake: the status is 403, expected is 101"),
    "errors": ("gate:turns", "the error rate is 0.02, the limit is 0.01 (most: status 500)"),
    "slow": ("gate:turns", "p50 is 0.4"),
}


@pytest.fixture(scope="module")
def v2s() -> Iterator[dict[str, str]]:
    """The addresses of all agents, by name."""
    asked = [sys.executable, "-m", "bench.releases.misbehave"]
    with subprocess.Popen(asked, cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.terminate()


def green(serve: Serve, label: str, url: str, plan: Path, *more: str) -> tuple[str, ...]:
    words = ("release", "green", "--release", label, "--upstream", url, "--plan", str(plan), "--yes")
    return (*words, "--admin", serve.admin, *more)


async def here(*arguments: str) -> tuple[int, str, str]:
    """The command as `cli` runs it, without a process of its own: half a second less."""
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    return result.exit_code, result.stdout, result.stderr


async def evidence(serve: Serve, step: str) -> dict[str, Any]:
    """What is on record of a step, the newest."""
    _, body = await serve.api("GET", "/v1/audit?limit=100")
    return next(entry["facts"] for entry in body["entries"] if entry["facts"].get("step") == step)


async def answers(serve: Serve) -> str:
    """The release that answers a turn."""
    asked = {"messages": [{"role": "user", "content": TURN}]}
    async with serve.session.post(f"{serve.url}/v1/chat/completions", json=asked) as answer:
        assert answer.status == 200
        return str((await answer.json())["system_fingerprint"])


async def test_each_is_stopped_by_its_gate_and_a_good_one_goes_through(town: Town, v2s, tmp_path):
    serve = await town.serve(SimpleNamespace(url=v2s["v1"]))
    plan = tmp_path / "plan.toml"
    plan.write_text(GATES)
    for name, (step, why) in STOPPED.items():
        words = green(serve, name, v2s[name], plan)
        code, out, err = await (cli(*words) if name == "crash" else here(*words))
        *_, before, last = out.splitlines()
        assert (code, err, before.split()[:2]) == (1, "", ["fail", step]), (name, out)
        assert last.startswith(f"stopped, {name} on green was not made active: {step} failed: "), out
        assert why in last, out
        status = await serve.status()
        assert (status["active"], status["epoch"], await serve.phase("green")) == ("blue", 1, "rejected")
        told = await evidence(serve, step)
        assert (told["verdict"], told["why"] in last) == ("fail", True)
        assert told["evidence"], "and by what"
    assert await answers(serve) == "v1"

    code, out, err = await cli(*green(serve, "good", v2s["good"], plan, "--json"))
    *steps, end = map(json.loads, out.splitlines())
    assert (code, end["outcome"]) == (0, "settled"), err
    assert [(one["name"], one["verdict"]) for one in steps] == [
        (name, "pass") for name in ("ready", "parity", "gate:tools", "gate:stream", "gate:talk", "gate:turns", "flip")
    ]
    assert await answers(serve) == "v2"
    status = await serve.status()
    assert (status["epoch"], status["reason"], status["actor"]) == (2, "release good", "admin@loopback")
    assert (await evidence(serve, "gate:turns"))["evidence"]["new"]["samples"] == 100
    assert (await serve.api("GET", "/v1/audit/verify"))[1]["intact"] is True


async def test_streams_that_break_off_where_no_gate_looks_are_rolled_back_by_the_bake(town: Town, v2s, tmp_path):
    serve = await town.serve(SimpleNamespace(url=v2s["v1"]))
    plan = tmp_path / "plan.toml"
    plan.write_text(BAKE.format(duration=60.0))
    traffic = Traffic(serve.url, rate=100.0)
    flowing = asyncio.create_task(traffic.flow())
    await until(lambda: len(traffic.turns) > 30)
    code, out, _ = await here(*green(serve, "break", v2s["break"], plan))
    traffic.is_over.set()
    await flowing
    assert code == 1, out
    last = out.splitlines()[-1]
    assert last.startswith(
        "rolled back, break on green: blue was made active by bgproxy: bake of break: error rate 0."
    ), last
    assert "limit 0.01" in last, last
    status = await serve.status()
    assert (status["active"], status["epoch"], status["actor"]) == ("blue", 3, "bgproxy")
    assert await answers(serve) == "v1"
    broken = [turn.release for turn in traffic.turns if turn.trouble.startswith("broken off")]
    assert set(broken) == {"v2"}, "by nobody else"
