"""retire: which color it means, what it says there is no way back from, and the exit codes with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_admin import FakeAdmin, in_turn, problem

from bgproxy.cli import retire as module

ORDER = {"actor": "ada", "reason": "", "due": 1.0, "leader": "n1", "forced": False, "again": False, "tries": 0}
ORDER |= {"contract": False}
FREED = {"since": 1.0, "replicas": 3, "replica_hours": 1.25, "successor": "v2"}
AUDIT = {"entries": [{"verb": "retire", "facts": {"color": "blue", "freed": FREED}}], "next": None}


def blue(phase: str = "drained", order: dict[str, Any] | None = None, label: str = "v1") -> dict[str, Any]:
    return {"color": "blue", "release": label, "phase": phase, "retirement": order, "double_running": None}


@pytest.fixture(autouse=True)
def no_naps(monkeypatch):
    monkeypatch.setattr(module.clock, "sleep", lambda _: None)


def looked_at(admin: FakeAdmin, *looks: Any) -> None:
    """What a look at blue finds: first before it is asked, then one after the other, the last for ever."""
    admin.answers["GET", "/v1/colors/blue"] = in_turn(*looks)
    admin.answers["GET", "/v1/audit"] = AUDIT
    admin.answers["GET", "/v1/colors"] = {"colors": [looks[0], {"color": "green", "release": "v2", "phase": "active"}]}
    admin.answers["POST", "/v1/colors/blue/retire"] = {**blue(order=ORDER), "changed": True}


@pytest.mark.parametrize("words", [["blue"], []], ids=["named", "the one that was left"])
def test_it_is_followed_to_its_end_and_says_what_it_frees(run, admin, words):
    looked_at(admin, blue(), blue(order=ORDER), blue("retired"))
    result = run("retire", *words, "--reason", "why", "--admin", admin.url)
    assert result.exit_code == 0, result.output
    assert result.stderr == "v1 on blue is to be taken down; after that there is no rollback to it\n"
    assert result.stdout == "v1 on blue is retired: 3 replicas freed, 1.25 replica-hours run double\n"
    assert [body for method, _, body in admin.asked if method == "POST"] == [{"reason": "why"}]


def test_a_proxy_or_store_that_is_away_for_a_while_is_asked_again(run, admin):
    away = problem(503, "store_unavailable", "away")
    looked_at(admin, blue(), away, away, blue("retired"))
    result = run("retire", "blue", "--yes", "--admin", admin.url)
    assert (result.exit_code, result.stdout.startswith("v1 on blue is retired")) == (0, True), result.stderr


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (blue(order={**ORDER, "tries": 1, "why": "it is needed"}), "stays drained: it is needed"),
        (blue(order={**ORDER, "again": True, "tries": 2, "why": "no"}), "it is tried again, 2 failed so far"),
        (
            blue("retired", {**ORDER, "contract": True, "tries": 1, "why": "locked"}),
            "v1 on blue is retired, but its successor's contract step was not done: locked",
        ),
        (blue("active"), "the order is void, blue holds v1, active by now"),
        (blue("staged", label="v3"), "the order is void, blue holds v3, staged by now"),
    ],
)
def test_what_does_not_come_to_an_end_is_refused_with_the_reason(run, admin, after, why):
    looked_at(admin, blue(), blue(order=ORDER), after)
    result = run("retire", "blue", "--yes", "--admin", admin.url)
    assert (result.exit_code, why in result.stderr) == (1, True), result.stderr


def test_for_later_it_only_orders_and_takes_back(run, admin):
    looked_at(admin, blue("standby"))
    result = run("retire", "blue", "--when-drained", "--yes", "--admin", admin.url)
    assert (result.exit_code, "is retired once it is drained" in result.stdout) == (0, True)
    admin.answers["POST", "/v1/colors/blue/retire"] = {**blue("standby"), "changed": True}
    result = run("retire", "blue", "--cancel", "--admin", admin.url)
    assert (result.exit_code, result.stdout) == (0, "v1 on blue stays, nothing is ordered\n")
    assert [body for method, _, body in admin.asked if method == "POST"] == [{"when_drained": True}, {"cancel": True}]
    assert run("retire", "blue", "--cancel", "--force", "--admin", admin.url).exit_code == 2


def test_what_there_is_no_way_back_from_is_said_before(run, admin):
    looked_at(admin, {**blue(), "after_this": "v2's contract step removes what v1 needs"}, blue("retired"))
    result = run("retire", "blue", "--admin", admin.url)
    assert result.stderr == "v1 on blue is to be taken down; v2's contract step removes what v1 needs\n"


def test_the_status_says_what_runs_double_and_what_is_to_be_retired(run, admin):
    cost = {"since": 1.0, "replicas": 3, "replica_hours": 1.25, "successor": "v2"}
    color = {**blue(order={**ORDER, "tries": 2, "why": "no"}), "double_running": cost, "after_this": "no way back"}
    contract = {**blue("retired", {**ORDER, "contract": True}), "color": "red"}
    waits = {**blue("standby", {**ORDER, "leader": "", "due": 1_750_000_000.0}), "color": "grey"}
    status = {"fleet": "f", "active": "green", "epoch": 2, "colors": {"blue": color, "red": contract, "grey": waits}}
    admin.answers["GET", "/v1/status"] = status
    out = run("status", "--admin", admin.url).stdout
    for said in (
        "3 replicas idle, 1.250 replica-hours so far",
        "v1 is being retired by n1, asked by ada; 2 failed: no",
        "blue: to be retired, then no way back",
        "grey: v1 is to be retired, not before 2025-06-1",
        "red: v1 is being followed by its successor's contract step by n1",
    ):
        assert said in out, out


def test_which_color_must_be_clear(run, admin):
    looked_at(admin, blue("active"))
    result = run("retire", "--admin", admin.url)
    assert (result.exit_code, "traffic has left none" in result.stderr) == (1, True)


def test_as_json(run, admin):
    looked_at(admin, blue(), blue("retired"))
    result = run("retire", "blue", "--json", "--admin", admin.url)
    assert json.loads(result.stdout)["phase"] == "retired"
    admin.answers["POST", "/v1/colors/blue/retire"] = problem(409, "refused", "the window is open")
    result = run("retire", "blue", "--json", "--admin", admin.url)
    assert (result.exit_code, json.loads(result.stdout)["detail"]) == (1, "the window is open")
