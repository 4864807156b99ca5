"""A release's steps: on a terminal a picture of all of them, elsewhere a line for each one that is done."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bgproxy.cli.report import clean, print_line
from bgproxy.cli.screen import color_style

Told = Callable[[Mapping[str, Any]], None]

_STYLES = {"pass": "green", "fail": "bold red", "undecided": "yellow"}


@contextmanager
def progress(as_json: bool) -> Iterator[Told]:
    """What each look is told to; on stdout, so that the last line of it is the end."""
    console = Console(highlight=False)
    if as_json:
        yield Lines(lambda step, document: print_line({"run": document.get("id"), **step})).tell
    elif not console.is_terminal:
        yield Lines(lambda step, _: typer.echo(line(step)), waiting=True).tell
    else:
        with Live(console=console, refresh_per_second=8) as live:
            yield lambda document: live.update(picture(document))


class Lines:
    """Each step once, when it is done; and what somebody has to do."""

    def __init__(self, tell: Callable[[Mapping[str, Any], Mapping[str, Any]], None], *, waiting: bool = False) -> None:
        self._tell = tell
        self._waiting = waiting
        self._told: set[str] = set()

    def tell(self, document: Mapping[str, Any]) -> None:
        """A look at the run."""
        for step in document.get("steps", ()):
            name = str(step.get("name"))
            if step.get("verdict") and name not in self._told:
                self._told.add(name)
                self._tell(step, document)
        gate = document.get("waits_for")
        if self._waiting and gate and f"? {gate}" not in self._told:
            self._told.add(f"? {gate}")
            typer.echo(clean(waiting(document)))


def line(step: Mapping[str, Any]) -> str:
    """A step that is done."""
    took = step.get("took") or 0.0
    return clean(f"{step.get('verdict'):<9} {step.get('name')} ({took:.1f} s): {step.get('why')}")


def waiting(document: Mapping[str, Any]) -> str:
    """What somebody has to do."""
    text = document.get("waits_text")
    return f"waiting: bgproxy approve {document.get('waits_for')}" + (f"  ({text})" if text else "")


def picture(document: Mapping[str, Any]) -> Group:
    """All steps, the one that is under way with a sign of life."""
    color = str(document.get("color"))
    title = Text.assemble(
        clean(f"{document.get('id')}  {document.get('release')} on "), Text(clean(color), style=color_style(color))
    )
    rows = Table.grid(padding=(0, 1))
    for step in document.get("steps", ()):
        verdict, name = step.get("verdict"), str(step.get("name"))
        under_way = document.get("open") and name == document.get("step")
        sign: Text | Spinner = (
            Spinner("dots") if under_way else Text(clean(verdict or ""), style=_STYLES.get(verdict, ""))
        )
        took = f"{step['took']:.1f} s" if step.get("took") is not None else _since(document) if under_way else ""
        rows.add_row(sign, clean(name), clean(took), Text(clean(step.get("why") or ""), overflow="fold"))
    waits = document.get("waits_for")
    more = [Text(clean(waiting(document)), style="yellow")] if waits else []
    return Group(title, rows, *more)


def _since(document: Mapping[str, Any]) -> str:
    """How long the step has been under way, by this host's clock."""
    at = document.get("at")
    return f"{max(0.0, clock.time() - at):.0f} s" if isinstance(at, int | float) else ""
