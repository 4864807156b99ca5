"""A release's run as it goes out: its steps, and what is seen of it while it bakes."""

from __future__ import annotations

from typing import Any, Final

from bgproxy.admin.parts import COUNT, NUMBER, SECONDS, TEXT, TEXT_OR_NOTHING, closed, exactly
from bgproxy.admin.schema import Schema

_RUN: dict[str, Schema] = {
    "id": {**TEXT, "description": "Its name on the record."},
    "kind": {"enum": ["release", "validate", "bake"]},
    "color": TEXT,
    "release": TEXT,
    "actor": {**TEXT, "description": "Who began it."},
    "reason": TEXT,
    "leader": {**TEXT, "description": "The node that leads it; empty: one is to take over."},
    "began": SECONDS,
    "at": {**SECONDS, "description": "When its last step was done, unix seconds by the store's clock."},
    "epoch": {**COUNT, "description": "The pointer's when it began: at another one it does not flip."},
    "open": {"type": "boolean"},
    "outcome": {
        "enum": ["settled", "validated", "stopped", "aborted", "rolled_back", None],
        "description": "What it came to; null: it is open.",
    },
    "why": {**TEXT, "description": "Why it was stopped, aborted or rolled back."},
    "step": {**TEXT_OR_NOTHING, "description": "The one that is under way."},
    "waits_for": {**TEXT_OR_NOTHING, "description": "The gate that somebody has to approve now."},
    "waits_text": {**TEXT, "description": "What the plan has for whoever approves it."},
    "trouble": {**TEXT, "description": "Why it stands where it must not stay: a rollback that is refused, tried on."},
    "approvals": {"type": "object", "additionalProperties": TEXT, "description": "By gate, who gave it."},
    "steps": {
        "type": "array",
        "description": "All of them, in their order; the evidence is on the audit.",
        "items": exactly(
            name=TEXT,
            verdict={"enum": ["pass", "fail", "undecided", None], "description": "null: it is not done."},
            why=TEXT,
            at={"type": ["number", "null"]},
            took={"type": ["number", "null"], "description": "Seconds."},
        ),
    },
}

_FIGURES: Final[Schema] = closed(
    ["answers", "errors", "error_rate"],
    answers=COUNT,
    errors=COUNT,
    error_rate=NUMBER,
    **{name: {**NUMBER, "description": "Seconds."} for name in ("p50", "p95", "p99", "first_byte")},
)
_WATCH: Final[Schema] = {
    "description": "What the leader found at its last look, a second ago at most; null: nothing is watched now.",
    "oneOf": [
        closed(
            ["verdict", "why", "held", "new", "old", "limits", "nodes", "left"],
            verdict={"enum": ["pass", "fail", "undecided"], "description": "As of now."},
            why=TEXT,
            held={"type": "boolean", "description": "Its time is over, and it waits for samples or an approval."},
            new={**_FIGURES, "description": "Of the new release, since the flip."},
            old={**_FIGURES, "description": "Of the old one, before it."},
            limits={
                "type": "object",
                "description": "By limit: samples, and how many of them were bad.",
                "additionalProperties": exactly(samples=COUNT, bad=COUNT),
            },
            nodes={**COUNT, "description": "That have told what they count."},
            left={**NUMBER, "description": "Seconds."},
            synthetic=closed(
                ["sent", "answers", "errors"],
                **dict.fromkeys(("sent", "answers", "errors"), COUNT),
                p95={**NUMBER, "description": "Seconds."},
                left_out={**COUNT, "description": "Not sent, as too many were open."},
                kinds={"type": "object", "additionalProperties": COUNT, "description": "Of errors, the most."},
            ),
            silent={"type": "array", "items": TEXT, "description": "Nodes of which there is no news."},
            judges={
                "type": "array",
                "items": exactly(judge=TEXT, verdict={"enum": ["pass", "fail", "undecided"]}, why=TEXT),
                "description": "The last vote of each.",
            },
        ),
        {"type": "null"},
    ],
}

_MIRRORED: Final[Schema] = {
    "description": "What all nodes have compared so far, two seconds ago at most; null: nothing is mirrored now.",
    "oneOf": [
        exactly(
            compared=COUNT,
            differed=COUNT,
            slow=COUNT,
            failed={**COUNT, "description": "Got no whole answer."},
            dropped={**COUNT, "description": "Were not mirrored, so that the load stays bounded."},
            examples={"type": "array", "items": TEXT, "description": "What differed, without any value."},
        ),
        {"type": "null"},
    ],
}

RUN_ANSWERS: Final[dict[str, Any]] = {
    "Run": exactly(**_RUN),
    "RunWatched": exactly(**_RUN, watch=_WATCH, mirrored=_MIRRORED),
    "RunChanged": exactly(**_RUN, changed={"type": "boolean"}),
}
