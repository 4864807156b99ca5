"""`bgproxy demo`: the main job on real input. Two releases of an agent, official clients, flips under their load.

This file is the verb alone. What it runs needs the `demo` extra, so it is imported only once the verb is called.
"""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

_NEEDED = ("mcp", "openai", "uvicorn", "websockets")


def demo(
    flips: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many flips to make under the load; a rollback follows.")
    ] = 10,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="How long the clients begin new questions.")
    ] = 20,
    clients: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="How many clients of each kind.")] = 4,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON document instead of the tables.")
    ] = False,
    store: Annotated[str, typer.Option(metavar="URL", help="memory:// or redis://host:port/db")] = "memory://",
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Proxy workers; more than one needs a shared store.")
    ] = 1,
) -> None:
    """Run two versions of a real agent behind the proxy, flip under the load of real clients, and count what was lost.

    Exit 1 if anything was.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        what = ", ".join(missing)
        typer.echo(
            f"The demo needs {what}. Get it: pip install 'bgproxy[demo]', or `make setup` in a checkout.", err=True
        )
        raise typer.Exit(2)
    from bgproxy.cli.demo.perform import perform
    from bgproxy.cli.demo.run import Plan

    raise typer.Exit(perform(Plan(flips, seconds, clients, store, workers), as_json=as_json))
