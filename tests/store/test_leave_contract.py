"""How a release was left, and is taken down, in both stores: read as it was written; broken data named."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import StoreBroken
from bgproxy.rules import fleet, retire
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.release import Event, Phase
from bgproxy.store.base import Store
from bgproxy.store.document import state_document, state_from

Opened = Callable[..., Awaitable[Store]]

WHO = {"actor": "ada", "reason": "why"}


async def test_each_step_is_read_as_it_was_written(url: str, opened: Opened, flips: Any) -> None:
    store = await opened(url)
    state, _ = await store.commit(flips.first(), create=True)
    state, _ = await store.commit(flips.flip(state))
    old = next(color for color in state.colors if color != state.pointer.active)
    label = state.releases[old].label
    parting = {"decommission": {"headers": {"A": "ü"}}, "migrate": {"contract": {"command": ["/x"]}}}
    left = replace(state.releases[old], parting=parting)
    state = replace(state, releases={**state.releases, old: left})
    at = await store.now()
    changes: list[Callable[[fleet.FleetState], fleet.Change | None]] = [
        lambda state: retire.order(state, old, window=0.0, at=at, force=True, **WHO),
        lambda state: fleet.step(state, old, label, Event.DRAINED, at=at, **WHO),
        lambda state: retire.lead(state, old, label, "", "n1", at=at),
        lambda state: retire.finish(state, old, label, "n1", Finding(Verdict.PASS, "gone"), at=at),
        lambda state: retire.finish(state, old, label, "n1", Finding(Verdict.PASS, "contracted"), at=at, contract=True),
    ]
    freed: dict[str, Any] = {}
    for decide in changes:
        change = decide(state)
        assert change is not None
        state, entry = await store.commit(change)
        assert await store.read() == state
        freed |= entry.facts.get("freed", {})
    gone = state.releases[old]
    assert (gone.phase, gone.parting) == (Phase.RETIRED, {"decommission": parting["decommission"]})
    assert [*gone.outdated] == [label]
    assert gone.relief is not None
    assert 0 < gone.relief.began <= gone.departed <= gone.at
    assert freed["replicas"] == gone.replicas


@pytest.mark.parametrize(
    ("member", "value"),
    [("relief", {}), ("relief", 1), ("parting", [1]), ("retirement", {"actor": 1}), ("staged", None), ("outdated", 5)],
    ids=str,
)
def test_what_cannot_be_understood_is_named(flips: Any, member: str, value: Any) -> None:
    document: dict[str, Any] = copy.deepcopy(state_document(flips.first().state))
    document["colors"] = list(document["colors"])
    for one in document["releases"].values():
        one["upstreams"], one["ended_before"] = list(one["upstreams"]), list(one["ended_before"])
        one["routes"] = {name: list(urls) for name, urls in one["routes"].items()}
    assert state_from(document, "a file") == flips.first().state
    document["releases"]["green"][member] = value
    with pytest.raises(StoreBroken, match="a file, release"):
        state_from(document, "a file")
    del document["releases"]["green"][member]
    assert state_from(document, "a file") == flips.first().state, "data from before have none of it"
