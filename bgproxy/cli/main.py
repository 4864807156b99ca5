"""The command line's entry: every verb is registered here, under the name that people type.

Imports stay light: the server, the configuration and the tables are imported by the verbs that need them, so that a
flip takes about as long as Python itself takes to start.
"""

from __future__ import annotations

from typing import Annotated

import typer

from bgproxy import __version__
from bgproxy.cli import (
    audit,
    changes,
    drain,
    events,
    flips,
    look,
    nodes,
    plan,
    recordings,
    release,
    release_report,
    retire,
    serve,
    sessions,
    settings,
    upgrade,
)
from bgproxy.cli.demo import demo

app = typer.Typer(
    name="bgproxy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print the values of variables, tokens among them
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 refused, 2 usage, 3 nothing answers. Example: bgproxy flip green --reason v2",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bgproxy {__version__}")
        raise typer.Exit


@app.callback()
def bgproxy(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Blue-green reverse proxy for AI agents: one pointer, moved in one step, and nothing is lost."""


app.command(
    epilog="Example: bgproxy serve --listen 127.0.0.1:8080 --blue http://127.0.0.1:9101 --green http://127.0.0.1:9102"
)(serve.serve)
app.command(epilog="Example: bgproxy status --json")(look.status)
app.command(epilog="Example: bgproxy stage green --release v2 --upstream http://127.0.0.1:9102")(changes.stage)
app.command(epilog='Example: bgproxy flip green --reason "v2" --if-epoch 7')(changes.flip)
app.command(epilog='Example: bgproxy rollback --reason "v2 answers 500"')(changes.rollback)
app.command(epilog='Example: bgproxy pause --max-hold 20 --reason "schema migration"')(changes.pause)
app.command(epilog="Example: bgproxy resume")(changes.resume)
app.command(
    epilog="Example: bgproxy release green --release v2 --upstream http://127.0.0.1:9102 --plan plan.toml --yes"
)(release.release)
app.command(epilog="Example: bgproxy validate green --plan plan.toml")(release.validate)
app.command(epilog="Example: bgproxy bake --plan plan.toml")(release.bake)
app.command(epilog='Example: bgproxy approve look --reason "read the answers"')(release.approve)
app.command(epilog='Example: bgproxy abort --reason "not today"')(release.abort)
app.command(epilog="Example: bgproxy drain blue --wait --timeout 600 --deadline 300")(drain.drain)
app.command(epilog='Example: bgproxy retire blue --when-drained --reason "v2 is good"')(retire.retire)
app.add_typer(sessions.app, name="sessions")
app.add_typer(nodes.app, name="nodes")
app.command(epilog="Example: bgproxy flips 7 --json")(flips.flips)
app.command(epilog="Example: bgproxy audit --limit 5 --json")(audit.audit)
app.command(epilog="Example: bgproxy report v2 --html v2.html --json v2.json")(release_report.report)
app.command(epilog="Example: bgproxy events --follow --json")(events.events)
app.add_typer(plan.app, name="plan")
app.add_typer(recordings.app, name="recordings")
app.command(epilog="Example: bgproxy upgrade --program /opt/bgproxy-2/bin/bgproxy")(upgrade.upgrade)
app.add_typer(settings.app, name="config")
app.command(epilog="Example: bgproxy demo")(demo)


def main() -> None:
    """The console script."""
    app()
