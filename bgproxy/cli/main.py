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
from bgproxy.cli.verbs import verb

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
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Blue-green reverse proxy for AI agents: one pointer, moved in one step, and nothing is lost."""


SERVING, MOVING, RELEASING, LOOKING = "Serving", "Moving traffic", "Bringing a release out by a plan", "Looking"

verb(
    app,
    "bgproxy serve --listen 127.0.0.1:8080 --blue http://127.0.0.1:9101 --green http://127.0.0.1:9102",
    panel=SERVING,
)(serve.serve)
verb(app, "bgproxy upgrade --program /opt/bgproxy-2/bin/bgproxy", panel=SERVING)(upgrade.upgrade)
verb(app, "bgproxy demo --flips 20 --seconds 30", panel=SERVING)(demo)
app.add_typer(settings.app, name="config", rich_help_panel=SERVING)

verb(app, "bgproxy stage green --release v2 --upstream http://127.0.0.1:9102", panel=MOVING)(changes.stage)
verb(app, 'bgproxy flip green --reason "v2" --if-epoch 7', panel=MOVING)(changes.flip)
verb(app, 'bgproxy rollback --reason "v2 answers 500"', panel=MOVING)(changes.rollback)
verb(app, 'bgproxy pause --max-hold 20 --reason "schema migration"', panel=MOVING)(changes.pause)
verb(app, "bgproxy resume", panel=MOVING)(changes.resume)
verb(app, "bgproxy drain blue --wait --timeout 600 --deadline 300", panel=MOVING)(drain.drain)
verb(app, 'bgproxy retire blue --when-drained --reason "v2 is good"', panel=MOVING)(retire.retire)

verb(
    app,
    "bgproxy release green --release v2 --upstream http://127.0.0.1:9102 --plan plan.toml --yes",
    panel=RELEASING,
)(release.release)
verb(app, "bgproxy validate green --plan plan.toml", panel=RELEASING)(release.validate)
verb(app, "bgproxy bake --plan plan.toml", panel=RELEASING)(release.bake)
verb(app, 'bgproxy approve look --reason "read the answers"', panel=RELEASING)(release.approve)
verb(app, 'bgproxy abort --reason "not today"', panel=RELEASING)(release.abort)
app.add_typer(plan.app, name="plan", rich_help_panel=RELEASING)
app.add_typer(recordings.app, name="recordings", rich_help_panel=RELEASING)

verb(app, "bgproxy status --json", panel=LOOKING)(look.status)
verb(app, "bgproxy events --follow --json", panel=LOOKING)(events.events)
verb(app, "bgproxy flips 7 --json", panel=LOOKING)(flips.flips)
verb(app, "bgproxy audit --limit 5 --json", panel=LOOKING)(audit.audit)
verb(app, "bgproxy report v2 --html v2.html --json v2.json", panel=LOOKING)(release_report.report)
app.add_typer(sessions.app, name="sessions", rich_help_panel=LOOKING)
app.add_typer(nodes.app, name="nodes", rich_help_panel=LOOKING)


def main() -> None:
    """The console script."""
    app()
