"""A release's run in both stores: read as it was written, by every later change left as it is, broken data named."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bgproxy.errors import StoreBroken
from bgproxy.rules import running
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Bake, Plan
from bgproxy.rules.release import Release
from bgproxy.store.base import Store
from bgproxy.store.document import state_from

Opened = Callable[..., Awaitable[Store]]

PLAN = {"gate": [{"kind": "http", "json": {"a": [1, 2.5, None, True]}}]}


@pytest.fixture
async def store(url: str, opened: Opened) -> Store:
    return await opened(url)


async def test_a_run_is_read_as_it_was_written(store: Store, flips: Any) -> None:
    state, _ = await store.commit(flips.first(), create=True)
    assert (await store.read()).run is None  # type: ignore[union-attr]
    who, plan = {"actor": "ada", "reason": "why"}, Plan(bake=Bake(max_error_rate=0.1))
    release = Release("v3", ("http://127.0.0.1:1",))
    change = running.begin(state, "green", release, plan, PLAN, leader="n1", at=5.5, **who)
    assert change is not None
    state, entry = await store.commit(change)
    assert state.run is not None
    assert await store.read() == state
    assert entry.facts["plan"] == PLAN
    finding = Finding(Verdict.PASS, "fine", {"answers": [{"status": 200, "latency": 0.25}]})
    step = running.record(state, state.run.id, "n1", "ready", finding, at=6.5, took=0.5)
    assert step is not None
    state, entry = await store.commit(step)
    assert await store.read() == state
    assert (entry.verb, entry.facts["evidence"]) == ("release", finding.evidence)
    state, _ = await store.commit(running.abort(state, actor="bob", reason="no", at=7.5))
    assert state.run is not None
    assert (state.run.outcome, state.run.why, state.run.plan) == ("aborted", "bob aborted it: no", {})
    state, _ = await store.commit(flips.stage(state, "green", "v4"))
    standing = await store.read()
    assert standing == state
    assert standing is not None
    assert standing.run is not None


RUN = {
    "id": "r2",
    "kind": "release",
    "color": "green",
    "label": "v3",
    "plan": {},
    "todo": ["ready"],
    "actor": "ada",
    "reason": "",
    "epoch": 1,
    "leader": "n1",
    "began": 1.0,
    "at": 2.0,
    "done": [{"name": "ready", "verdict": "pass", "why": "", "at": 2.0, "took": 1.0}],
    "approvals": {"look": "bob"},
    "tell": ["ci"],
    "outcome": "",
    "why": "",
}
STATE = {
    "schema": 1,
    "revision": 2,
    "colors": ["blue", "green"],
    "pointer": {"active": "blue", "previous": None, "epoch": 1, "actor": "a", "reason": "", "at": 1.0},
    "releases": {},
    "run": RUN,
}


def test_the_document_is_good() -> None:
    state = state_from(STATE, "here")
    assert state.run is not None
    assert state.run.done[0].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("kind", "else"),
        ("outcome", "won"),
        ("id", 5),
        ("plan", []),
        ("todo", [1]),
        ("done", [{"name": "ready", "verdict": "maybe", "why": "", "at": 0, "took": 0}]),
        ("done", [{}]),
        ("approvals", []),
        ("epoch", "x"),
    ],
)
def test_what_cannot_be_understood_is_named_and_never_taken_for_no_run(member: str, value: object) -> None:
    document = copy.deepcopy(STATE)
    document["run"][member] = value  # type: ignore[index]
    with pytest.raises(StoreBroken, match="here cannot be understood"):
        state_from(document, "here")
    del document["run"][member]  # type: ignore[attr-defined]
    with pytest.raises(StoreBroken, match=member):
        state_from(document, "here")


def test_data_from_before_there_were_runs_have_none() -> None:
    assert state_from({name: value for name, value in STATE.items() if name != "run"}, "here").run is None
    assert state_from({**STATE, "run": None}, "here").run is None
