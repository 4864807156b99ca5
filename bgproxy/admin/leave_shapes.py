"""The JSON of what a color that has been left costs, and how it is taken down."""

from __future__ import annotations

from typing import Any, Final

from bgproxy.admin.parts import COUNT, NUMBER, SECONDS, TEXT, TEXT_OR_NOTHING, exactly
from bgproxy.admin.schema import Schema


def _or_nothing(shape: dict[str, Any], description: str) -> Schema:
    return {"description": description, "oneOf": [{"type": "null"}, shape]}


LEAVE: Final[dict[str, Schema]] = {
    "double_running": _or_nothing(
        exactly(
            since={**SECONDS, "description": "Since when replicas stand idle for it, unix seconds."},
            replicas={**COUNT, "description": "Its addresses, which are idle now."},
            replica_hours={
                **NUMBER,
                "description": "Idle addresses times hours so far, its successor's included.",
            },
            successor={
                **TEXT_OR_NOTHING,
                "description": "Which took its place; null: it waits for its flip.",
            },
        ),
        "What running it beside the active release costs; null: it is active, retired or absent.",
    ),
    "retirement": _or_nothing(
        exactly(
            actor=TEXT,
            reason=TEXT,
            due={**SECONDS, "description": "Not before that, unix seconds; 0: at once."},
            leader={**TEXT, "description": "The node that carries it out now; empty: none does."},
            forced={"type": "boolean"},
            again={"type": "boolean", "description": "Whether it is tried again where it fails."},
            tries={**COUNT, "description": "How often it failed."},
            contract={"type": "boolean", "description": "What is left is its successor's contract step."},
            why={**TEXT, "description": "Why it failed at last."},
        ),
        "The order to take it down; null: there is none.",
    ),
    "after_this": {**TEXT_OR_NOTHING, "description": "What there is no way back from once it is retired."},
}
