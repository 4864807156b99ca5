"""The JSON that goes out, as data: one schema per name (JSON Schema 2020-12), published at /openapi.json.

The tests hold what goes out to these. What comes in: `asked.py`.
"""

from __future__ import annotations

from typing import Final

from bgproxy.admin.leave_shapes import LEAVE
from bgproxy.admin.parts import ANYTHING as _ANYTHING
from bgproxy.admin.parts import COUNT as _COUNT
from bgproxy.admin.parts import NUMBER as _NUMBER
from bgproxy.admin.parts import SECONDS as _SECONDS
from bgproxy.admin.parts import TEXT, closed, ref
from bgproxy.admin.parts import TEXT_OR_NOTHING as _TEXT_OR_NOTHING
from bgproxy.admin.parts import exactly as _all
from bgproxy.admin.run_shapes import RUN_ANSWERS
from bgproxy.admin.schema import Schema
from bgproxy.rules.release import Phase

_PER_COLOR = {"type": "object", "additionalProperties": _COUNT, "description": "By color."}

_COLOR: dict[str, Schema] = {
    "color": TEXT,
    "active": {"type": "boolean"},
    "release": _TEXT_OR_NOTHING,
    "phase": {"enum": [*map(str, Phase), None]},
    "origin": {"enum": ["config", "api", None]},
    "at": {"type": ["number", "null"], "description": "When it came to this phase, unix seconds."},
    "upstreams": {"type": "array", "items": ref("Upstream")},
    "routes": {"type": "object", "additionalProperties": {"type": "array", "items": TEXT}},
    "metadata": _ANYTHING,
    "in_flight": _COUNT,
    "streams": _COUNT,
    "websockets": _COUNT,
    "sessions": {
        "type": ["integer", "null"],
        "minimum": 0,
        "description": "Live sessions of the release that stands there, of the whole fleet; null: the store is away.",
    },
    **LEAVE,
}

_EXPIRES = {"type": "number", "description": "Unix seconds by the store's clock, if it is not used any more."}
_STANDS = {"type": "boolean", "description": "Whether that release stands on that color by now."}

_SESSION: dict[str, Schema] = {
    "id": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "The digest of its first key."},
    "color": TEXT,
    "release": TEXT,
    "stands": _STANDS,
    "upstream": {"type": ["string", "null"], "description": "The address that serves it; null: any of its color."},
    "epoch": {"type": "integer", "minimum": 0, "description": "The pointer's, when its place was last vouched for."},
    "moves": {"type": "integer", "minimum": 0, "description": "How many times it was moved."},
    "goal": {
        "type": ["object", "null"],
        "description": "Where an operator wants it to live: it moves there at its next turn. null: it is to stay.",
        "properties": {"color": TEXT, "release": TEXT},
        "required": ["color", "release"],
        "additionalProperties": False,
    },
    "preset": {"type": "string", "description": "By which preset it was recognised."},
    "route": TEXT,
    "created": _SECONDS,
    "expires": _EXPIRES,
    "ttl": {"type": "number", "description": "Seconds that it lives unused."},
    "max_age": {"type": "number", "description": "Seconds that it lives at all; 0: no limit."},
}

_OLDEST = {
    "type": ["number", "null"],
    "description": "Seconds that the oldest of what is in flight has been under way; null: nothing is, or not known.",
}

_DRAIN: dict[str, Schema] = {
    "color": TEXT,
    "active": {"type": "boolean"},
    "release": _TEXT_OR_NOTHING,
    "phase": _COLOR["phase"],
    "drained": {"type": "boolean"},
    "deadline": {
        "type": ["number", "null"],
        "description": "When the sessions that still live there are ended, unix seconds by the store's clock.",
    },
    "seconds_left": {"type": ["number", "null"], "minimum": 0, "description": "To the deadline; null: there is none."},
    "ended": {"type": "boolean", "description": "The deadline has passed: its sessions are over, and hold it no more."},
    "sessions": _COLOR["sessions"],
    "last_expires": {"type": ["number", "null"], "description": "When the last of the sessions expires, if unused."},
    "in_flight": _COUNT,
    "streams": _COUNT,
    "websockets": _COUNT,
    "oldest": _OLDEST,
    "blockers": {
        "type": "array",
        "description": "Each reason why it is not drained, the biggest holder first.",
        "items": _all(
            kind={"enum": ["active", "store", "sessions", "in_flight", "node", "phase"]},
            detail=TEXT,
            node=_TEXT_OR_NOTHING,
            count=_COUNT,
            oldest=_OLDEST,
        ),
    },
}

