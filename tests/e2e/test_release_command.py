"""`bgproxy release` as it is run: a v2 that misbehaves is stopped by the gate that should stop it, with nothing
flipped; a good one goes through, whatever becomes of the command or of the worker that leads.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from serving import BGPROXY, ROOT, Agent, Serve, Town, cli, environment, until

SMALLEST = (ROOT / "config" / "examples" / "plan-smallest.toml").read_text()
TOOLS = [{"name": name, "inputSchema": {"type": "object", "properties": {"q": {}}}} for name in ("search", "fetch")]
Fault = Callable[["Chatty"], None]


class Chatty(Agent):
    """An agent that chats, has tools, and can be made to fail at each."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.tools = list(TOOLS)
        self.role = "assistant"
        self.tool_fails = False
        self.status = 200
        self.lag = 0.0
        self.hangs = False

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self._chat)
        router.add_post("/mcp", self._mcp)

    async def _chat(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        await asyncio.sleep(self.lag)
        if self.hangs:
            await self.go.wait()
        message = {"role": self.role, "content": self.label}
        return web.json_response({"choices": [{"message": message}]}, status=self.status)

    async def _mcp(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        results: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}},
            "tools/list": {"tools": self.tools},
            "tools/call": {"content": [{"type": "text", "text": "found"}], "isError": self.tool_fails},
        }
        if "id" not in asked:
            return web.Response(status=202)
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]})


@pytest.fixture
async def v1(town: Town) -> Agent:
    return await town.agent("v1", Chatty)


@pytest.fixture
async def v2(town: Town) -> Chatty:
    return await town.agent("v2", Chatty)


def plan_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    return str(file)


def green(serve: Serve, agent: Agent, plan: str, *more: str) -> tuple[str, ...]:
    words = ("release", "green", "--release", agent.label, "--upstream", agent.url, "--plan", plan, "--yes")
    return (*words, "--admin", serve.admin, *more)


async def run_of(serve: Serve) -> dict[str, Any]:
    code, body = await serve.api("GET", "/v1/run")
    assert code == 200, body
    return dict(body)


async def evidence(serve: Serve, step: str) -> dict[str, Any]:
    """What is on record of a step, the newest."""
    _, body = await serve.api("GET", "/v1/audit?limit=100")
    return next(entry["facts"] for entry in body["entries"] if entry["facts"].get("step") == step)


def role(agent: Chatty) -> None:
    agent.role = "system"


def error(agent: Chatty) -> None:
    agent.status = 500


def tool(agent: Chatty) -> None:
    agent.tool_fails = True


def schema(agent: Chatty) -> None:
    agent.tools[0] = {"name": "search", "inputSchema": {"type": "object", "properties": {"q": {}}, "required": ["q"]}}


def gone(agent: Chatty) -> None:
    agent.tools = agent.tools[:1]


def slow(agent: Chatty) -> None:
    agent.lag = 0.6


def hang(agent: Chatty) -> None:
    agent.hangs = True


CHAT = 'method = "POST"\npath = "/v1/chat/completions"\n'
PLAN = f"""
ready_timeout = 0.5
[[gate]]
kind = "http"
name = "smoke"
{CHAT}
timeout = 0.8
expect_json = {{ "/choices/0/message/role" = "assistant" }}
[[gate]]
kind = "mcp"
name = "tools"
call = "search"
[[gate]]
kind = "load"
name = "pace"
{CHAT}
agents = 16
duration = 1.0
requests = 60
slo = {{ max_error_rate = 0.05, max_p95 = 0.5 }}
"""

MISBEHAVE: list[tuple[Fault, str, str]] = [
    (role, "gate:smoke", '/choices/0/message/role is "system"'),
    (error, "gate:smoke", "the status is 500"),
    (hang, "gate:smoke", "no answer within 0.8 s"),
    (tool, "gate:tools", "the tool search failed"),
    (schema, "parity", "mcp: tool search requires q"),
    (gone, "parity", "mcp: tool fetch is gone"),
    (slow, "gate:pace", "p95 is 0.6"),
]


async def brought_out(serve: Serve, agent: Agent, plan: str, kind: str = "release") -> dict[str, Any]:
    """By HTTP, which is quicker than a command: what it came to."""
    asked: dict[str, Any] = {"color": "green", "kind": kind, "plan": tomllib.loads(plan)}
    asked |= {"release": agent.label, "upstreams": [agent.url]} if kind == "release" else {}
    code, body = await serve.api("POST", "/v1/run", asked)
    assert code == 200, body

    async def over() -> dict[str, Any] | None:
        run = await run_of(serve)
        return None if run["open"] else run

    return dict(await until(over))


