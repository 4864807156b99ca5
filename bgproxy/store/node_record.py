"""A node's report as JSON and back, and why a node may not join the others."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import orjson

from bgproxy.errors import CannotJoin
from bgproxy.store.base import NodeReport

T = TypeVar("T")

_NAMED = 8  # nodes that an error names at most


def node_document(node: NodeReport) -> dict[str, Any]:
    """What a node says itself; what the store knows of it is left out."""
    document = asdict(node)
    del document["age"], document["live"]
    if not node.mirrored:
        del document["mirrored"]
    return document


def last_words(node: NodeReport) -> dict[str, object]:
    """What the audit keeps of a node that is forgotten. `silent`: seconds."""
    facts = {name: getattr(node, name) for name in ("host", "pid", "version", "epoch", "serial")}
    loads = {name: dict(getattr(node, name)) for name in ("in_flight", "streams", "websockets")}
    held = {name: counts for name, counts in loads.items() if any(counts.values())}
    return {**facts, **held, "silent": round(node.age, 3)}


def node_from(node_id: str, raw: bytes, now: float, node_ttl: float) -> NodeReport:
    """The report that a store keeps; `now` is unix seconds by its clock, `node_ttl` how long a beat counts.

    One that cannot be understood, as another kind of bgproxy may have written it, is of a node that is there, and that
    has applied nothing as far as is known. A time still to come is from before the store's clock was set back.
    """
    document: Any = None
    with contextlib.suppress(ValueError):
        document = orjson.loads(raw)
    members = document if isinstance(document, dict) else {}
    try:
        node = _report(members)
    except (KeyError, TypeError):
        node = _stranger(node_id, members)
    at = members.get("at")
    age = abs(now - (at if isinstance(at, int | float) else 0.0))
    return replace(node, id=node_id, age=age, live=age <= node_ttl)


def has_died(node_id: str) -> CannotJoin:
    """The refusal of a beat that was on its way for longer than its node lived."""
    return CannotJoin(f"node {node_id} was signed off as dead, and cannot come back: start a new one")


def cannot_join(fleet: str, node: NodeReport, foreign: Sequence[NodeReport]) -> CannotJoin:
    """The refusal of a node that speaks otherwise than those."""
    named = sorted(foreign, key=lambda one: one.id)[:_NAMED]
    names = ", ".join(f"{one.id} ({_speech(one)})" for one in named)
    more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
    return CannotJoin(
        f"this bgproxy ({_speech(node)}) cannot join fleet {fleet}, whose nodes speak otherwise: {names}{more}; run "
        "their version here, or end them all first. One that is dead is in the way until it is silent, or until "
        "`bgproxy nodes forget NODE`"
    )


def _speech(node: NodeReport) -> str:
    return f"{node.version or 'unknown version'}, schema {node.schema}, protocol {node.protocol}"


def _report(document: Mapping[str, Any]) -> NodeReport:
    return NodeReport(
        id=_of(str, document["id"]),
        host=_of(str, document["host"]),
        pid=_of(int, document["pid"]),
        version=_of(str, document["version"]),
        epoch=_of(int, document["epoch"]),
        in_flight=_of(dict, document["in_flight"]),
        streams=_of(dict, document["streams"]),
        websockets=_of(dict, document["websockets"]),
        revision=_of(int, document["revision"]),
        oldest=_of(dict, document["oldest"]),
        serial=_of(int, document.get("serial", 0)),
        # Older ones do not tell these.
        schema=_of(int, document.get("schema", 0)),
        protocol=_of(int, document.get("protocol", 0)),
        fence_after=float(_of((int, float), document.get("fence_after", 0))),
        finishing=_of(bool, document.get("finishing", False)),
        mirrored=_of(dict, document.get("mirrored", {})),
    )


def _stranger(node_id: str, document: Mapping[str, Any]) -> NodeReport:
    """Of a report that is none of ours; whether it beats, and what it speaks, can be seen all the same."""
    serial, schema, protocol = (
        number if isinstance(number := document.get(name), int) else 0 for name in ("serial", "schema", "protocol")
    )
    version = document.get("version")
    known = version if isinstance(version, str) else ""
    return NodeReport(node_id, "", 0, known, epoch=0, serial=serial, schema=schema, protocol=protocol)


def _of(kind: type[T] | tuple[type[T], ...], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.64} is not of the kind that stands there")
    return value
