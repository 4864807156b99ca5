"""kind = "http": a request and what its answer must be."""

from __future__ import annotations

from bgproxy.rollout.gates.ask import Enough, Upstream, request_body
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.gates.tried import Tried, on_each
from bgproxy.rules.gate import Finding, check_http
from bgproxy.rules.plan import HttpGate


async def try_http(gate: HttpGate, trial: Trial) -> Finding:
    """Ask each upstream as often as is wished, until one answer is not what it should be."""
    fields, body = request_body(gate, trial.fields(gate.headers))
    # A stream may go on for ever: it is read as far as it is asked about.
    wanted = gate.expect_events
    enough: Enough | None = (lambda events: len(events) >= wanted) if wanted else None

    async def one(agent: Upstream, tried: Tried) -> None:
        for _ in range(gate.repeat):
            answer = await agent.ask(
                gate.method, gate.path, fields=fields, body=body, timeout=gate.timeout, enough=enough
            )
            tried.note(f"{gate.method} {gate.path}", answer)
            if faults := check_http(gate, answer):
                tried.fail(*faults)
                return

    return await on_each(trial.upstreams(gate.route, gate.host, gate.path), one)
