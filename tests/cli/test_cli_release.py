"""release, validate, approve, abort: what is asked, what is told on the way, and the exit codes with the last line."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_admin import FakeAdmin, in_turn, problem
from rich.console import Console

from bgproxy.cli import following
from bgproxy.cli import release as module
from bgproxy.cli.client import Admin, Unreachable
from bgproxy.cli.release import last_line, looks
from bgproxy.cli.release_screen import picture

PLAN = str(Path(__file__).parents[2] / "config" / "examples" / "plan-smallest.toml")
GREEN = ("release", "green", "--release", "v2", "--upstream", "http://127.0.0.1:9102", "--plan", PLAN, "--yes")
NAMES = ("ready", "parity", "gate:http-1", "flip", "bake")


def run_at(done: int, outcome: str | None = None, why: str = "", **more: Any) -> dict[str, Any]:
    """A run with so many steps passed; the one after them failed where it was stopped."""
    steps = []
    for number, name in enumerate(NAMES):
        failed = number == done and outcome == "stopped"
        verdict = "fail" if failed else "pass" if number < done else None
        steps.append({"name": name, "verdict": verdict, "why": "because" if verdict else "", "at": 1.0, "took": 0.5})
    step = NAMES[done] if outcome is None and done < len(NAMES) else None
    document = {"id": "r7", "color": "green", "release": "v2", "actor": "ada", "open": outcome is None, "step": step}
    return document | {"outcome": outcome, "why": why, "waits_for": None, "approvals": {}, "steps": steps} | more


SETTLED = run_at(5, "settled")
STOPPED = run_at(2, "stopped", "gate:http-1 failed: no answer")


@pytest.fixture(autouse=True)
def no_naps(monkeypatch):
    monkeypatch.setattr(module.clock, "sleep", lambda _: None)


def begins(admin: FakeAdmin, *looks: Any, changed: bool = True) -> None:
    admin.answers["POST", "/v1/run"] = run_at(0) | {"changed": changed}
    admin.answers["GET", "/v1/run"] = in_turn(*looks)


def test_a_good_one_is_told_step_by_step_and_ends_with_0(run, admin):
    begins(admin, run_at(0), run_at(2), run_at(4), SETTLED)
    result = run(*GREEN, "--reason", "try", "--metadata", "image=a:2", "--route-upstream", "chat=http://127.0.0.1:9")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == list(NAMES)
    assert lines[0] == "pass      ready (0.5 s): because"
    assert lines[-1] == "settled: green is active with v2"
    _, _, asked = admin.asked[0]
    assert (asked["color"], asked["release"], asked["reason"]) == ("green", "v2", "try")
    assert (asked["upstreams"], asked["metadata"]) == (["http://127.0.0.1:9102"], {"image": "a:2"})
    assert asked["routes"] == {"chat": ["http://127.0.0.1:9"]}
    assert asked["plan"]["bake"]["min_samples"] == 200


def test_one_that_is_stopped_ends_with_1_and_the_reason_on_the_last_line(run, admin):
    begins(admin, run_at(1), STOPPED)
    result = run(*GREEN)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[-2].startswith("fail      gate:http-1")
    assert lines[-1] == "stopped, v2 on green was not made active: gate:http-1 failed: no answer"


@pytest.mark.parametrize(
    ("document", "code", "said"),
    [
        (
            run_at(5, "rolled_back", "blue was made active by bgproxy"),
            1,
            "rolled back, v2 on green: blue was made active",
        ),
        (run_at(1, "aborted", "bob aborted it"), 1, "aborted, v2 on green: bob aborted it"),
        (run_at(3, "validated"), 0, "validated: v2 on green is ready, nothing was flipped"),
    ],
)
def test_every_end_has_its_code_and_its_words(run, admin, document, code, said):
    admin.answers["GET", "/v1/run"] = document
    result = run("release", "--watch")
    assert (result.exit_code, said in result.stdout.splitlines()[-1]) == (code, True)
    assert [method for method, _, _ in admin.asked] == ["GET"], "watching begins nothing"


def test_as_json_each_line_is_a_document_and_the_last_one_the_end(run, admin):
    begins(admin, run_at(1), STOPPED)
    result = run(*GREEN, "--json")
    assert result.exit_code == 1
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["name"] for one in documents[:-1]] == ["ready", "parity", "gate:http-1"]
    assert (documents[-1]["outcome"], documents[-1]["why"]) == ("stopped", "gate:http-1 failed: no answer")


def test_the_same_again_follows_what_is_under_way(run, admin):
    begins(admin, SETTLED, changed=False)
    result = run(*GREEN)
    assert result.stdout.splitlines()[0] == "r7 was begun before by ada; following it"
    assert result.exit_code == 0


def test_a_manual_gate_is_told_once(run, admin):
    waiting = run_at(2, waits_for="look", waits_text="the staging run")
    begins(admin, waiting, waiting, SETTLED)
    assert run(*GREEN).stdout.count("waiting: bgproxy approve look  (the staging run)\n") == 1


SEEN = {
    "verdict": "undecided",
    "why": "50 answers came, 200 are needed",
    "held": False,
    "left": 55.0,
    "new": {"answers": 50, "errors": 2, "error_rate": 0.04, "p95": 0.25},
    "old": {"answers": 900, "errors": 0, "error_rate": 0.0, "p95": 0.2},
    "silent": ["n3"],
}


def test_while_it_bakes_its_samples_are_told_now_and_then(run, admin):
    baking = [run_at(4, watch={**SEEN, "left": left}) for left in (55.0, 54.8, 54.5)]
    begins(admin, *baking, run_at(4, watch={**SEEN, "left": 0.0, "held": True}), SETTLED)
    lines = [line for line in run(*GREEN).stdout.splitlines() if line.startswith("baking")]
    assert lines[0] == (
        "baking    50 answers, 2 errors (4.00%), p95 0.250 s (before 0.200 s), 55 s left: undecided, "
        "50 answers came, 200 are needed; no news of n3"
    )
    assert [" held: " in line for line in lines] == [False, True]


def test_while_it_is_mirrored_its_counts_are_told_now_and_then(run, admin):
    counts = {"compared": 3, "differed": 0, "slow": 0, "failed": 0, "dropped": 2, "examples": []}
    wrong = {**counts, "compared": 8, "differed": 1, "examples": ["GET /a: /b is gone", "GET /c: no"]}
    begins(admin, *(run_at(3, mirrored=one) for one in (counts, {**counts, "compared": 4}, wrong)), SETTLED)
    assert [line for line in run(*GREEN).stdout.splitlines() if line.startswith("mirroring")] == [
        "mirroring 3 compared, 0 differed, 0 slow, 0 failed, 2 dropped",
        "mirroring 8 compared, 1 differed, 0 slow, 0 failed, 2 dropped: GET /a: /b is gone",
    ]


def test_a_bake_by_itself_is_of_what_is_active(run, admin, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("[bake]\nmax_error_rate = 0.01\n")
    admin.answers["GET", "/v1/status"] = {"active": "green"}
    begins(admin, run_at(5, "rolled_back", "blue was made active by bgproxy: bake of v2: error rate 0.1"))
    result = run("bake", "--plan", str(file))
    asked = next(body for method, path, body in admin.asked if (method, path) == ("POST", "/v1/run"))
    assert asked == {"color": "green", "kind": "bake", "plan": {"bake": {"max_error_rate": 0.01}}}
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (
        1,
        "rolled back, v2 on green: blue was made active by bgproxy: bake of v2: error rate 0.1",
    )


def test_a_canary_s_samples_stand_beside_the_active_one_s(run, admin):
    begins(admin, run_at(4, step="canary", watch=SEEN), SETTLED)
    assert "canary    50 answers, 2 errors (4.00%), p95 0.250 s (active 0.200 s), 55 s left" in run(*GREEN).stdout


def test_a_canary_s_synthetic_samples_are_told_too(run, admin):
    made = {"sent": 32, "answers": 30, "errors": 1, "p95": 0.2}
    begins(admin, run_at(4, step="canary", watch={**SEEN, "synthetic": made}), SETTLED)
    assert "p95 0.250 s (active 0.200 s), synthetic 30 answers, 1 errors, 55 s left" in run(*GREEN).stdout


def test_what_must_not_stay_and_does_is_shouted_once(run, admin):
    stuck = run_at(5, trouble="it is bad and cannot be rolled back: v1 is down")
    begins(admin, stuck, stuck, run_at(5, "rolled_back", "blue was made active by bgproxy"))
    assert run(*GREEN).stdout.count("trouble   it is bad and cannot be rolled back: v1 is down\n") == 1


def test_a_bad_plan_is_found_before_anything_is_asked(run, admin, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("[[gates]]\nkind = 'http'\n")
    result = run("release", "green", "--release", "v2", "--plan", str(file), "--yes")
    assert (result.exit_code, admin.asked) == (2, [])
    assert "did you mean gate?" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("release",),
        ("release", "green", "--plan", PLAN),
        ("release", "green", "--watch"),
        ("release", "--watch", "--plan", PLAN),
        ("validate",),
        (*GREEN[:-1],),
    ],
)
def test_usage(run, admin, words):
    assert (run(*words).exit_code, admin.asked) == (2, [])


def test_it_asks_where_there_is_somebody_to_ask(run, admin, monkeypatch):
    begins(admin, SETTLED)
    monkeypatch.setattr(module, "_is_asked", lambda: True)
    for answer, code in ((False, 1), (True, 0)):
        monkeypatch.setattr(module.typer, "confirm", lambda _, answer=answer: answer)
        result = run(*GREEN[:-1])
        assert result.exit_code == code
        assert "  3. gate http-1: POST /v1/chat/completions" in result.stdout
    assert len([method for method, _, _ in admin.asked if method == "POST"]) == 1


def test_a_refusal_to_begin(run, admin):
    admin.answers["POST", "/v1/run"] = problem(409, "refused", "v1 on green is being released by bob (r5)")
    result = run(*GREEN)
    assert (result.exit_code, "being released by bob" in result.stderr) == (1, True)
    result = run(*GREEN, "--json")
    assert json.loads(result.stdout.splitlines()[-1])["code"] == "refused", "on one line, as everything else"


def test_validate(run, admin):
    begins(admin, run_at(3, "validated"))
    result = run("validate", "green", "--plan", PLAN, "--reason", "why")
    assert result.exit_code == 0
    asked = admin.asked[0][2]
    assert (asked["kind"], asked["color"], asked["reason"], "release" in asked) == ("validate", "green", "why", False)


def test_without_a_plan_it_is_the_proxy_s_own(run, admin):
    begins(admin, SETTLED)
    for words in (("release", "green", "--release", "v2", "--yes"), ("validate", "green")):
        assert run(*words).exit_code == 0
        assert "plan" not in next(body for method, _, body in reversed(admin.asked) if method == "POST")


def test_approve_and_abort(run, admin):
    admin.answers["POST", "/v1/run/approve"] = run_at(2, approvals={"look": "bob"})
    result = run("approve", "look", "--reason", "good")
    assert (result.exit_code, "look is approved by bob" in result.stdout) == (0, True)
    assert admin.asked[-1] == ("POST", "/v1/run/approve", {"gate": "look", "reason": "good"})
    assert run("approve").exit_code == 0
    assert admin.asked[-1][2] == {}
    admin.answers["POST", "/v1/run/abort"] = run_at(1, "aborted", "bob aborted it: no")
    result = run("abort", "--reason", "no")
    assert (result.exit_code, result.stdout) == (0, "aborted, v2 on green: bob aborted it: no\n")
    assert json.loads(run("abort", "--json").stdout)["outcome"] == "aborted"
    admin.answers["POST", "/v1/run/approve"] = problem(403, "forbidden", "needs the role operator")
    assert run("approve").exit_code == 1


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 100 * seconds


def test_a_proxy_that_is_restarted_meanwhile_is_asked_again(admin):
    away = problem(503, "store_unavailable", "away")
    admin.answers["GET", "/v1/run"] = in_turn(run_at(1), away, away, SETTLED)
    time = Time()
    found = list(looks(Admin(admin.url), time.monotonic, time.sleep))
    assert [document["outcome"] for document in found] == [None, "settled"]


def test_but_not_for_ever_and_not_where_nothing_ever_answered(admin, unused_tcp_port):
    admin.answers["GET", "/v1/run"] = in_turn(run_at(1), problem(503, "store_unavailable", "away"))
    time = Time()
    with pytest.raises(Exception, match="away"):
        list(looks(Admin(admin.url), time.monotonic, time.sleep))
    assert time.now > following.PATIENCE
    with pytest.raises(Unreachable):
        list(looks(Admin(f"http://127.0.0.1:{unused_tcp_port}"), time.monotonic, time.sleep))


def test_another_one_in_its_place_is_told(run, admin):
    admin.answers["GET", "/v1/run"] = in_turn(run_at(1), run_at(1, id="r9"))
    result = run("release", "--watch")
    assert (result.exit_code, "r7 is over, and r9 has begun since" in result.stderr) == (1, True)


def test_there_never_was_one(run, admin):
    admin.answers["GET", "/v1/run"] = problem(404, "no_run", "no release was brought out by a plan yet")
    result = run("release", "--watch")
    assert (result.exit_code, "begin one with `bgproxy release`" in result.stderr) == (1, True)


def test_the_picture_shows_all_steps(admin):
    out = StringIO()
    console = Console(file=out, width=100)
    console.print(picture(run_at(2, waits_for="look")))
    text = out.getvalue()
    assert "r7  v2 on green" in text
    assert all(name in text for name in NAMES)
    assert text.count("pass") == 2
    assert "waiting: bgproxy approve look" in text


def test_what_settled_without_a_judgement_says_so_on_the_last_line():
    document = run_at(5, "settled")
    document["steps"][-1]["why"] = "undecided, and settled as on_undecided says: 3 answers came"
    why = "undecided, and settled as on_undecided says: 3 answers came"
    assert last_line(document) == f"settled: green is active with v2 ({why})"
    document["steps"][-2]["why"], document["steps"][-1]["why"] = why, "all is kept"
    assert last_line(document) == "settled: green is active with v2"


@pytest.mark.parametrize(("verb", "table"), [("release", "[release]"), ("bake", "[release]"), ("bake", "[bake]")])
def test_help_shows_the_tables_that_it_names(run, verb, table):
    assert table in run(verb, "--help").stdout


def test_the_last_line_of_what_is_open():
    assert last_line(run_at(2)) == "open, v2 on green"
