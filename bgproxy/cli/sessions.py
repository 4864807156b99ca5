"""The verbs sessions list, show, move, forget and stats: where conversations live, and a hand on single ones."""

from __future__ import annotations

from typing import Annotated

import typer

from bgproxy.cli.asking import path_of, why
from bgproxy.cli.client import Admin
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Reason, Token
from bgproxy.cli.report import clean, print_json, reported
from bgproxy.cli.verbs import verb

app = typer.Typer(
    no_args_is_help=True,
    help="See where sessions live; move or forget single ones. A session is named by 32 hex digits, a digest: "
    "the raw id that a client sent is never stored, so nobody can look a session up by it.",
    epilog="Example: bgproxy sessions list --color blue",
)

Id = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="32 hex digits, as `sessions list` shows.")]


@verb(app, "bgproxy sessions list --color blue --limit 20", name="list")
def list_(
    color: Annotated[
        str, typer.Option("--color", metavar="COLOR", show_default=False, help="Only those that live on it.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="About how many.")] = 100,
    cursor: Annotated[
        str, typer.Option("--cursor", metavar="CURSOR", show_default=False, help="What the page before ended with.")
    ] = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """List live sessions, a page at a time, in no order. A page may be empty before the end."""
    with reported(as_json):
        query = {"limit": limit, **({"color": color} if color else {}), **({"cursor": cursor} if cursor else {})}
        document = Admin(admin, token).get("/v1/sessions", expect="sessions", **query)
        if as_json:
            print_json(document)
            return
        from bgproxy.cli.session_screen import show_sessions

        show_sessions(document, f" --color {color}" if color else "")


@verb(app, "bgproxy sessions show 9f86d081884c7d659a2feaa0c55ad015")
def show(session: Id, admin: AdminUrl = ADMIN, token: Token = "", as_json: Json = False) -> None:
    """Show one session: where it lives, since when, until when."""
    with reported(as_json):
        document = Admin(admin, token).get(path_of("sessions", session), expect="release")
        if as_json:
            print_json(document)
            return
        from bgproxy.cli.session_screen import show_session

        show_session(document)


@verb(app, 'bgproxy sessions move 9f86d081884c7d659a2feaa0c55ad015 green --reason "try v2"')
def move(
    session: Id,
    color: Annotated[str, typer.Argument(metavar="COLOR", show_default=False, help="Where it is to live.")],
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Move a session to the release on COLOR: at once, or when what is under way of it has finished where it is.

    What the agent holds of it in memory does not move with it.
    """
    with reported(as_json):
        asked = {"to": color, **why(reason)}
        answer = Admin(admin, token).post(f"{path_of('sessions', session)}/move", asked, expect="moved")
        if as_json:
            print_json(answer)
        else:
            place = answer.get("goal") or answer
            does = (
                "lives on"
                if answer["moved"]
                else "moves at its next turn (one is under way, or a worker has yet to hear of it): to"
            )
            known = "" if answer["changed"] else "; nothing changed"
            typer.echo(clean(f"{answer.get('id')} {does} {place.get('color')}, release {place.get('release')}{known}"))


@verb(app, 'bgproxy sessions forget 9f86d081884c7d659a2feaa0c55ad015 --reason "stuck"')
def forget(session: Id, reason: Reason = "", admin: AdminUrl = ADMIN, token: Token = "", as_json: Json = False) -> None:
    """Forget a session: its next request begins a new one, on the active color. Nothing under way is touched."""
    with reported(as_json):
        answer = Admin(admin, token).delete(path_of("sessions", session), expect="forgotten", **why(reason))
        if as_json:
            print_json(answer)
        else:
            place = f"{answer.get('color')}, release {answer.get('release')}"
            typer.echo(clean(f"{answer.get('id')} is forgotten; it lived on {place}"))


@verb(app, "bgproxy sessions stats --json")
def stats(admin: AdminUrl = ADMIN, token: Token = "", as_json: Json = False) -> None:
    """Count the live sessions of each release, and tell what the workers of this host have counted of them."""
    with reported(as_json):
        document = Admin(admin, token).get("/v1/sessions/stats", expect="releases")
        if as_json:
            print_json(document)
            return
        from bgproxy.cli.session_screen import show_stats

        show_stats(document)
