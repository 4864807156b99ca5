"""A judge elsewhere: what it is told and how that is signed, its verdicts, and that its silence is none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from gate_bench import Bench, bench

from bgproxy.rollout import webhook
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import WebhookGate


@pytest.fixture
async def judge(monkeypatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(webhook, "FIRST_PAUSE", 0.0)
    async with bench() as made:
        yield made


async def ask(judge: Bench, url: str = "", **more: Any) -> Finding:
    gate = WebhookGate(name="ci", url=url or f"{judge.url}/judge", **more)
    options = RolloutOptions(webhooks=(url or judge.url,))
    return await judge.found(gate, options=options, environ={"GATE_CI": "hush"})


async def test_it_is_told_of_the_release_under_a_signature(judge):
    judge.says(text='{"verdict": "pass", "why": "all green"}', content_type="application/json")
    finding = await ask(judge, secret="${GATE_CI}")
    assert (finding.verdict, finding.why) == (Verdict.PASS, "the judge says pass: all green")
    method, path, fields, body = judge.asked[0]
    assert (method, path, json.loads(body)) == ("POST", "/judge", {"event": "gate", "gate": "ci", "run": "r2"})
    told = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"hush", told, hashlib.sha256).digest()).decode()
    assert fields["webhook-signature"] == f"v1,{expected}"
    assert "hush" not in str(finding)


@pytest.mark.parametrize(
    ("said", "verdict", "why"),
    [
        ('{"verdict": "fail", "why": "too slow"}', Verdict.FAIL, "the judge says fail: too slow"),
        ('{"verdict": "undecided"}', Verdict.UNDECIDED, "the judge says undecided: without a reason"),
        ('{"verdict": "maybe"}', Verdict.UNDECIDED, "gave no verdict"),
        ('["pass"]', Verdict.UNDECIDED, "gave no verdict"),
        ("ok", Verdict.UNDECIDED, "gave no verdict"),
        ("", Verdict.UNDECIDED, "gave no verdict"),
    ],
)
async def test_its_verdict_counts_and_nothing_else_does(judge, said, verdict, why):
    judge.says(text=said)
    finding = await ask(judge)
    assert (finding.verdict, why in finding.why) == (verdict, True), finding.why


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (429, 3), (404, 1), (302, 1)])
async def test_what_may_pass_is_repeated_under_the_same_id(judge, status, attempts):
    judge.says(status)
    finding = await ask(judge)
    assert finding.verdict is Verdict.UNDECIDED
    assert f"the status is {status}, {attempts} attempt" in finding.why
    assert len(judge.asked) == attempts
    assert len({fields["webhook-id"] for _, _, fields, _ in judge.asked}) == 1


async def test_a_judge_that_comes_back(judge):
    async def late(_: web.Request) -> web.StreamResponse:
        if len(judge.asked) < 2:
            return web.Response(status=503)
        return web.json_response({"verdict": "pass"})

    judge.answer = late
    assert (await ask(judge)).verdict is Verdict.PASS


async def test_a_judge_that_is_not_there_decides_nothing(judge):
    finding = await ask(judge, "http://127.0.0.1:1/", attempts=2)
    assert finding.why == "the judge did not answer: connection refused, 2 attempts"


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://0.0.0.0:80/", "http://[::ffff:169.254.0.1]/"],
)
async def test_a_metadata_service_is_never_called_whatever_is_allowed(judge, url):
    finding = await ask(judge, url, attempts=1)
    assert (finding.verdict, "no address that may be called" in finding.why) == (Verdict.UNDECIDED, True)


async def test_nor_one_that_a_name_leads_to(judge, monkeypatch):
    async def resolve(*_: Any) -> list[dict[str, Any]]:
        return [{"hostname": "x", "host": "169.254.169.254", "port": 80, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(webhook.ThreadedResolver, "resolve", resolve)
    finding = await ask(judge, "http://innocent.example/", attempts=1)
    assert "no address that may be called" in finding.why


async def test_one_that_is_not_allowed_is_not_called(judge):
    finding = await judge.found(WebhookGate(url=judge.url))
    assert (finding.verdict, "may not be called" in finding.why, judge.asked) == (Verdict.UNDECIDED, True, [])


def test_who_only_calls_webhooks_needs_no_gate_for_it():
    """In a process of its own, as here all gates are known already."""
    subprocess.run([sys.executable, "-c", "import bgproxy.rollout.webhook"], check=True, timeout=60)
