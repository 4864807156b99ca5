"""A release that has come as far as its canary."""

from __future__ import annotations

from bgproxy.rules import fleet, running
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Canary, Plan
from bgproxy.rules.release import Release


def at_canary(release: Release, canary: Canary) -> FleetState:
    """Blue is active with v1; on green the release has passed every step before, led by n1."""
    first = fleet.bootstrap(("blue", "green"), "blue", {"blue": Release("v1", ("http://a:1",))}, "test", 1.0).state
    plan, who = Plan(canary=canary), {"actor": "ada", "reason": ""}
    change = running.begin(first, "green", release, plan, {"canary": {}}, leader="n1", at=5.0, **who)
    while change is not None and change.state.run is not None and change.state.run.next != "canary":
        run = change.state.run
        change = running.record(change.state, run.id, "n1", run.next, Finding(Verdict.PASS, ""), at=6.0, took=0.0)
    assert change is not None
    return change.state
