"""The verbs that only look: status and audit."""

from __future__ import annotations

from typing import Annotated

import typer

from bgproxy.cli.client import Admin
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Token
from bgproxy.cli.report import print_json, reported


def status(admin: AdminUrl = ADMIN, token: Token = "", as_json: Json = False) -> None:
    """Show which color is active, what each holds, how its upstreams do, the nodes and the store."""
    with reported(as_json):
        document = Admin(admin, token).get("/v1/status", expect="colors")
        if as_json:
            print_json(document)
            return
        from bgproxy.cli.screen import show_status

        show_status(document)


def audit(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Entries at most, newest first.")] = 20,
    before: Annotated[str, typer.Option("--before", show_default=False, help="An entry's id: only older ones.")] = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Show who changed what, when and why; the newest first."""
    with reported(as_json):
        query = {"limit": limit, **({"before": before} if before else {})}
        document = Admin(admin, token).get("/v1/audit", expect="entries", **query)
        if as_json:
            print_json(document)
            return
        from bgproxy.cli.screen import show_audit

        show_audit(document)
