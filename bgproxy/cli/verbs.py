"""How a verb comes to its name: with an example, and with a help text that is wrapped only where it is shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer

Verb = TypeVar("Verb", bound=Callable[..., Any])


def verb(
    app: typer.Typer, example: str, *, name: str | None = None, panel: str | None = None
) -> Callable[[Verb], Verb]:
    """Registers a function as a verb of `app`. Its docstring is the help, `panel` where it stands among the others."""

    def register(function: Verb) -> Verb:
        app.command(name, help=_help(function), epilog=f"Example: {example}", rich_help_panel=panel)(function)
        return function

    return register


def _help(function: Callable[..., Any]) -> str:
    """The docstring, a line per paragraph: Typer shows every line break behind the first paragraph as it stands."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
