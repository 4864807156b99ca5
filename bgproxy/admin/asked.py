"""The JSON and the queries that come in, as data (JSON Schema 2020-12): they are checked against these."""

from __future__ import annotations

from typing import Final

from bgproxy.admin.parts import TEXT, closed
from bgproxy.admin.schema import Schema
from bgproxy.rules.barrier import LONGEST_PAUSE
from bgproxy.rules.deadline import LONGEST

_REASON = {"type": "string", "maxLength": 1000, "default": "", "description": "Why, for the audit record."}
_FORCE = {
    "type": "boolean",
    "default": False,
    "description": "Overrides what may be overridden, and is on record.",
}
_IF_EPOCH = {
    "type": "integer",
    "minimum": 0,
    "maximum": 2**53 - 1,
    "description": "Refuse (409) unless the pointer's epoch is this one.",
}
_STRATEGY = {
    "type": "string",
    "pattern": "^(auto|barrier|swap)$",
    "description": "In place of the configured one. barrier: no node admits to the old color once one does to the new; "
    "swap: each node by itself; auto: a barrier where there is more than one node.",
}
_EXCLUDE = {
    "type": "array",
    "maxItems": 256,
    "items": {"type": "string", "maxLength": 256},
    "description": "Ids of nodes that are left behind: the barrier does not wait for them. On record.",
}
_ADDRESS = {
    "type": "string",
    "maxLength": 300,
    "description": "http://host:port or unix:/absolute/path",
    "examples": ["http://127.0.0.1:9102"],
}
_ADDRESSES = {"type": "array", "maxItems": 256, "items": _ADDRESS}

_RELEASE: dict[str, Schema] = {
    "release": {"type": "string", "maxLength": 128, "description": "The version's label.", "examples": ["v2"]},
    "upstreams": _ADDRESSES,
    "routes": {
        "type": "object",
        "maxProperties": 256,
        "additionalProperties": _ADDRESSES,
        "description": "Upstreams of single routes, by the route's name; the others use `upstreams`.",
    },
    "metadata": {"type": "object", "additionalProperties": True, "description": "Kept and shown, never read."},
}

NOTHING: Final[Schema] = closed([])

IN_PATH: Final[dict[str, Schema]] = {
    "color": TEXT,
    "epoch": {"type": "integer", "minimum": 0, "description": "The pointer's, as that flip left it."},
    "node": {"type": "string", "description": "A node's id, as /v1/nodes shows them."},
    "id": {
        "type": "string",
        "pattern": "^[0-9a-fA-F]{32}$",
        "description": "The digest of any key of the session; never what a client sent.",
    },
}

IDEMPOTENCY_KEY: Final[Schema] = {
    "type": "string",
    "maxLength": 257,
    "description": "Asked again under the same key within 24 hours, it is answered as it was at first (with the field "
    "`Idempotency-Replayed: true`) and not done again; the same key with another request gets 422.",
    "examples": ['"4f1b6c9e"'],
}

REQUESTS: Final[dict[str, Schema]] = {
    "DrainRequest": closed(
        ["deadline"],
        deadline={
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": int(LONGEST),
            "description": "Seconds from now, by the store's clock, after which the sessions that still live there are "
            "ended; null cancels.",
            "examples": [600],
        },
        reason=_REASON,
    ),
    "FlipRequest": closed(
        ["to"],
        to={"type": "string", "maxLength": 64, "description": "The color to make active.", "examples": ["green"]},
        reason=_REASON,
        if_epoch=_IF_EPOCH,
        force=_FORCE,
        strategy=_STRATEGY,
        exclude=_EXCLUDE,
    ),
    "MoveRequest": closed(
        ["to"],
        to={"type": "string", "maxLength": 64, "description": "The color to move it to.", "examples": ["green"]},
        reason=_REASON,
    ),
    "PauseRequest": closed(
        [],
        max_hold={
            "type": "number",
            "minimum": 0,
            "maximum": int(LONGEST_PAUSE),
            "default": 30,
            "description": "Seconds after which new requests go on by themselves.",
        },
        reason=_REASON,
    ),
    "ResumeRequest": closed([], reason=_REASON),
    "RetireRequest": closed(
        [],
        reason=_REASON,
        when_drained={
            "type": "boolean",
            "default": False,
            "description": "Take it down once it is drained and the rollback window is over; else refuse until then.",
        },
        cancel={"type": "boolean", "default": False, "description": "Take such an order back, before it has begun."},
        force={**_FORCE, "description": "Do not wait for the window, and end the sessions that live there. On record."},
    ),
    "RollbackRequest": closed(
        [], reason=_REASON, if_epoch=_IF_EPOCH, force=_FORCE, strategy=_STRATEGY, exclude=_EXCLUDE
    ),
    "ApproveRequest": closed(
        [],
        gate={"type": "string", "maxLength": 64, "description": "Its name; empty: the one that waits."},
        reason=_REASON,
    ),
    "AbortRequest": closed([], reason=_REASON),
    "RunRequest": closed(
        ["color"],
        color={
            "type": "string",
            "maxLength": 64,
            "description": "An idle color; of a bake the active one.",
            "examples": ["green"],
        },
        plan={
            "type": "object",
            "additionalProperties": True,
            "description": "As in TOML, see config/examples/plan.toml; it is kept and shown, so it holds no secret. "
            "Without one the configuration's [release].",
        },
        kind={
            "type": "string",
            "pattern": "release|validate|bake",
            "default": "release",
            "description": "validate: the release that waits there, to its gates' end; nothing is flipped. bake: "
            "the active release is watched as the plan's [bake] has it, and rolled back where it is bad.",
        },
        **{**_RELEASE, "release": {**_RELEASE["release"], "default": ""}},
        reason=_REASON,
        if_epoch=_IF_EPOCH,
        force=_FORCE,
    ),
    "StageRequest": closed(["release"], **_RELEASE, reason=_REASON, if_epoch=_IF_EPOCH, force=_FORCE),
}

AUDIT_QUERY: Final[Schema] = closed(
    [],
    limit={"type": "integer", "minimum": 1, "maximum": 1000, "default": 100, "description": "Entries at most."},
    before={"type": "string", "maxLength": 64, "description": "An entry's id: only older ones."},
    after={
        "type": "string",
        "maxLength": 64,
        "description": "An entry's id: only newer ones, the oldest of them first; 0: from the oldest entry on.",
    },
)

VERIFY_QUERY: Final[Schema] = closed(
    [],
    head={
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "The `head` of an earlier verification: a record without that entry is not intact.",
    },
)

SESSIONS_QUERY: Final[Schema] = closed(
    [],
    color={"type": "string", "maxLength": 64, "description": "Only those that live on this color."},
    cursor={"type": "string", "maxLength": 64, "default": "", "description": "The `next` of the page before."},
    limit={
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "default": 100,
        "description": "About how many a page has; it may be a few more, or none before the end.",
    },
)

FLIPS_QUERY: Final[Schema] = closed(
    [],
    limit={"type": "integer", "minimum": 1, "maximum": 1000, "default": 20, "description": "How many epochs at most."},
)

FORGET_QUERY: Final[Schema] = closed([], reason=_REASON)

FORGET_NODE_QUERY: Final[Schema] = closed([], reason=_REASON, force=_FORCE)
