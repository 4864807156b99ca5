"""kind = "webhook": a judge elsewhere. It is told of the release, and answers 2xx with
`{"verdict": "pass" | "fail" | "undecided", "why": "…"}`; anything else is no verdict.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping

from bgproxy.rollout.gates.ask import json_body
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rollout.webhook import call
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import WebhookGate


async def try_webhook(gate: WebhookGate, trial: Trial) -> Finding:
    """Ask the judge."""
    if not trial.options.allows_webhook(gate.url):
        raise Unanswerable(f"{gate.url} may not be called from this proxy's host: add it to rollout.webhooks")
    told = await call(
        gate.url,
        json_body({"event": "gate", "gate": gate.name, **trial.about}),
        event_id=uuid.uuid4().hex,
        secret=trial.filled(gate.secret),
        fields=trial.fields(gate.headers),
        timeout=gate.timeout,
        attempts=gate.attempts,
    )
    evidence = {"url": gate.url, "status": told.status, "attempts": told.attempts}
    evidence["begins"] = told.body[:300].decode(errors="replace")
    if told.trouble or not 200 <= told.status <= 299:
        why = told.trouble or f"the status is {told.status}"
        return Finding(Verdict.UNDECIDED, f"the judge did not answer: {why}, {told.tries}", evidence)
    try:
        said = json.loads(told.body)
        verdict = Verdict(said["verdict"]) if isinstance(said, Mapping) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        verdict, said = None, {}
    if verdict is None:
        words = ", ".join(f'"{one}"' for one in Verdict)
        return Finding(Verdict.UNDECIDED, f"the judge gave no verdict: its JSON has none of {words}", evidence)
    return Finding(
        verdict, f"the judge says {verdict}: {str(said.get('why', ''))[:300] or 'without a reason'}", evidence
    )