_SIDE = _all(revision=_COUNT, epoch=_COUNT, active=TEXT, previous=_TEXT_OR_NOTHING, actor=TEXT, reason=TEXT, at=_NUMBER)

_REPLICAS = {
    **_all(have=_COUNT, wanted=_COUNT),
    "description": "With store.min_replicas: how many of Redis' replicas have it. It is done with fewer too.",
}

_STORE = _all(
    state={"enum": ["up", "degraded", "down"], "description": "degraded: some workers of this host do not hear it."},
    alarm={
        "type": ["string", "null"],
        "description": "How the store contradicts what is known, which stands: it was emptied, restored from an "
        "older copy, or lost its newest changes in a failover. What was lost is written back.",
    },
    conflict={
        "description": "Both sides of what only an operator can put right: two pointers of one epoch (split), which a "
        "forced flip decides, or another fleet's data (foreign).",
        "oneOf": [
            {"type": "null"},
            _all(kind={"enum": ["split", "foreign"]}, held=_SIDE, found=_SIDE, remedy=TEXT),
        ],
    },
    problem={"type": ["string", "null"], "description": "Why the store cannot be read: away, broken, not to be used."},
    kind=TEXT,
    age={"type": "number", "description": "Seconds since it was last heard, by the worker that heard it least."},
    fenced={**_COUNT, "description": "Workers of this host that admit nothing new, as they are cut off (fence_after)."},
)

_DONE: dict[str, Schema] = {"epoch": _COUNT, "took_ms": _NUMBER, "changed": {"type": "boolean"}}
_MOVED: dict[str, Schema] = {"active": TEXT, "previous": _TEXT_OR_NOTHING, **_DONE}

_SILENT: Schema = {
    "type": "array",
    "items": TEXT,
    "description": "Ids of nodes that flips and moving sessions wait for, though they are not heard.",
}
_NODE: dict[str, Schema] = {
    "id": TEXT,
    "host": TEXT,
    "pid": _COUNT,
    "version": TEXT,
    "epoch": _COUNT,
    "in_flight": _PER_COLOR,
    "streams": _PER_COLOR,
    "websockets": _PER_COLOR,
    "age": {"type": "number", "description": "Seconds since it was last heard."},
    "revision": {"type": "integer", "minimum": 0, "description": "Of the state that it routes by."},
    "oldest": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": 0},
        "description": "By color: seconds that the oldest of what is in flight has been under way.",
    },
    "serial": {**_COUNT, "description": "Of its last beat; it grows as long as the node lives."},
    "schema": {**_COUNT, "description": "Of the store's data, that it knows; 0: an older bgproxy."},
    "protocol": {**_COUNT, "description": "In which it deals with the others; 0: an older bgproxy."},
    "fence_after": {"type": "number", "description": "Seconds after which it fences itself, when cut off; 0: never."},
    "state": {
        "enum": ["live", "finishing", "silent", "fenced"],
        "description": "live: heard within node_ttl. A silent one may still serve somewhere: flips wait for it. A "
        "fenced one admits nothing new, by its own word or by how long it has been silent. A finishing one accepts "
        "nobody any more, as at an upgrade of the proxy.",
    },
}

