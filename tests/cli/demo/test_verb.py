"""The verb itself: what it says where it cannot run."""

from __future__ import annotations

import importlib.util

import pytest
import typer
from typer.testing import CliRunner

from bgproxy.cli.demo import demo


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(demo)
    return made


def test_without_the_extra_it_says_how_to_get_it(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {"mcp", "openai"} else object())
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "mcp, openai" in result.stderr
    assert "pip install 'bgproxy[demo]'" in result.stderr


@pytest.mark.parametrize("wrong", [["--flips", "0"], ["--seconds", "0"], ["--clients", "0"], ["--workers", "0"]])
def test_a_figure_that_makes_no_demo_is_a_usage_error(app: typer.Typer, wrong: list[str]) -> None:
    result = CliRunner().invoke(app, wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.stderr
