"""The verbs config check and config show: whether a configuration can be used, and what it comes to."""

from __future__ import annotations

from typing import Annotated

import typer

from bgproxy.cli.options import ConfigFile, Json
from bgproxy.cli.report import print_json, reported
from bgproxy.cli.verbs import verb

app = typer.Typer(no_args_is_help=True, help="Check or show the configuration: file, environment and defaults.")

File = Annotated[str | None, typer.Argument(metavar="FILE", show_default=False, help="The same as --config.")]


@verb(app, "bgproxy config check config/bgproxy.toml")
def check(file: File = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Say whether a configuration can be used; every fault is named with its key and the remedy."""
    with reported(as_json):
        from bgproxy.config import Settings

        settings = Settings.load(file or config)
        if as_json:
            print_json({"ok": True, "file": settings.path, "fleet": settings.fleet, "colors": list(settings.colors())})
        else:
            where = settings.path or "defaults and environment"
            typer.echo(f"{where}: good; fleet {settings.fleet}, colors {', '.join(settings.colors())}")


@verb(app, "bgproxy config show --config config/bgproxy.toml")
def show(file: File = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print every key with the value that holds and where it came from; secrets are masked."""
    with reported(as_json):
        from bgproxy.config import Settings
        from bgproxy.config.showing import as_toml, as_tree

        settings = Settings.load(file or config)
        if as_json:
            print_json(as_tree(settings))
        else:
            typer.echo(as_toml(settings), nl=False)