async def test_each_v2_that_misbehaves_is_stopped_by_its_gate_and_a_good_one_goes_through(town, v1, v2):
    serve = await town.serve(v1)
    down = await town.agent("down", Chatty)
    await down.stop()
    faults: list[tuple[Chatty, str, str]] = [(down, "ready", "connection refused")]
    for fault, step, why in MISBEHAVE:
        agent = await town.agent(fault.__name__, Chatty)
        fault(agent)
        faults.append((agent, step, why))
    for agent, step, why in faults:
        run = await brought_out(serve, agent, PLAN)
        assert (run["release"], run["outcome"]) == (agent.label, "stopped")
        assert run["why"].startswith(f"{step} failed: "), run
        assert why in run["why"], run
        status = await serve.status()
        assert (status["active"], status["epoch"], await serve.phase("green")) == ("blue", 1, "rejected")
        assert (await evidence(serve, step))["verdict"] == "fail"
    assert await serve.ask() == (200, "v1")

    assert (await brought_out(serve, v2, PLAN))["outcome"] == "settled"
    assert await serve.ask() == (200, "v2")
    status = await serve.status()
    assert (status["epoch"], status["reason"], status["actor"]) == (2, "release v2", "admin@loopback")
    assert (await evidence(serve, "gate:pace"))["evidence"]["new"]["samples"] == 60
    assert (await serve.api("GET", "/v1/audit/verify"))[1]["intact"] is True


async def test_the_smallest_plan_as_it_is_written_under_live_traffic(town, v1, v2, tmp_path):
    serve = await town.serve(v1)
    stream = await serve.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    plan = plan_file(tmp_path, SMALLEST)
    role(v2)
    code, out, _ = await cli(*green(serve, v2, plan))
    why = f'gate:http-1 failed: {v2.url}: /choices/0/message/role is "system", expected is "assistant"'
    assert (code, out.splitlines()[-1]) == (1, f"stopped, v2 on green was not made active: {why}")
    v2.role = "assistant"
    code, out, err = await cli(*green(serve, v2, plan, "--json"))
    documents = [json.loads(line) for line in out.splitlines()]
    assert (code, documents[-1]["outcome"]) == (0, "settled"), err
    assert [one["name"] for one in documents[:-1]] == ["ready", "parity", "gate:http-1", "flip", "bake"]
    assert await serve.all_say("v2", 5)
    assert await stream.chunk() == b"id: 1\ndata: v1\n\n"
    assert (await serve.status())["colors"]["blue"]["streams"] == 1, "nothing is cut"
    stream.close()


PROGRAM = """
[[gate]]
kind = "command"
name = "checks"
command = ["/bin/sh", "-c", "echo $BGPROXY_TARGET >> {file}; while ! test -e {go}; do sleep 0.05; done"]
"""


async def held(town: Town, v1: Agent, tmp_path: Path, **more: Any) -> tuple[Serve, str, Path, Path]:
    """A serve that lets a program run which ends when `go` is there, and notes in `file` that it began."""
    file, go = tmp_path / "ran", tmp_path / "go"
    plan = plan_file(tmp_path, PROGRAM.format(file=file, go=go))
    serve = await town.serve(v1, **more, BGPROXY_ROLLOUT__COMMANDS="/bin/sh")
    return serve, plan, file, go


