"""A node's report as JSON and back, and why a node may not join the others."""

from __future__ import annotations

from collections.abc import Sequence
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
    return document


def node_from(node_id: str, raw: bytes, now: float, node_ttl: float) -> NodeReport:
    """The report that a store keeps; `now` is unix seconds by its clock, `node_ttl` how long a beat counts.

    One that cannot be understood, as another kind of bgproxy may have written it, is of a node that is there and of
    which nothing else is known. A time still to come is from before the store's clock was set back.
    """
    at = 0.0
    try:
        document = orjson.loads(raw)
        at = float(document["at"])
        node = _report(document)
    except (ValueError, KeyError, TypeError):
        node = NodeReport(node_id, host="", pid=0, version="", epoch=0, schema=0, protocol=0)
    age = abs(now - at)
    return replace(node, id=node_id, age=age, live=age <= node_ttl)


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


def _report(document: Any) -> NodeReport:
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
    )


def _of(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.64} is no {kind.__name__}")
    return value
