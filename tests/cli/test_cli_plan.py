"""The verb plan check: a dry look at a plan, with no proxy there."""

from __future__ import annotations

import json
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "plan-smallest.toml"


def test_a_good_plan_is_told_in_its_order(run, admin):
    result = run("plan", "check", str(EXAMPLE))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"{EXAMPLE}: good"
    assert [line.split(":")[0].split()[1] for line in lines[1:]] == ["ready", "parity", "gate", "flip", "bake"]
    assert admin.asked == []


def test_as_json_with_every_default(run):
    document = json.loads(run("plan", "check", str(EXAMPLE), "--json").stdout)
    assert document["ok"] is True
    assert document["plan"]["gates"][0]["expect_status"] == [200]
    assert document["plan"]["parity"]["removed"] == "block"


def test_a_bad_one_ends_with_2_and_a_line_per_fault(run, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("[bake]\nmax_p96 = 1\n[[gate]]\nkind = 'htpp'\n")
    result = run("plan", "check", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert 'gate[1].kind: "htpp" is not known; did you mean "http"?' in result.stderr
    assert "bake.max_p96" in result.stderr
    assert json.loads(run("plan", "check", str(file), "--json").stdout)["code"] == "config"
    assert run("plan", "check", str(tmp_path / "none.toml")).exit_code == 2
