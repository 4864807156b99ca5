"""The verbs recordings list and delete."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from bgproxy.rollout.options import RecordingOptions
from bgproxy.rollout.recording import records_of

ONE, TWO = "01" * 16, "02" * 16


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration, and two sessions of which one was edited."""
    key = base64.b64encode(b"k" * 32).decode()
    (tmp_path / "key").write_text(key)
    kept = records_of(RecordingOptions(str(tmp_path / "rec"), key=key))
    kept.prepare()
    kept.append(ONE, [{"at": 0.0, "release": "v1", "said": "a secret"}, {"at": 1.0, "release": "v1"}])
    kept.append(TWO, [{"at": 2.0, "release": "v1"}])
    file = tmp_path / "rec" / f"{TWO}.session"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    text = f'[colors.blue]\nupstreams = ["http://127.0.0.1:1"]\n[recording]\ndirectory = "{tmp_path}/rec"\n'
    (tmp_path / "bgproxy.toml").write_text(f'{text}key_file = "{tmp_path}/key"\n')
    return str(tmp_path / "bgproxy.toml")


def test_they_are_listed_without_what_was_said(run, config):
    result = run("recordings", "list", "--config", config)
    assert result.exit_code == 0, result.stderr
    lines = sorted(result.stdout.splitlines())
    assert [line.split()[0] for line in lines] == [ONE, TWO, "2"]
    assert "2 turns, v1, began 1970-01-01T00:00:00+00:00" in lines[0]
    assert "was edited, or sealed with another key" in lines[1]
    assert "secret" not in result.stdout
    found = json.loads(run("recordings", "list", "--config", config, "--json").stdout)["recordings"]
    assert {one["session"]: one.get("turns") for one in found} == {ONE: 2, TWO: None}


def test_they_are_deleted_by_name_or_all(run, config):
    assert run("recordings", "delete", "--config", config).exit_code == 1
    assert run("recordings", "delete", ONE, "--all", "--config", config).exit_code == 1
    gone = run("recordings", "delete", "../key", "--config", config)
    assert (gone.exit_code, "there is no recording ../key" in gone.stderr) == (1, True)
    assert run("recordings", "delete", ONE, "--config", config).stdout == "1 sessions deleted\n"
    assert json.loads(run("recordings", "delete", "--all", "--config", config, "--json").stdout) == {"deleted": [TWO]}
    assert run("recordings", "list", "--config", config).stdout == "0 sessions\n"


def test_where_nothing_is_recorded(run, tmp_path):
    file = tmp_path / "bgproxy.toml"
    file.write_text('[colors.blue]\nupstreams = ["http://127.0.0.1:1"]\n')
    result = run("recordings", "list", "--config", str(file))
    assert (result.exit_code, "names no recording.directory" in result.stderr) == (1, True)
