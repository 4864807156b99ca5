"""The verb flips: what became of the sessions of each flip."""

from __future__ import annotations

from typing import Annotated

import typer

from bgproxy.cli.client import Admin
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Token
from bgproxy.cli.report import print_json, reported


def flips(
    epoch: Annotated[
        int | None, typer.Argument(metavar="EPOCH", min=0, show_default=False, help="Only the flip to this epoch.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="Epochs at most, newest first.")
    ] = 20,
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Show what became of the sessions that each flip left: kept, moved, ended by a deadline, lost; and turns cut."""
    with reported(as_json):
        api = Admin(admin, token)
        if epoch is None:
            document = api.get("/v1/flips", expect="flips", limit=limit)
        else:
            document = api.get(f"/v1/flips/{epoch}", expect="kept")
        if as_json:
            print_json(document)
            return
        from bgproxy.cli.screen import show_flips

        show_flips(document["flips"] if epoch is None else [document])
