"""config/bgproxy.toml says every key and the default that the code has; what `config show` prints is a file again."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy.config import NEEDS_RESTART, Settings
from bgproxy.config.document import ROOT
from bgproxy.config.keys import Leaf, Table, dotted
from bgproxy.config.showing import as_toml, as_tree

CONFIG = Path(__file__).parents[2] / "config"
SHIPPED = (CONFIG / "bgproxy.toml").read_text()
WITH_EXAMPLES = re.sub(r"^#(?=[\w\[])", "", SHIPPED, flags=re.MULTILINE)
"""Lines that begin with `#` and no space are settings too."""


def keys_of_code(table: Table, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(table.each, Table):
        table, path = table.each, (*path, "*")
    for name, node in table.keys.items():
        if isinstance(node, Leaf):
            yield (*path, name), node.default
        elif node.each is None or isinstance(node.each, Table):
            yield from keys_of_code(node, (*path, name))
        else:
            yield (*path, name), {}


def keys_of_file(text: str) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, value in tomllib.loads(text).items():
        if name in ("route", "token"):
            value = {item.pop("name"): item for item in value}
        if not isinstance(value, dict) or name == "release":  # a plan is read by itself
            found[(name,)] = value
        elif name in ("colors", "route", "session_preset", "token"):
            found |= {(name, "*", key): item for section in value.values() for key, item in section.items()}
        else:
            found |= {(name, key): item for key, item in value.items()}
    return found


def test_the_shipped_file_loads():
    settings = Settings.load(CONFIG / "bgproxy.toml", None, {})
    assert settings.colors() == ("blue", "green")
    assert set(settings.releases()) == {"blue", "green"}


def test_every_key_of_the_code_is_in_the_file_and_no_other():
    assert set(keys_of_file(WITH_EXAMPLES)) == {path for path, _ in keys_of_code(ROOT)}


def test_every_default_in_the_file_is_the_codes():
    told = keys_of_file(SHIPPED)
    del told["colors", "*", "upstreams"]  # an example; the default is none
    defaults = dict(keys_of_code(ROOT))
    for path, value in told.items():
        default = defaults[path]
        assert value == (list(default) if isinstance(default, tuple) else default), dotted(path)
    examples = keys_of_file(WITH_EXAMPLES)
    examples_of_defaults = [
        *[("colors", "*", "release"), ("route", "*", "host"), ("route", "*", "path"), ("token", "*", "role")],
        *[("session_preset", "*", "sticky_host"), ("session_preset", "*", "ended_by")],
        ("session_preset", "*", "ending"),
    ]
    for path in examples_of_defaults:
        assert examples[path] == defaults[path]
    for key in ("policy", "on_rollback", "bind_credentials", "pin_ttl", "max_age"):
        assert (examples["route", "*", key], defaults["route", "*", key]) == (defaults["sessions", key], None)


def test_every_key_has_a_word_beside_or_above_it():
    lines = WITH_EXAMPLES.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line) and not line.startswith("name"):
            comment = line.partition("# ")[2] or any(
                above.startswith("# ") for above in lines[max(0, number - 4) : number]
            )
            assert comment or line == 'upstreams = ["http://127.0.0.1:9102"]', line  # told at the other color


def test_what_a_reload_takes_over_is_marked():
    marked: set[tuple[str, ...]] = set()
    section, above = "", ""
    for line in WITH_EXAMPLES.splitlines():
        if header := re.match(r"\[+(\w+)[.\w]*\]+$", line):
            section = header[1]
            marked |= {(section,)} if "[reload]" in above else set()
        elif key := re.match(r"(\w+) = ", line):
            path = (section, key[1]) if section else (key[1],)
            marked |= {path} if "[reload]" in line or (not section and "[reload]" in above) else set()
        above = above + line if line.startswith("# ") else ""
    keys = {
        (name, key) if name in ("admin", "preview", "sessions") else (name,)
        for name, node in ROOT.keys.items()
        for key in getattr(node, "keys", None) or "x"
    }
    assert marked == keys - NEEDS_RESTART


@pytest.mark.parametrize("name", ["sidecar.toml", "cluster.toml"])
def test_the_examples_load(name, tmp_path, monkeypatch):
    text = (CONFIG / "examples" / name).read_text()
    for number, role in enumerate(("deploy", "dashboard")):
        (tmp_path / role).write_text(f"{number}123456789abcdef0123456789abcdef")
        text = text.replace(f"/run/secrets/bgproxy-{role}", str(tmp_path / role))
    (tmp_path / name).write_text(text)
    assert len(Settings.load(tmp_path / name, None, {}).releases()) == 2


FULL = """
store = "redis://me:hush@h:1/0"
workers = 3
[colors.blue]
upstreams = ["unix:/a b"]
metadata = { "a.b" = 1, note = "tab\\t and \\"quotes\\" and \\u007f", deep = { x = [1, 2.5, true] } }
[[route]]
name = "r.1"
upstreams = { blue = ["http://h:1"] }
sessions = ["acme", "header:X-S"]
policy = "follow"
max_age = 60
[session_preset.acme]
request = "path:/a/{id}/…"
[[token]]
name = "ci"
secret = "0123456789abcdef0123456789abcdef"
[[token]]
name = "ci"
secret = "fedcba9876543210fedcba9876543210"
""".replace("unix:/a b", "unix:/a")


def test_what_is_shown_is_a_file_again(tmp_path):
    (tmp_path / "a.toml").write_text(FULL)
    settings = Settings.load(tmp_path / "a.toml", None, {})
    shown = as_toml(settings)
    again = tomllib.loads(shown)
    tree = as_tree(settings)
    assert again == {key: value for key, value in tree.items() if value not in ([], {})}
    assert again["route"][0]["sessions"] == ["acme", "header:X-S"]
    assert "pin_ttl" not in again["route"][0], "it is left to [sessions]"
    assert again["colors"]["blue"]["metadata"]["note"] == 'tab\t and "quotes" and \x7f'
    assert [token["name"] for token in again["token"]] == ["ci", "ci"]
    assert f"workers = 3  # file {tmp_path}/a.toml" in shown.splitlines()


def test_what_is_shown_has_no_secrets(tmp_path):
    (tmp_path / "a.toml").write_text(FULL)
    settings = Settings.load(tmp_path / "a.toml", None, {})
    for text in (as_toml(settings), str(as_tree(settings))):
        assert "hush" not in text
        assert "0123456789abcdef" not in text
        assert "********" in text
