"""serve's flags as settings, config check and config show, help, and the exit codes of a bad configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from bgproxy import __version__
from bgproxy.cli.main import app
from bgproxy.config import Address, Settings
from bgproxy.errors import StoreUnavailable

GROUPS = {
    "config": ["check", "show"],
    "nodes": ["forget"],
    "plan": ["check"],
    "recordings": ["list", "delete"],
    "sessions": ["list", "show", "move", "forget", "stats"],
}
VERBS = [
    "serve",
    "status",
    "stage",
    "release",
    "retire",
    "report",
    "validate",
    "bake",
    "approve",
    "abort",
    "flip",
    "rollback",
    "pause",
    "resume",
    "drain",
    "flips",
    "audit",
    "events",
    "upgrade",
    "demo",
]


@pytest.fixture
def workers(monkeypatch):
    """A supervisor whose `run` keeps the settings that it was given."""
    module = types.ModuleType("bgproxy.workers.supervisor")
    module.given = []

    def start(settings: Settings) -> int:
        module.given.append(settings)
        if isinstance(module.end, Exception):
            raise module.end
        return module.end

    module.end, module.run = 0, start
    monkeypatch.setitem(sys.modules, "bgproxy.workers.supervisor", module)
    return module


def test_serve_as_the_interface_has_it(run, workers):
    result = run(
        *("serve", "--listen", "127.0.0.1:8080", "--admin", "127.0.0.1:9901", "--active", "green"),
        *("--blue", "http://127.0.0.1:9101", "--blue", "http://127.0.0.1:9111", "--green", "http://127.0.0.1:9102"),
        *("--store", "redis://127.0.0.1:6379/0", "--workers", "4", "--fleet", "eu"),
        *("--access-log", "stdout", "--log-level", "debug", "--listen", "unix:/a"),
    )
    assert (result.exit_code, result.output) == (0, "")
    settings = workers.given[0]
    assert settings.listen == (Address("127.0.0.1", 8080), Address(path="/a"))
    assert settings.admin().listen == "127.0.0.1:9901", "BGPROXY_ADMIN is the client's URL, not the server's address"
    assert (settings.active, settings.workers, settings.fleet) == ("green", 4, "eu")
    assert settings.store().url == "redis://127.0.0.1:6379/0"
    assert settings.releases()["blue"].upstreams == ("http://127.0.0.1:9101", "http://127.0.0.1:9111")
    assert settings.releases()["green"].upstreams == ("http://127.0.0.1:9102",)
    assert (settings.access_log().output, settings.log().level) == ("stdout", "debug")


def test_serve_with_other_colors(run, workers):
    run("serve", "--upstream", "v1=http://a:1", "--upstream", "v1=http://a:2", "--upstream", "v2=unix:/x=y")
    assert workers.given[0].colors() == ("v1", "v2")
    assert workers.given[0].releases()["v2"].upstreams == ("unix:/x=y",)
    assert run("serve", "--upstream", "v1").exit_code == 2


def test_serve_replaces_the_list_of_sessions_by_its_flags(run, workers, tmp_path):
    (tmp_path / "c.toml").write_text('[sessions]\npresets = ["openai"]\npin_ttl = 60\n')
    words = ("serve", "--blue", "http://a:1", "--config", str(tmp_path / "c.toml"))
    run(*words)
    run(*words, "--session", "mcp", "--session", "header:X-Session-Id")
    routes = [settings.proxy().sessions.routes["default"] for settings in workers.given]
    names = [[preset.name for preset in route.presets] for route in routes]
    assert names == [["openai"], ["mcp", "header:X-Session-Id"]]
    assert [route.pin_ttl for route in routes] == [60.0, 60.0]
    refused = run("serve", "--blue", "http://a:1", "--session", "mpc")
    assert refused.exit_code == 2
    assert "sessions.presets: 'mpc' is no preset; did you mean mcp?" in refused.stderr
    assert "(command line)" in refused.stderr


def test_serve_takes_the_file_and_flags_are_stronger(run, workers, tmp_path, monkeypatch):
    (tmp_path / "c.toml").write_text(
        'fleet = "file"\nlisten = "127.0.0.1:1"\n[colors.blue]\nupstreams = "http://a:1"\n'
    )
    monkeypatch.setenv("BGPROXY_CONFIG", str(tmp_path / "c.toml"))
    monkeypatch.setenv("BGPROXY_LISTEN", "127.0.0.1:2")
    run("serve", "--fleet", "flag")
    assert (workers.given[0].fleet, workers.given[0].listen) == ("flag", (Address("127.0.0.1", 2),))


def test_serve_ends_with_what_the_workers_end_with(run, workers):
    workers.end = 1
    assert run("serve", "--blue", "http://a:1").exit_code == 1
    workers.end = StoreUnavailable("the store at redis://h:1 does not answer")
    result = run("serve", "--blue", "http://a:1")
    assert result.exit_code == 1
    assert "the store at redis://h:1 does not answer" in result.stderr


def test_serve_refuses_a_bad_configuration_before_anything_starts(run, workers):
    result = run("serve", "--blue", "http://a:1", "--workers", "2", "--listen", "nowhere")
    assert (result.exit_code, result.stdout, workers.given) == (2, "", [])
    lines = result.stderr.splitlines()
    assert lines[0].startswith('bgproxy: listen: "nowhere": there is no port')
    assert lines[1].startswith("bgproxy: workers: 2 workers cannot share the store memory://")


def test_config_check(run, tmp_path):
    (tmp_path / "c.toml").write_text('[colors.blue]\nupstreams = "http://a:1"\n')
    good = run("config", "check", str(tmp_path / "c.toml"))
    assert (good.exit_code, good.stdout) == (0, f"{tmp_path}/c.toml: good; fleet default, colors blue, green\n")
    assert json.loads(run("config", "check", "--json", "--config", str(tmp_path / "c.toml")).stdout)["ok"] is True
    (tmp_path / "c.toml").write_text("workrs = 1\n")
    bad = run("config", "check", str(tmp_path / "c.toml"))
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "workrs: there is no such key; did you mean workers?" in bad.stderr
    as_json = run("config", "check", "--json", str(tmp_path / "c.toml"))
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["code"] == "config"


@pytest.mark.parametrize("words", [("config", "check"), ("config", "show"), ("recordings", "list")])
def test_whoever_named_no_file_is_told_so(run, tmp_path, words):
    told = "no file was named, so these are the defaults and the environment: name one with --config"
    assert told in run(*words).stderr
    (tmp_path / "c.toml").write_text("workrs = 1\n")
    assert told not in run(*words, "--config", str(tmp_path / "c.toml")).stderr


def test_config_show_masks_secrets(run, tmp_path):
    secret = "0123456789abcdef0123456789abcdef"
    (tmp_path / "c.toml").write_text(f'store = "redis://u:hush@h:1/0"\n[[token]]\nname = "a"\nsecret = "{secret}"\n')
    text = run("config", "show", str(tmp_path / "c.toml")).stdout
    document = json.loads(run("config", "show", "--json", str(tmp_path / "c.toml")).stdout)
    assert tomllib.loads(text)["token"] == document["token"]
    for told in (text, json.dumps(document)):
        assert secret not in told
        assert "hush" not in told


def test_every_verb_has_help_with_an_example(run):
    in_groups = [[group, verb] for group, verbs in GROUPS.items() for verb in verbs]
    for words in [[verb] for verb in VERBS] + in_groups + [["sessions"], []]:
        result = run(*words, "--help")
        assert result.exit_code == 0
        assert "Example: bgproxy" in " ".join(result.stdout.split()), words


def all_verbs() -> Iterator[Any]:
    root = get_command(app)
    for command in root.commands.values():
        yield command
        yield from getattr(command, "commands", {}).values()


def test_help_is_wrapped_where_it_is_shown_and_nowhere_else():
    for command in all_verbs():
        assert all("\n" not in paragraph for paragraph in command.help.split("\n\n")), command.name


def test_every_option_says_what_it_takes_and_a_flag_takes_nothing():
    for command in all_verbs():
        for option in command.params:
            assert option.metavar is not None, (command.name, option.name)
            assert "[" not in option.metavar, "the usage puts brackets around what may be left out"
            if option.param_type_name == "option":
                assert (option.metavar == "") == option.is_flag, (command.name, option.name)


def test_every_verb_stands_among_its_kind(run):
    assert "─ Commands ─" not in run("--help").stdout
    assert "─ Moving traffic ─" in run("--help").stdout


def test_the_verbs_that_there_are():
    assert set(get_command(app).commands) == {*VERBS, *GROUPS}
    for group, verbs in GROUPS.items():
        assert set(get_command(app).commands[group].commands) == set(verbs)


def test_usage_errors_end_with_2(run):
    for words in (
        ["flp"],
        ["flip"],
        ["flip", "green", "--if-epoch", "x"],
        ["stage", "release", "validate", "approve", "abort", "green"],
        ["flip", "a", "b"],
    ):
        assert run(*words).exit_code == 2, words


def test_the_version(run):
    assert run("--version").stdout == f"bgproxy {__version__}\n"


def test_the_client_verbs_import_no_server():
    """What makes `bgproxy flip` start slowly must not creep in."""
    heavy = (
        "aiohttp",
        "redis",
        "uvloop",
        "pydantic_settings",
        "rich.table",
        "bgproxy.config",
        "bgproxy.workers.supervisor",
        "mcp",
    )
    code = "import sys, bgproxy.cli.main; print([name for name in sys.argv[1:] if name in sys.modules])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_module_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "bgproxy", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"bgproxy {__version__}\n"