def runs(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


async def begin(serve: Serve, agent: Agent, plan: str) -> asyncio.subprocess.Process:
    """The command, in the background."""
    return await asyncio.create_subprocess_exec(
        *BGPROXY,
        *green(serve, agent, plan),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_a_client_that_dies_stops_nothing_and_the_same_command_follows_again(town, v1, v2, tmp_path):
    serve, plan, file, go = await held(town, v1, tmp_path)
    first = await begin(serve, v2, plan)
    await until(lambda: runs(file))
    assert file.read_text().strip() == v2.url
    first.kill()
    await first.communicate()
    again = await begin(serve, v2, plan)
    assert again.stdout is not None
    assert await again.stdout.readline() == b"r2 was begun before by admin@loopback; following it\n"
    go.touch()
    out, _ = await again.communicate()
    assert (again.returncode, out.decode().splitlines()[-1]) == (0, "settled: green is active with v2")
    assert runs(file) == 1


async def test_an_abort_ends_the_program_and_flips_nothing(town, v1, v2, tmp_path):
    serve, plan, file, _ = await held(town, v1, tmp_path)
    command = await begin(serve, v2, plan)
    await until(lambda: runs(file))
    assert (await serve.api("POST", "/v1/run/abort", {"reason": "not today"}))[0] == 200
    out, _ = await command.communicate()
    last = "aborted, v2 on green: admin@loopback aborted it: not today"
    assert (command.returncode, out.decode().splitlines()[-1]) == (1, last)
    assert ((await serve.status())["epoch"], await serve.phase("green")) == (1, "rejected")
    await until(lambda: not sleepers(serve), "the end of the program")


def sleepers(serve: Serve) -> list[int]:
    """The shells that a worker of this proxy has started."""
    found = []
    for worker in serve.workers:
        for thread in Path(f"/proc/{worker}/task").iterdir():
            children = thread / "children"
            found += [int(child) for child in children.read_text().split()] if children.exists() else []
    return found


@pytest.mark.redis
async def test_a_worker_that_dies_while_it_leads_is_followed_by_another(town, v1, v2, redis_server, tmp_path):
    store = ("--store", redis_server.url, "--fleet", town.fleet)
    file, go = tmp_path / "ran", tmp_path / "go"
    plan = plan_file(tmp_path, PROGRAM.format(file=file, go=go))
    serve = await town.serve(v1, None, *store, workers=2, BGPROXY_ROLLOUT__COMMANDS="/bin/sh")
    command = await begin(serve, v2, plan)
    await until(lambda: runs(file))
    leader = (await run_of(serve))["leader"]
    os.kill(int(leader.rsplit("-", 2)[1]), signal.SIGKILL)
    await until(lambda: runs(file) == 2, "another one that tries the gate again")
    go.touch()
    out, _ = await command.communicate()
    assert (command.returncode, out.decode().splitlines()[-1]) == (0, "settled: green is active with v2"), out
    run = await run_of(serve)
    assert (run["leader"] != leader, (await serve.status())["epoch"]) == (True, 2)
    assert (await evidence(serve, "take over"))["before"] == leader
    assert await serve.all_say("v2", 10)


BAD = [
    ({"gates": []}, "gates: there is no such key; did you mean gate?"),
    ({"gate": [{"kind": "replay"}]}, 'gate[1].kind: "replay" is not known'),
    ({"gate": [{"kind": "http", "expect_json": {"/a": {"lik": "x"}}}]}, 'did you mean "like"?'),
    ({"gate": [{"kind": "load", "requests": 9, "slo": {"max_p99": 1}}]}, "cannot be judged with fewer than 100"),
    ({"bake": {"min_samples": 9, "max_error_rate": 0.01}}, "the least is 100"),
    ({"gate": [{"kind": "command", "command": ["/bin/true"]}]}, "add it to rollout.commands"),
    ({"gate": [{"kind": "webhook", "url": "http://127.0.0.1:1/"}]}, "add it to rollout.webhooks"),
]


async def test_bad_plans_do_nothing_and_validating_flips_nothing(town, v1, v2, tmp_path):
    serve = await town.serve(v1)
    for plan, said in BAD:
        asked = {"color": "green", "release": "v2", "upstreams": [v2.url], "plan": plan}
        code, body = await serve.api("POST", "/v1/run", asked)
        assert (code, body["code"], said in body["detail"]) == (400, "bad_input", True), body
    assert (await serve.api("GET", "/v1/run"))[0] == 404
    assert (await serve.status())["colors"]["green"]["release"] is None

    assert (await serve.api("PUT", "/v1/colors/green", {"release": "v2", "upstreams": [v2.url]}))[0] == 200
    code, out, err = await cli("validate", "green", "--plan", plan_file(tmp_path, SMALLEST), "--admin", serve.admin)
    assert (code, out.splitlines()[-1]) == (0, "validated: v2 on green is ready, nothing was flipped"), err
    assert (await serve.status())["epoch"] == 1
    role(v2)
    run = await brought_out(serve, v2, SMALLEST, kind="validate")
    assert (run["outcome"], await serve.phase("green")) == ("stopped", "rejected"), "it may be asked for again"
