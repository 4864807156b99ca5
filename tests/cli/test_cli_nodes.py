"""nodes and nodes forget: the table, what is asked, and how it ends."""

from __future__ import annotations

import json

import pytest
from fake_admin import problem

NODE = {
    "id": "n-1",
    "host": "web-1",
    "pid": 42,
    "version": "0.1.0",
    "epoch": 7,
    "in_flight": {"blue": 2, "green": 3},
    "streams": {"blue": 1},
    "websockets": {},
    "age": 0.25,
    "state": "live",
}
SILENT = {**NODE, "id": "n-2\x1b[2J", "age": 75.0, "state": "silent"}


def test_the_table(admin, run):
    admin.answers["GET", "/v1/nodes"] = {"nodes": [NODE, SILENT], "complete": True}
    result = run("nodes")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert lines == [
        "in",
        "id host pid version epoch age state flight streams",
        "n-1 web-1 42 0.1.0 7 0.2 s live 5 1",
        "n-2 [2J web-1 42 0.1.0 7 75.0 s silent 5 1",
    ]
    assert json.loads(run("nodes", "--json").stdout)["nodes"][0] == NODE
    admin.answers["GET", "/v1/nodes"] = {"nodes": [NODE, SILENT], "complete": True, "silent": ["n-2"]}
    last = run("nodes").stdout.splitlines()[-1]
    assert last.startswith("gone for good: `bgproxy nodes forget n-2`; out of reach: `bgproxy flip COLOR --ex")


def test_a_table_that_is_not_complete_says_so(admin, run):
    admin.answers["GET", "/v1/nodes"] = {"nodes": [NODE], "complete": False}
    assert run("nodes").stdout.splitlines()[-1] == "the store is away: only the nodes of this host are known"


def test_forgetting(admin, run):
    admin.answers["DELETE", "/v1/nodes/n-1"] = {**NODE, "age": 75.4, "forgotten": True}
    result = run("nodes", "forget", "n-1", "--reason", "gone", "--force")
    assert admin.asked == [("DELETE", "/v1/nodes/n-1?reason=gone&force=true", None)]
    assert (result.exit_code, result.stdout) == (0, "n-1 is forgotten; it was last heard 75 s ago\n")
    assert json.loads(run("nodes", "forget", "n-1", "--json").stdout)["forgotten"] is True
    assert admin.asked[1][1] == "/v1/nodes/n-1"
    run("nodes", "forget", "../flip")
    assert admin.asked[2][1] == "/v1/nodes/..%2Fflip"


def test_a_fenced_one_keeps_sessions_from_moving(admin, run):
    fenced = {**NODE, "id": "n-3", "state": "fenced"}
    for complete in (True, False):  # without the store each node of this host is fenced, and said to be
        admin.answers["GET", "/v1/nodes"] = {"nodes": [NODE, fenced], "silent": [], "complete": complete}
        said = "fenced: n-3: flips leave them behind, and sessions do not move while they are not heard"
        assert (f"{said}; gone for good: `bgproxy nodes forget n-3`" in run("nodes").stdout) is complete


def test_forgetting_several(admin, run):
    for name in ("n-1", "n-2"):
        admin.answers["DELETE", f"/v1/nodes/{name}"] = {**NODE, "id": name, "forgotten": True}
    admin.answers["GET", "/v1/nodes"] = {"nodes": [], "silent": ["n-1", "n-2"]}
    advice = run("nodes").stdout
    assert "`bgproxy nodes forget n-1 n-2`" in advice
    assert "`bgproxy flip COLOR --exclude n-1 --exclude n-2`" in advice
    lines = run("nodes", "forget", "n-1", "n-2", "n-1").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["n-1", "n-2"]
    admin.answers["DELETE", "/v1/nodes/n-1"] = problem(409, "refused", "node n-1 is live")
    admin.asked.clear()
    assert run("nodes", "forget", "n-1", "n-2").exit_code == 1
    assert len(admin.asked) == 1


def test_one_that_is_not_registered(admin, run):
    admin.answers["DELETE", "/v1/nodes/n-1"] = problem(404, "unknown_node", "no node 'n-1' is registered")
    result = run("nodes", "forget", "n-1")
    assert result.exit_code == 1
    assert "`bgproxy nodes` lists those that are registered" in result.stderr


@pytest.mark.parametrize("early", [["--json"], ["--admin", "http://127.0.0.1:1"], ["--token", "x"]])
def test_an_option_that_would_count_for_nothing_is_refused(admin, run, early):
    result = run("nodes", *early, "forget", "n-1")
    assert result.exit_code == 2
    assert "write options behind forget" in result.stderr
    assert admin.asked == []