ANSWERS: Final[dict[str, Schema]] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457; `code` is the stable name of what went wrong. Further members depend on it.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string", "pattern": "^urn:bgproxy:problem:[a-z_]+$"},
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "code": TEXT,
            "epoch": {"type": "integer", "description": "stale_epoch: the one that stands."},
            "active": {"type": "string", "description": "stale_epoch: the color that is active."},
        },
        "additionalProperties": True,
    },
    "Upstream": _all(
        url=TEXT,
        healthy={"type": ["boolean", "null"], "description": "null: no worker has looked at it yet."},
        reason=TEXT,
        in_flight=_COUNT,
        open=_COUNT,
        idle=_COUNT,
        failures=_COUNT,
    ),
    "Color": _all(**_COLOR),
    "Retiring": _all(**_COLOR, changed={"type": "boolean"}),
    "Staged": closed([*_COLOR, *_DONE], **_COLOR, **_DONE, replicas=_REPLICAS),
    "Colors": _all(colors={"type": "array", "items": ref("Color")}, epoch=_COUNT, revision=_COUNT),
    "Session": _all(**_SESSION),
    "Sessions": _all(sessions={"type": "array", "items": ref("Session")}, next=_TEXT_OR_NOTHING),
    "SessionMoved": _all(
        **_SESSION,
        moved={"type": "boolean", "description": "Whether it lives there by now; else see `goal`."},
        changed={"type": "boolean", "description": "Whether this was a new order."},
    ),
    "Forgotten": _all(id=TEXT, color=TEXT, release=TEXT, forgotten={"const": True}),
    "SessionCounts": _all(
        places={
            "type": "array",
            "items": _all(preset=TEXT, color=TEXT, pinned=_COUNT, learned=_COUNT, moved=_COUNT, ended=_COUNT),
            "description": "Sessions that began, came and ended there, and keys that agents there have minted.",
        },
        unpinned={**_PER_COLOR, "description": "Bodies that may name a session and were not read, by reason."},
        hits={**_COUNT, "description": "Requests whose pin a worker remembered."},
        misses={**_COUNT, "description": "Requests for whose session the store was asked."},
        aliases={**_COUNT, "description": "Further keys that lead to a session."},
        conflicts={**_COUNT, "description": "Keys that led to another session already."},
        refreshed={**_COUNT, "description": "Pins prolonged in the store, as their sessions are in use."},
        gone={**_COUNT, "description": "Pins in use that the store had lost, and was told again."},
        journalled={**_COUNT, "description": "Decisions written down while the store was away."},
        refused={**_COUNT, "description": "Sessions turned away while the store was away."},
        dropped={**_COUNT, "description": "Decisions given up, as the journal was full."},
        ignored={**_COUNT, "description": "Values that stood where an id stands and can be none."},
        keys={**_COUNT, "description": "Remembered now."},
        waiting={**_COUNT, "description": "Decisions that are still to be told to the store."},
        turns={**_COUNT, "description": "Under way, and keeping their sessions from being moved."},
        store={
            "type": "array",
            "items": _all(question=TEXT, calls=_COUNT, failed=_COUNT, seconds=_NUMBER),
            "description": "Round trips by what was asked; `seconds`: of all of them together.",
        },
    ),
    "SessionStats": _all(
        live={"type": ["integer", "null"], "minimum": 0, "description": "null: the store is away, nobody knows."},
        releases={
            "type": "array",
            "items": _all(color=TEXT, release=TEXT, stands=_STANDS, live=_COUNT, last_expires=_EXPIRES),
        },
        host=ref("SessionCounts"),
    ),
    "Drain": _all(**_DRAIN),
    "DrainChanged": _all(**_DRAIN, changed={"type": "boolean"}),
    "Flip": _all(
        epoch=_COUNT,
        verb={"enum": ["flip", "rollback", "canary"]},
        **{"from": TEXT},
        to=TEXT,
        at=_SECONDS,
        actor=TEXT,
        reason=TEXT,
        kept={**_COUNT, "description": "Sessions that the flip left, less those moved, ended and lost."},
        moved={**_COUNT, "description": "Taken to another release since, while this epoch stood."},
        ended={**_COUNT, "description": "Ended by the deadline of the drain that this flip began."},
        lost={**_COUNT, "description": "Found on another release than they had been on, though nobody had moved them."},
        turns_cut={**_COUNT, "description": "Exchanges that bgproxy itself broke off."},
    ),
    "Flips": _all(flips={"type": "array", "items": ref("Flip"), "description": "Newest first."}),
    "Node": _all(**_NODE),
    "NodeForgotten": _all(**_NODE, forgotten={"const": True}),
    "Nodes": _all(
        nodes={"type": "array", "items": ref("Node")},
        silent=_SILENT,
        complete={"type": "boolean", "description": "false: the store is away, these are this host's alone."},
    ),
    "Status": _all(
        fleet=TEXT,
        active=TEXT,
        previous=_TEXT_OR_NOTHING,
        epoch=_COUNT,
        revision=_COUNT,
        actor=TEXT,
        reason=TEXT,
        at=_SECONDS,
        colors={"type": "object", "additionalProperties": ref("Color")},
        nodes={"type": "array", "items": ref("Node")},
        silent=_SILENT,
        store=_STORE,
        run={
            "oneOf": [ref("Run"), {"type": "null"}],
            "description": "The release that is being brought out by a plan.",
        },
        canary={
            "type": ["object", "null"],
            "description": "New sessions that begin before the flip: color, release, share, since, match; null: none.",
        },
        pending={
            "type": ["object", "null"],
            "description": "The flip that is under way: verb, to, epoch, actor, reason; null: none.",
        },
        pause={
            "type": ["object", "null"],
            "description": "Why new requests are held: actor, reason, max_hold; null: they are not.",
        },
        flip={
            "oneOf": [ref("Flip"), {"type": "null"}],
            "description": "Of the epoch that stands; null: the pointer has not moved yet, or the store is away.",
        },
        version=TEXT,
        runtime_dir={**TEXT, "description": "Of the proxy that answers, on its host: `bgproxy upgrade` asks there."},
    ),
    "Moved": closed([*_MOVED], **_MOVED, replicas=_REPLICAS, detail={**TEXT, "description": "Why nothing changed."}),
    "Paused": _all(paused={"type": "boolean"}, max_hold=_NUMBER, epoch=_COUNT, took_ms=_NUMBER),
    "Resumed": _all(paused={"type": "boolean"}, changed={"type": "boolean"}, epoch=_COUNT),
    "AuditEntry": _all(
        id=TEXT,
        at=_SECONDS,
        verb=TEXT,
        actor=TEXT,
        reason=TEXT,
        epoch=_COUNT,
        revision=_COUNT,
        facts=_ANYTHING,
        seq={"type": ["integer", "null"], "minimum": 1, "description": "Its number; null: from before the chain."},
        prev={**_TEXT_OR_NOTHING, "description": "The hash of the entry before it."},
        hash={**_TEXT_OR_NOTHING, "description": "SHA-256, over everything but `id`: the README says how."},
    ),
    "AuditReport": _all(
        intact={"type": "boolean"},
        entries={**_COUNT, "description": "That stand in the chain."},
        first={"type": ["integer", "null"], "description": "The oldest one's number."},
        last={"type": ["integer", "null"], "description": "The newest one's number."},
        head={**TEXT, "description": "The newest one's hash: keep it elsewhere, and compare."},
        anchor={**TEXT, "description": "The hash of the newest entry that retention took away; empty: none yet."},
        before={**_COUNT, "description": "Entries from before the chain, which carry no hash."},
        fault={
            "oneOf": [
                _all(
                    kind={"enum": ["edited", "missing", "out_of_order", "inserted"]},
                    seq={"type": ["integer", "null"]},
                    id=TEXT,
                    detail=TEXT,
                ),
                {"type": "null"},
            ],
            "description": "The first entry, the oldest, that is not what was written.",
        },
    ),
    "Audit": _all(
        entries={
            "type": "array",
            "items": ref("AuditEntry"),
            "description": "Newest first; oldest first with `after`.",
        },
        next=_TEXT_OR_NOTHING,
    ),
    "Alive": _all(alive={"const": True}),
    "Ready": {
        "type": "object",
        "required": ["ready"],
        "properties": {"ready": {"const": True}},
        "additionalProperties": True,
    },
    "OpenApi": _ANYTHING,
    **RUN_ANSWERS,
}
