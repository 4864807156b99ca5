"""The verb plan check: whether a release's plan can be used, and what it comes to; nothing is asked but the file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bgproxy.cli.options import Json
from bgproxy.cli.report import clean, print_json, reported
from bgproxy.cli.verbs import verb

app = typer.Typer(no_args_is_help=True, help="Look at a release's plan, without a proxy.")


@app.callback()
def plan() -> None:
    """Look at a release's plan, without a proxy."""


@verb(app, "bgproxy plan check plan.toml")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A plan in TOML.")],
    as_json: Json = False,
) -> None:
    """Say whether a plan can be used; every fault is named with its key and the remedy. Then what it does, in order."""
    with reported(as_json):
        from bgproxy.config.plan import load_plan

        _, plan = load_plan(file)
        if as_json:
            print_json({"ok": True, "file": str(file), "plan": asdict(plan)})
            return
        typer.echo(clean(f"{file}: good"))
        for number, line in enumerate(plan.lines(), start=1):
            typer.echo(clean(f"  {number}. {line}"))
