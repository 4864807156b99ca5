"""[recording]: nothing is kept without a key, and what cannot work is said at the start."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path
from typing import Any

import pytest

from bgproxy.config import Settings
from bgproxy.errors import ConfigError

KEY = base64.b64encode(b"k" * 32).decode()


def load(environ: dict[str, str] | None = None, **recording: Any) -> Settings:
    colors = {"blue": {"upstreams": ["http://127.0.0.1:9101"]}}
    return Settings.load(None, {"recording": recording, "colors": colors}, environ or {})


def test_by_default_nothing_is_recorded() -> None:
    assert load().recording().directory == ""


def test_the_key_comes_from_a_variable_or_a_file_and_is_not_shown(tmp_path: Path) -> None:
    found = load({"REC_KEY": KEY + "\n"}, directory="/rec", key_env="REC_KEY")
    assert found.recording().key == KEY
    assert KEY not in repr(found.recording()) + str(found.written())
    assert pickle.loads(pickle.dumps(found)).recording() == found.recording()
    (tmp_path / "key").write_text(KEY)
    assert load(directory="/rec", key_file=str(tmp_path / "key")).recording().key == KEY


@pytest.mark.parametrize(
    ("recording", "said"),
    [
        ({"directory": "/rec"}, "recording.key_env: recordings are sealed, and there is no key"),
        ({"directory": "/rec", "key_env": "NONE"}, "recording.key_env: the environment variable NONE is empty or not"),
        ({"directory": "/rec", "key_env": "BAD"}, "recording.key_env: the key is not 32 bytes in base64"),
        ({"directory": "/rec", "key_env": "BAD", "key_file": "/x"}, "write one of them"),
        ({"directory": "/rec", "key_file": "/nowhere/key"}, "recording.key_file: /nowhere/key cannot be read"),
        ({"directory": "rec", "key_env": "GOOD"}, 'recording.directory: "rec" is no absolute path'),
        ({"key_env": "GOOD"}, "recording.directory: there is a key and no directory"),
        ({"share": 0.0}, "recording.share"),
        ({"share": 1.5}, "recording.share"),
        ({"max_bytes": 1}, "recording.max_bytes"),
        ({"redact_patterns": ["a+"]}, 'recording.redact_patterns: "a+": it repeats without an end'),
        ({"redact_pointers": ["a"]}, 'recording.redact_pointers: "a" is no JSON pointer'),
        ({"director": "/rec"}, "did you mean recording.directory"),
    ],
)
def test_what_cannot_work(recording: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({"GOOD": KEY, "BAD": "bad-secret"}, **recording)
    assert said in str(refused.value)
    assert "bad-secret" not in str(refused.value)
