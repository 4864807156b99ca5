"""kind = "webhook": a judge elsewhere. It is told of the release, and answers 2xx with
`{"verdict": "pass" | "fail" | "undecided", "why": "…"}`; anything else is no verdict.
"""

from __future__ import annotations

import uuid

from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.webhook import VERDICTS, post
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import WebhookGate


async def try_webhook(gate: WebhookGate, trial: Trial) -> Finding:
    """Ask the judge."""
    event = {"event": "gate", "gate": gate.name, **trial.about}
    told = await post(gate, event, event_id=uuid.uuid4().hex, trial=trial, attempts=gate.attempts)
    evidence = {"url": gate.url, "status": told.status, "attempts": told.attempts}
    evidence["begins"] = told.body[:300].decode(errors="replace")
    if told.fault:
        return Finding(Verdict.UNDECIDED, f"the judge did not answer: {told.fault}, {told.tries}", evidence)
    verdict, why = told.said()
    if verdict is None:
        return Finding(Verdict.UNDECIDED, f"the judge gave no verdict: its JSON has none of {VERDICTS}", evidence)
    return Finding(verdict, f"the judge says {verdict}: {why or 'without a reason'}", evidence)
