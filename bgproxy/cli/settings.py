"""The verbs config check and config show: whether a configuration can be used, and what it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bgproxy.cli.options import ConfigFile, Json
from bgproxy.cli.report import print_json, reported
from bgproxy.cli.verbs import verb
from bgproxy.errors import ConfigError

if TYPE_CHECKING:
    from bgproxy.config import Settings

app = typer.Typer(no_args_is_help=True, help="Check or show the configuration: file, environment and defaults.")

File = Annotated[str | None, typer.Argument(metavar="FILE", show_default=False, help="The same as --config.")]


@verb(app, "bgproxy config check config/bgproxy.toml")
def check(file: File = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Say whether a configuration can be used; every fault is named with its key and the remedy."""
    with reported(as_json):
        settings = loaded(file or config)
        if as_json:
            print_json({"ok": True, "file": settings.path, "fleet": settings.fleet, "colors": list(settings.colors())})
        else:
            where = settings.path or "defaults and environment"
            typer.echo(f"{where}: good; fleet {settings.fleet}, colors {', '.join(settings.colors())}")


@verb(app, "bgproxy config show --config config/bgproxy.toml")
def show(file: File = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print every key with the value that holds and where it came from; secrets are masked."""
    with reported(as_json):
        from bgproxy.config.showing import as_toml, as_tree

        settings = loaded(file or config)
        if as_json:
            print_json(as_tree(settings))
        else:
            typer.echo(as_toml(settings), nl=False)


def loaded(file: str | None) -> Settings:
    """What file, environment and defaults come to. Raises ConfigError; one without a file says that none was named."""
    from bgproxy.config import Settings

    try:
        return Settings.load(file)
    except ConfigError as error:
        if file is not None:
            raise
        raise ConfigError(
            f"{error}\nno file was named, so these are the defaults and the environment: name one with --config or "
            "BGPROXY_CONFIG"
        ) from None
