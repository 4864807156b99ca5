"""The verbs nodes and nodes forget: the processes that serve a fleet, and those that never will again."""

from __future__ import annotations

from typing import Annotated

import typer

from bgproxy.cli.asking import path_of, why
from bgproxy.cli.client import Admin
from bgproxy.cli.options import ADMIN, AdminUrl, Force, Json, Reason, Token
from bgproxy.cli.report import clean, print_json, reported
from bgproxy.cli.verbs import verb

app = typer.Typer(epilog="Example: bgproxy nodes --json")


@app.callback(invoke_without_command=True)
def nodes(context: typer.Context, admin: AdminUrl = ADMIN, token: Token = "", as_json: Json = False) -> None:
    """List the nodes: live, finishing (as at an upgrade), or silent (not heard for node_ttl): flips wait for all."""
    if context.invoked_subcommand is not None:
        _nothing_before(context)
        return
    with reported(as_json):
        document = Admin(admin, token).get("/v1/nodes", expect="nodes")
        if as_json:
            print_json(document)
            return
        from bgproxy.cli.screen import show_nodes

        show_nodes(document)


@verb(app, 'bgproxy nodes forget web-3-4711-9f86 --reason "host was replaced"')
def forget(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE", help="Their ids, as `nodes` shows them.")],
    reason: Reason = "",
    force: Force = False,
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Forget nodes that are gone for good: flips and drains wait for them no more. It is on record.

    Where such a process lives after all it joins anew, and may have answered by an old pointer until then. Of several
    each is forgotten by itself, and the first that is refused is the last that is asked for.
    """
    with reported(as_json):
        query = {**why(reason), **({"force": "true"} if force else {})}
        for node in dict.fromkeys(nodes):
            answer = Admin(admin, token).delete(path_of("nodes", node), expect="forgotten", **query)
            if as_json:
                print_json(answer)
            else:
                typer.echo(clean(f"{answer.get('id')} is forgotten; it was last heard {answer.get('age'):.0f} s ago"))


def _nothing_before(context: typer.Context) -> None:
    """An option that stands before a verb would count for nothing."""
    for name in ("admin", "token", "as_json"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"write options behind {context.invoked_subcommand}", context)
