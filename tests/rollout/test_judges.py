"""Judges elsewhere: what they are asked, what counts as a vote, and that nothing is flipped without them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from gate_bench import Bench, bench

from bgproxy.rollout.judges import ask, unanswered
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.jury import BakeJudge, PrometheusJudge, WebhookJudge


@pytest.fixture
async def elsewhere() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


def prometheus(elsewhere: Bench, **more: Any) -> PrometheusJudge:
    return PrometheusJudge(name="prom", url=f"{elsewhere.url}/prom/", query='rate(e{r="v2"}[1m]) > 0', max=1.0, **more)


def hook(elsewhere: Bench, **more: Any) -> WebhookJudge:
    return WebhookJudge(name="ci", url=f"{elsewhere.url}/judge", **more)


async def vote(elsewhere: Bench, judge: BakeJudge, **more: Any) -> Finding:
    options = RolloutOptions(webhooks=(elsewhere.url,))
    trial = elsewhere.trial(options=options, environ={"GATE_CI": "hush"})
    return await ask(judge, trial, {"event": "bake", **more})


def vector(*values: str) -> str:
    result = [{"metric": {}, "value": [1.0, value]} for value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


async def test_prometheus_is_asked_an_instant_query(elsewhere):
    elsewhere.says(text=vector("0.5"))
    found = await vote(elsewhere, prometheus(elsewhere, headers={"Authorization": "Bearer ${GATE_CI}"}))
    assert (found.verdict, found.why) == (Verdict.PASS, "it is 0.5")
    method, target, fields, _ = elsewhere.asked[0]
    assert (method, urlsplit(target).path) == ("GET", "/prom/api/v1/query")
    assert parse_qs(urlsplit(target).query) == {"query": ['rate(e{r="v2"}[1m]) > 0']}
    assert fields["Authorization"] == "Bearer hush"
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("body", "verdict", "why"),
    [
        (vector("1"), Verdict.PASS, "it is 1"),
        (vector("0.5", "1.5"), Verdict.FAIL, "it is 1.5, at most 1 may be"),
        (vector("+Inf"), Verdict.FAIL, "it is inf"),
        (vector("0.05"), Verdict.FAIL, "it is 0.05, at least 0.1 must be"),
        ('{"status": "success", "data": {"resultType": "scalar", "result": [1.0, "2"]}}', Verdict.FAIL, "it is 2"),
        (vector(), Verdict.UNDECIDED, "finds no number"),
        (vector("NaN"), Verdict.UNDECIDED, "finds no number"),
        ('{"status": "success", "data": {"resultType": "matrix", "result": []}}', Verdict.UNDECIDED, "no scalar or"),
        (vector("0").replace('"0"', "1" + "0" * 400), Verdict.UNDECIDED, "no scalar or instant vector"),
        ('{"status": "success"}', Verdict.UNDECIDED, "no scalar or instant vector"),
        ('{"status": "error", "error": "parse error"}', Verdict.UNDECIDED, "parse error"),
        ("[]", Verdict.UNDECIDED, "the status is 200"),
        ("no JSON", Verdict.UNDECIDED, "the status is 200"),
    ],
)
async def test_of_prometheus_only_numbers_are_votes(elsewhere, body, verdict, why):
    elsewhere.says(text=body)
    found = await vote(elsewhere, prometheus(elsewhere, min=0.1))
    assert (found.verdict, why in found.why) == (verdict, True), found.why


async def test_a_webhook_is_told_how_the_release_does(elsewhere):
    elsewhere.says(text='{"verdict": "fail", "why": "users complain"}')
    found = await vote(elsewhere, hook(elsewhere, secret="${GATE_CI}"), new={"errors": 3})
    assert (found.verdict, found.why) == (Verdict.FAIL, "users complain")
    method, path, fields, body = elsewhere.asked[0]
    assert (method, path) == ("POST", "/judge")
    assert json.loads(body) == {"judge": "ci", "run": "r2", "event": "bake", "new": {"errors": 3}}
    assert fields["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [(200, "{}", "has no verdict"), (200, "ok", "has no verdict"), (500, '{"verdict": "fail"}', "the status is 500")],
)
async def test_of_a_webhook_only_a_verdict_is_one(elsewhere, status, body, why):
    elsewhere.says(status, text=body)
    found = await vote(elsewhere, hook(elsewhere))
    assert (found.verdict, why in found.why) == (Verdict.UNDECIDED, True), found.why
    assert len(elsewhere.asked) == 1, "it is asked again at its interval, not at once"


async def test_before_the_flip_each_must_answer_whatever_it_says(elsewhere):
    trial = elsewhere.trial(options=RolloutOptions(webhooks=(elsewhere.url,)))
    elsewhere.says(text='{"verdict": "fail"}')
    assert await unanswered((hook(elsewhere),), trial) == ""
    elsewhere.says(text=vector())
    assert await unanswered((prometheus(elsewhere),), trial) == "", "what is not deployed yet has no series"
    why = await unanswered((prometheus(elsewhere), hook(elsewhere)), trial)
    assert why.startswith("judge ci does not answer, so nothing is flipped: ")
    elsewhere.says(503)
    assert "judge prom does not answer" in await unanswered((prometheus(elsewhere), hook(elsewhere)), trial)
    assert await unanswered((), trial) == ""


@pytest.mark.parametrize("judge", [prometheus, hook])
async def test_only_what_the_host_allows_is_called(elsewhere, judge):
    found = await ask(judge(elsewhere), elsewhere.trial(), {})
    assert (found.verdict, "add it to rollout.webhooks" in found.why) == (Verdict.UNDECIDED, True)
    assert not elsewhere.asked


async def test_nor_a_clouds_metadata_service_whatever_is_allowed(elsewhere):
    url = "http://169.254.169.254"
    trial = elsewhere.trial(options=RolloutOptions(webhooks=(url,)))
    found = await ask(PrometheusJudge(url=url, query="x", max=1.0), trial, {})
    assert (found.verdict, "is no address that may be called" in found.why) == (Verdict.UNDECIDED, True)


async def test_a_variable_that_is_not_set_is_told(elsewhere):
    trial = elsewhere.trial(options=RolloutOptions(webhooks=(elsewhere.url,)))
    found = await ask(hook(elsewhere, headers={"X-Token": "${GATE_GONE}"}), trial, {})
    assert (found.verdict, "GATE_GONE is not set" in found.why) == (Verdict.UNDECIDED, True)
