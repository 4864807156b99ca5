"""The verb status: everything at one look."""

from __future__ import annotations

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
