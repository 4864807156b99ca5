"""The options that the verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from bgproxy.cli.client import DEFAULT_ADMIN

AdminUrl = Annotated[
    str,
    typer.Option(
        "--admin", envvar="BGPROXY_ADMIN", metavar="URL", help="The admin API: http://host:port or unix:/path."
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="BGPROXY_TOKEN",
        metavar="TOKEN",
        show_default=False,
        help="Its bearer token; better in the variable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, failures included.")]
Color = Annotated[str, typer.Argument(metavar="COLOR", show_default=False, help="The color's name, such as green.")]
Upstreams = Annotated[
    list[str] | None, typer.Option("--upstream", metavar="URL", help="http://host:port or unix:/path; may repeat.")
]
RouteUpstreams = Annotated[
    list[str] | None,
    typer.Option("--route-upstream", metavar="ROUTE=URL", help="An upstream of one route only; may repeat."),
]
Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="A fact to keep with it; may repeat.")
]
Reason = Annotated[
    str, typer.Option("--reason", "-r", metavar="TEXT", show_default=False, help="Why, for the audit record.")
]
IfEpoch = Annotated[
    int | None,
    typer.Option("--if-epoch", min=0, metavar="EPOCH", help="Refuse unless the pointer's epoch is this one."),
]
Force = Annotated[bool, typer.Option("--force", metavar="", help="Overrule what can be overruled; it is on record.")]
Strategy = Annotated[
    str,
    typer.Option(
        "--strategy",
        metavar="HOW",
        show_default=False,
        help="barrier, swap or auto, in place of the configured one.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="NODE", help="Leave this node behind: it is not waited for; may repeat."),
]
IdempotencyKey = Annotated[
    str,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        show_default=False,
        help="A name for this change: asked again under it within 24 hours, it is done once and told twice.",
    ),
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", "-c", envvar="BGPROXY_CONFIG", metavar="FILE", help="A TOML file.")
]

ADMIN = DEFAULT_ADMIN
