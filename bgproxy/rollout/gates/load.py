"""kind = "load": virtual agents ask the idle color over and over, and a judge looks at the lot.

They run in a process of their own, of low priority, so that a node which serves does not feel them. It is told what to
do on its stdin and ends when that is closed: no load outlives whoever began it. What is compared with the active color
is asked of that first, by the same number of agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from bgproxy.rollout.gates.ask import json_body, request_body
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import LoadGate, Synthetic
from bgproxy.rules.slo import Samples, judge, samples_needed

START_TIMEOUT = 15.0  # seconds, beyond the load's own: for a process to start on a busy host, and to end
LINE_BYTES = 32 * 1024 * 1024  # of what it says at its end


async def try_load(gate: LoadGate, trial: Trial) -> Finding:
    """Load the idle color, and before that the active one where a limit compares with it."""
    urls, fields, body = targets(gate, trial)
    if not urls:
        return Finding(Verdict.FAIL, "the release has no upstream for this route")
    request = {"method": gate.method, "path": gate.path, "fields": fields, "body": body.decode()}
    pace = {name: getattr(gate, name) for name in ("agents", "duration", "rate", "think", "requests", "timeout")}
    asked = {"request": request, "pace": pace, "expect_status": list(gate.expect_status)}
    old = None
    if gate.slo.compares and (active := trial.active_upstreams(gate.route, gate.host, gate.path)):
        old = await drive({**asked, "urls": list(active)}, gate.duration)
    new = await drive({**asked, "urls": list(urls)}, gate.duration)
    return judge(gate.slo, new, old, gate.min_samples or samples_needed(gate.slo.limits()))


def targets(asked: LoadGate | Synthetic, trial: Trial) -> tuple[tuple[str, ...], dict[str, str], bytes]:
    """The idle color's addresses for a request, its fields and its body. Raises `Unanswerable`."""
    urls = trial.upstreams(asked.route, asked.host, asked.path)
    return urls, *request_body(asked, trial.fields(asked.headers))


async def drive(asked: Mapping[str, Any], duration: float) -> Samples:
    """The samples of one load. Raises `Unanswerable` where the process fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bgproxy.rollout.gates.agents",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=LINE_BYTES,
        start_new_session=True,
    )
    assert process.stdin is not None, "it was asked for"
    assert process.stdout is not None, "it was asked for"
    try:
        async with asyncio.timeout(duration + asked["pace"]["timeout"] + START_TIMEOUT):
            process.stdin.write(json_body(asked) + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        return samples_from(orjson.loads(line))
    except (OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
        raise Unanswerable(f"the process that makes the load failed: {type(error).__name__}") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def samples_from(document: Mapping[str, Any]) -> Samples:
    """What the process says. Raises KeyError, TypeError."""
    return Samples(
        latency=document["latency"],
        first_byte=document["first_byte"],
        errors=document["errors"],
        seconds=document["seconds"],
        kinds=document["kinds"],
    )


def samples_document(samples: Samples) -> dict[str, Any]:
    """As `samples_from` reads it. Its times are in order, so that it is this process that takes the time for that."""
    return {**asdict(samples), "latency": sorted(samples.latency), "first_byte": sorted(samples.first_byte)}
