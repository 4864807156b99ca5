"""Hooks: what they are told, how they say no, and that silence before a step is a no."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.rollout import webhook
from bgproxy.rollout.hooks import run_hook
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Hook
from bgproxy.rules.run import Run, Step

RUN = Run(
    id="r2",
    kind="release",
    color="green",
    label="v2",
    plan={},
    todo=("ready", "before:flip:h"),
    actor="ada",
    reason="why",
    epoch=1,
    leader="n1",
    began=5.0,
    at=6.0,
    done=(Step("ready", Verdict.PASS, "fine", 6.0, 1.0),),
)


@pytest.fixture
async def there(monkeypatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(webhook, "FIRST_PAUSE", 0.0)
    async with bench() as made:
        yield made


async def told(there: Bench, hook: Hook, **more: Any) -> Finding:
    options = RolloutOptions(commands=("/bin/sh",), webhooks=(there.url,))
    return await run_hook(hook, "before:flip:h", there.trial(options=options, **more), RUN)


async def test_a_call_tells_what_was_found_out_under_an_id_that_stays(there):
    hook = Hook(name="h", url=f"{there.url}/x", secret="${GATE_S}", headers={"A": "b"})
    for _ in range(2):
        finding = await told(there, hook, environ={"GATE_S": "hush"})
        assert finding.verdict is Verdict.PASS, finding.why
    (_, path, fields, body), (_, _, again, _) = there.asked
    event = json.loads(body)
    assert (path, fields["A"], event["event"], event["run"]) == ("/x", "b", "before:flip:h", "r2")
    assert (event["actor"], event["reason"]) == ("ada", "why")
    assert event["steps"] == [{"name": "ready", "verdict": "pass", "why": "fine"}]
    assert fields["webhook-id"] == again["webhook-id"]
    assert fields["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize(
    ("status", "text", "verdict", "why"),
    [
        (204, "", Verdict.PASS, "pass"),
        (200, "ok", Verdict.PASS, "pass"),
        (200, '{"a": 1}', Verdict.PASS, "pass"),
        (200, '{"verdict": ["fail"]}', Verdict.PASS, "pass"),
        (200, '{"verdict": "fail", "why": "change freeze"}', Verdict.FAIL, "change freeze"),
        (200, '{"verdict": "undecided"}', Verdict.UNDECIDED, "undecided"),
        (403, "", Verdict.FAIL, "the status is 403, 1 attempt"),
        (503, "", Verdict.FAIL, "the status is 503, 3 attempts"),
    ],
)
async def test_what_its_answer_says(there, status, text, verdict, why):
    there.says(status, text=text)
    finding = await told(there, Hook(name="h", url=there.url))
    assert (finding.verdict, finding.why.endswith(why)) == (verdict, True), finding.why


async def test_its_answer_counts_in_however_many_pieces_it_comes(there):
    async def slowly(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for piece in (b'{"verdict": ', b'"fail", "why": ', b'"change freeze"}'):
            await answer.write(piece)
            await asyncio.sleep(0.02)
        return answer

    there.answer = slowly
    finding = await told(there, Hook(name="h", url=there.url))
    assert (finding.verdict, finding.why) == (Verdict.FAIL, f"{there.url}: change freeze")


async def test_of_an_answer_without_end_no_more_is_kept_than_a_verdict_needs(there):
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        with suppress(ConnectionError):
            while True:
                await answer.write(b" " * 65_536)
        return answer

    there.answer = endless
    assert (await told(there, Hook(name="h", url=there.url))).verdict is Verdict.PASS


async def test_a_program_finds_the_event_and_says_no_by_its_status(there):
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    script = 'echo "$BGPROXY_STEP $BGPROXY_EVENT $MORE"; exit 3'
    finding = await told(there, Hook(name="h", command=("/bin/sh", "-c", script), env={"MORE": "m"}))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert finding.verdict is Verdict.FAIL
    step, _, rest = finding.evidence["output"].partition(" ")
    event, _, more = rest.rpartition(" ")
    assert (step, json.loads(event)["run"], more) == ("before:flip:h", "r2", "m")


async def test_one_that_hangs_is_a_no(there):
    hook = Hook(name="h", command=("/bin/sh", "-c", "sleep 60"), timeout=0.1)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    finding = await told(there, hook)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert (finding.verdict, "did not end within 0.1 s" in finding.why) == (Verdict.FAIL, True)


async def test_what_is_not_allowed_on_this_host_decides_nothing(there):
    for hook in (Hook(name="h", url="http://other/"), Hook(name="h", command=("/bin/true",))):
        assert (await told(there, hook)).verdict is Verdict.UNDECIDED
    assert there.asked == []
