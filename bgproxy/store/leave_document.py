"""What a release keeps of how it was left and is taken down, out of JSON. What is missing or of the wrong kind raises,
for `document.py` to name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgproxy.rules.release import Relief, Retirement


def leave_from(document: Mapping[str, Any]) -> dict[str, Any]:
    """Those members of a release's document; data from before there were any have none.

    Raises `KeyError`, `TypeError` or `ValueError`.
    """
    relief, retirement = document.get("relief"), document.get("retirement")
    parting, outdated = document.get("parting", {}), document.get("outdated", {})
    for one in (parting, outdated):
        if not isinstance(one, dict):
            raise TypeError(f"{type(one).__name__} where an object belongs")
    return {
        "staged": float(document.get("staged", 0.0)),
        "departed": float(document.get("departed", 0.0)),
        "relief": None if relief is None else _relief(relief),
        "parting": parting,
        "outdated": {str(label): str(by) for label, by in outdated.items()},
        "retirement": None if retirement is None else _retirement(retirement),
    }


def _relief(document: Mapping[str, Any]) -> Relief:
    return Relief(
        label=str(document["label"]),
        replicas=int(document["replicas"]),
        since=float(document["since"]),
        began=float(document["began"]),
        spent=float(document["spent"]),
    )


def _retirement(document: Mapping[str, Any]) -> Retirement:
    return Retirement(
        actor=str(document["actor"]),
        reason=str(document["reason"]),
        due=float(document["due"]),
        leader=str(document["leader"]),
        forced=bool(document["forced"]),
        again=bool(document["again"]),
        tries=int(document["tries"]),
        why=str(document["why"]),
        contract=bool(document["contract"]),
    )
