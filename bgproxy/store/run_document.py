"""A release's run as JSON and back. What is missing or of the wrong kind raises, for `document.py` to name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast, get_args

from bgproxy.rules.gate import Verdict
from bgproxy.rules.run import Kind, Outcome, Run, Step


def run_document(run: Run | None) -> dict[str, Any] | None:
    """The run's members; None where there never was one."""
    return asdict(run) if run is not None else None


def run_from(document: Any) -> Run | None:
    """The run of a document. Raises `KeyError`, `TypeError` or `ValueError`."""
    if document is None:
        return None
    kind, outcome = document["kind"], document["outcome"]
    if kind not in get_args(Kind) or outcome not in get_args(Outcome):
        raise ValueError(f"kind {kind!r}, outcome {outcome!r}")
    texts = {name: _text(document[name]) for name in ("id", "color", "label", "actor", "reason", "leader", "why")}
    return Run(
        kind=cast("Kind", kind),
        outcome=cast("Outcome", outcome),
        plan=_table(document["plan"]),
        todo=tuple(map(_text, document["todo"])),
        epoch=int(document["epoch"]),
        began=float(document["began"]),
        at=float(document["at"]),
        done=tuple(map(_step, document["done"])),
        tell=tuple(map(_text, document.get("tell", []))),  # data from before there were hooks have none
        approvals={_text(gate): _text(actor) for gate, actor in _table(document["approvals"]).items()},
        trouble=_text(document.get("trouble", "")),
        **texts,
    )


def _step(document: Any) -> Step:
    return Step(
        name=_text(document["name"]),
        verdict=Verdict(document["verdict"]),
        why=_text(document["why"]),
        at=float(document["at"]),
        took=float(document["took"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text belongs")
    return value


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} where an object belongs")
    return value
