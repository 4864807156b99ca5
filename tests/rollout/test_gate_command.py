"""Programs as gates: what they are told, how they end, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from gate_bench import Bench

from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import CommandGate, HttpGate, Plan, WebhookGate
from bgproxy.rules.release import Release

SHELL = RolloutOptions(commands=("/bin/sh",))


@pytest.fixture(autouse=True)
def hears_of_ends():
    """As a worker does, which unblocks this signal for it."""
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def sh(script: str, **more: object) -> CommandGate:
    return CommandGate(name="it", command=("/bin/sh", "-c", script), **more)  # type: ignore[arg-type]


@pytest.fixture
def stand() -> Bench:
    made = Bench()
    made.url = "http://127.0.0.1:9102"
    return made


async def test_it_is_told_what_to_try_and_no_secret_of_the_proxy(stand):
    environ = {"PATH": "/usr/bin:/bin", "BGPROXY_STORE__URL": "redis://:hush@x", "GATE_TOKEN": "t", "OTHER": "o"}
    release, active = Release("v2", (stand.url, "http://127.0.0.1:9103")), Release("v1", ("http://127.0.0.1:9101",))
    gate = sh("env; exit 0", env={"SUITE": "${GATE_TOKEN}!"})
    finding = await stand.found(gate, release=release, active=active, options=SHELL, environ=environ)
    assert finding.verdict is Verdict.PASS
    told = dict(line.split("=", 1) for line in finding.evidence["output"].splitlines())
    assert told["BGPROXY_TARGET"] == stand.url
    assert told["BGPROXY_TARGETS"] == f"{stand.url} http://127.0.0.1:9103"
    assert (told["BGPROXY_COLOR"], told["BGPROXY_RELEASE"], told["BGPROXY_ACTIVE_RELEASE"]) == ("green", "v2", "v1")
    assert (told["GATE_TOKEN"], told["SUITE"]) == ("t", "t!")
    assert not {"OTHER", "BGPROXY_STORE__URL"} & told.keys()


@pytest.mark.parametrize(
    ("script", "verdict", "why"),
    [
        ("echo fine", Verdict.PASS, "/bin/sh ended with status 0"),
        ("echo 3 of 9 failed >&2; exit 1", Verdict.FAIL, "/bin/sh ended with status 1: 3 of 9 failed"),
        ("kill -SEGV $$", Verdict.FAIL, "/bin/sh was ended by signal 11"),
        ("sleep 30 & echo done", Verdict.PASS, "/bin/sh ended with status 0"),
        ("cat; exit 5", Verdict.FAIL, "/bin/sh ended with status 5"),
    ],
)
async def test_how_it_ends_is_the_verdict(stand, script, verdict, why):
    finding = await stand.found(sh(script, timeout=20), options=SHELL)
    assert (finding.verdict, finding.why) == (verdict, why)


async def test_of_its_output_the_end_is_kept(stand):
    finding = await stand.found(sh("seq 1 100000; exit 1"), options=SHELL)
    assert len(finding.evidence["output"]) < 5_000
    assert finding.why.endswith(": 100000")


def runs(path: Path) -> bool:
    """Whether the process that wrote its id there runs."""
    try:
        state = Path(f"/proc/{path.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def becomes(what: Callable[[], object]) -> bool:
    """Whether that comes true within a few seconds."""
    for _ in range(500):
        if what():
            return True
        await asyncio.sleep(0.01)
    return False


async def test_past_its_time_all_that_it_started_is_ended(stand, tmp_path):
    child = tmp_path / "pid"
    finding = await stand.found(sh(f"sleep 60 & echo $! > {child}; wait", timeout=0.3), options=SHELL)
    assert (finding.verdict, finding.why) == (Verdict.FAIL, "/bin/sh did not end within 0.3 s")
    assert await becomes(lambda: not runs(child))


async def test_when_nobody_waits_any_more_too(stand, tmp_path):
    child = tmp_path / "pid"
    task = asyncio.get_running_loop().create_task(stand.found(sh(f"sleep 60 & echo $! > {child}; wait"), options=SHELL))
    assert await becomes(lambda: child.exists() and child.read_text().strip())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await becomes(lambda: not runs(child))


async def test_nor_is_anything_left_where_nobody_waits_for_its_end(stand, tmp_path):
    child = tmp_path / "pid"
    deaf = sh(f"trap '' TERM; echo $$ > {child}; while :; do sleep 0.05; done")
    task = asyncio.get_running_loop().create_task(stand.found(deaf, options=SHELL))
    assert await becomes(lambda: child.exists() and child.read_text().strip())
    for _ in range(2):  # a run is aborted, and its proxy ends
        task.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await task
    try:
        assert await becomes(lambda: not runs(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(child.read_text()), signal.SIGKILL)


async def test_what_cannot_be_started_decides_nothing(stand):
    options = RolloutOptions(commands=("/nowhere/",))
    finding = await stand.found(CommandGate(command=("/nowhere/check",)), options=options)
    assert (finding.verdict, finding.why) == (
        Verdict.UNDECIDED,
        "/nowhere/check cannot be started: No such file or directory",
    )


async def test_a_program_that_is_not_allowed_is_not_run(stand, tmp_path):
    finding = await stand.found(sh(f"touch {tmp_path}/ran"))
    assert (finding.verdict, "may not be run" in finding.why) == (Verdict.UNDECIDED, True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("program", "allowed"),
    [
        ("/opt/checks/run", True),
        ("/opt/checks/deep/run", True),
        ("/bin/true", True),
        ("/opt/checks", False),
        ("/opt/checksum", False),
        ("/bin/truex", False),
        ("/opt/checks/../../bin/sh", False),
    ],
)
def test_which_programs_are_allowed(program, allowed):
    options = RolloutOptions(commands=("/opt/checks/", "/bin/true"))
    assert options.allows_command(program) is allowed
    plan = Plan(gates=(HttpGate(), CommandGate(command=(program,))))
    assert ("gate[2].command" in options.refuse(plan)) is not allowed


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://ci.example.com/judge", True),
        ("https://CI.example.com/judge/x?y=1", True),
        ("https://ci.example.com/judges", False),
        ("https://ci.example.com/judge/../admin", False),
        ("https://ci.example.com/judge/%2e%2e/admin", False),
        ("https://ci.example.com/judge/%2E./admin", False),
        ("https://ci.example.com/judge/x%2f..%2f..%2fadmin", False),
        ("https://ci.example.com/judge/..%5cadmin", False),
        ("https://ci.example.com/judge/a..b", True),
        ("http://ci.example.com/judge", False),
        ("https://ci.example.com:8443/judge", False),
        ("https://ci.example.com.evil.org/judge", False),
        ("https://ci.example.com@evil.org/judge", False),
        ("http://127.0.0.1:8000/any", True),
    ],
)
def test_which_addresses_are_allowed(url, allowed):
    options = RolloutOptions(webhooks=("https://ci.example.com/judge", "http://127.0.0.1:8000"))
    assert options.allows_webhook(url) is allowed
    plan = Plan(gates=(WebhookGate(url=url),))
    assert ("gate[1].url" in options.refuse(plan)) is not allowed
