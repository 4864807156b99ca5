"""What people are told to type can be typed: the examples in the help, and the commands in the README."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from bgproxy.admin.routes import ROUTES
from bgproxy.cli.main import app
from bgproxy.config.plan import plan_from
from tests.store.rights import documented

README = (Path(__file__).parents[2] / "README.md").read_text()
ROOT: Any = get_command(app)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def typed() -> Iterator[str]:
    """Every call of bgproxy in the README's blocks, without what the shell does about it."""
    for line in "".join(blocks("sh")).replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|&$", re.sub(r"\s#.*", "", line)):
            if part.strip().startswith("bgproxy "):
                yield part.strip()


def examples() -> Iterator[str]:
    for command in ROOT.commands.values():
        for one in (command, *getattr(command, "commands", {}).values()):
            if one.epilog:
                yield one.epilog.removeprefix("Example: ")


def taken(line: str) -> str:
    """The verb's name, once all of the line was understood; nothing is run."""
    _, first, *words = shlex.split(line)
    command = ROOT.commands[first]
    name = first
    if words and words[0] in getattr(command, "commands", {}):
        name, command = f"{first} {words[0]}", command.commands[words.pop(0)]
    command.make_context(name, words)
    return name


@pytest.mark.parametrize("line", [*dict.fromkeys([*typed(), *examples()])])
def test_it_can_be_typed(line):
    assert taken(line)


def test_the_readme_knows_every_verb():
    verbs = {name for name, command in ROOT.commands.items() if not hasattr(command, "commands")}
    verbs |= {f"{group} {verb}" for group in ROOT.commands for verb in getattr(ROOT.commands[group], "commands", {})}
    assert [verb for verb in sorted(verbs) if f"bgproxy {verb}" not in README] == []


def test_the_readme_knows_every_path_of_the_admin_api():
    assert [route.path for route in ROUTES if f"{route.path}`" not in README] == []


def test_the_readme_s_users_of_redis_have_the_rights_that_are_documented():
    told = [line for line in "".join(blocks("sh")).replace("\\\n", " ").splitlines() if "ACL SETUSER" in line]
    server, sentinel = (line.partition(" reset on '>PASSWORD' resetchannels ")[2] for line in told)
    server, _, cluster = server.partition("# in a Cluster also:")
    assert shlex.split(server) == [right.replace("FLEET", "default") for right in documented()]
    assert shlex.split(cluster) == documented("in a Cluster also")
    assert shlex.split(sentinel) == documented("a user of the sentinels")


@pytest.mark.parametrize("block", blocks("toml"))
def test_the_readme_s_plans_are_good(block):
    assert plan_from(tomllib.loads(block)).lines()
