"""`bgproxy release` as it is run, whatever becomes of the command or of the worker that leads. What its gates stop:
`test_release_misbehaving.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from serving import BGPROXY, ROOT, Agent, Serve, Town, cli, environment, until

from tests.e2e.releases import brought_out, run_of, validated

SMALLEST = (ROOT / "config" / "examples" / "plan-smallest.toml").read_text()
AT_ONCE = SMALLEST.replace("duration = 60.0", "duration = 0.5")


class Chatty(Agent):
    """An agent that chats; as whom, a test says."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.role = "assistant"

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self._chat)

    async def _chat(self, _: web.Request) -> web.StreamResponse:
        message = {"role": self.role, "content": self.label}
        return web.json_response({"choices": [{"message": message}]})


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


def role(agent: Chatty) -> None:
    agent.role = "system"


async def test_the_smallest_plan_as_it_is_written_under_live_traffic(town, v1, v2, tmp_path):
    serve = await town.serve(v1)
    stream = await serve.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    plan = plan_file(tmp_path, AT_ONCE)
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


HOOK = """
[[hook]]
name = "tell"
at = ["flip"]
command = ["/bin/sh", "-c", "echo >> {file}; while ! test -e {go}; do sleep 0.05; done"]
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
    elsewhere = asyncio.create_task(cli("release", "--watch", "--admin", serve.admin))
    go.touch()
    out, _ = await again.communicate()
    last = "settled: green is active with v2"
    assert (again.returncode, out.decode().splitlines()[-1]) == (0, last)
    code, out, _ = await elsewhere
    assert (code, out.splitlines()[-1], runs(file)) == (0, last, 1)


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
async def test_workers_that_die_while_they_lead_are_followed_by_others(town, v1, v2, redis_server, tmp_path):
    """One in the middle of a gate, one after the flip: a program may run twice, the pointer moves once."""
    store = ("--store", redis_server.url, "--fleet", town.fleet)
    file, go, told, on = (tmp_path / name for name in ("ran", "go", "told", "on"))
    plan = plan_file(tmp_path, PROGRAM.format(file=file, go=go) + HOOK.format(file=told, go=on))
    serve = await town.serve(v1, None, *store, workers=2, BGPROXY_ROLLOUT__COMMANDS="/bin/sh")
    command = await begin(serve, v2, plan)
    leaders = []
    for noted, goes_on in ((file, go), (told, on)):
        await until(lambda noted=noted: runs(noted))
        leaders.append((await run_of(serve))["leader"])
        os.kill(int(leaders[-1].rsplit("-", 2)[1]), signal.SIGKILL)
        await until(lambda noted=noted: runs(noted) == 2, "another one that tries it again")
        goes_on.touch()
    out, _ = await command.communicate()
    assert (command.returncode, out.decode().splitlines()[-1]) == (0, "settled: green is active with v2"), out
    run = await run_of(serve)
    assert (len({*leaders, run["leader"]}), (await serve.status())["epoch"]) == (3, 2)
    _, record = await serve.api("GET", "/v1/audit?limit=100")
    steps = [entry["facts"].get("step", entry["verb"]) for entry in reversed(record["entries"])]
    steps = [step for step in steps if step != "prepare"]  # there is none where the flip found one node only
    assert steps[steps.index("begin") :] == [
        *("begin", "ready", "parity", "take over", "gate:checks", "flip", "flip"),
        *("take over", "after:flip:tell"),
    ]
    assert await serve.all_say("v2", 10)


BAD = [
    ({"gates": []}, "gates: there is no such key; did you mean gate?"),
    ({"gate": [{"kind": "repeat"}]}, 'gate[1].kind: "repeat" is not known'),
    ({"gate": [{"kind": "http", "expect_json": {"/a": {"lik": "x"}}}]}, 'did you mean "like"?'),
    ({"gate": [{"kind": "load", "requests": 9, "slo": {"max_p99": 1}}]}, "cannot be judged with fewer than 100"),
    ({"bake": {"min_samples": 9, "max_error_rate": 0.01}}, "the least is 100"),
    ({"gate": [{"kind": "command", "command": ["/bin/true"]}]}, "add it to rollout.commands"),
    ({"gate": [{"kind": "webhook", "url": "http://127.0.0.1:1/"}]}, "add it to rollout.webhooks"),
]


NOBODY = "http://127.0.0.1:1/"
SHELL = ["/bin/sh", "-c", "sleep 60"]
NO = [
    ({"hook": [{"when": "before", "at": ["flip"], "command": SHELL, "timeout": 0.3}]}, "did not end within 0.3 s"),
    ({"hook": [{"when": "before", "at": ["gates"], "url": NOBODY, "attempts": 1}]}, "connection refused, 1 attempt"),
    ({"gate": [{"kind": "webhook", "url": NOBODY, "attempts": 1}]}, "the judge did not answer: connection refused"),
    ({"gate": [{"kind": "manual", "expires": 1}]}, "nobody approved it within 1 s"),
]


async def test_what_hangs_fails_or_does_not_answer_before_the_flip_is_a_no(town, v1, v2):
    serve = await town.serve(v1, BGPROXY_ROLLOUT__COMMANDS="/bin/sh", BGPROXY_ROLLOUT__WEBHOOKS=NOBODY)
    for number, (plan, why) in enumerate(NO):
        v2.label = f"v2.{number}"
        run = await brought_out(serve, v2, plan)
        assert (run["outcome"], why in run["why"]) == ("stopped", True), run
        status = await serve.status()
        assert (status["active"], status["epoch"]) == ("blue", 1)
    assert await serve.all_say("v1", 3)


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
    run = await validated(serve, tomllib.loads(SMALLEST))
    assert (run["outcome"], await serve.phase("green")) == ("stopped", "rejected"), "it may be asked for again"
