"""The verb retire: a drained release is taken down, and what that frees goes on record."""

from __future__ import annotations

import sys
import time as clock
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from bgproxy.cli.asking import path_of, why
from bgproxy.cli.client import Admin
from bgproxy.cli.following import answers
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Reason, Token
from bgproxy.cli.report import REFUSED, clean, print_json, reported
from bgproxy.errors import Refused

_LEFT = ("standby", "drained")


def retire(
    color: Annotated[
        str, typer.Argument(metavar="COLOR", show_default=False, help="By default the one that traffic has left.")
    ] = "",
    when_drained: Annotated[
        bool,
        typer.Option(
            "--when-drained", metavar="", help="Order it for when it is drained and the rollback window is over."
        ),
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", metavar="", help="Take such an order back.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", metavar="", help="Do not wait for the window, and end the sessions there; on record."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", metavar="", help="Do not ask; nobody is but at a terminal, and not with --json."),
    ] = False,
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Take down the release on COLOR, drained and past its rollback window: the hook runs that scales it to zero.

    After that there is no rollback to it. Exit 0 once it is retired, or ordered with --when-drained; 1 where it is
    refused, or the hook fails: then it stays drained.
    """
    if cancel and (when_drained or force):
        raise typer.BadParameter("it takes an order back: give it alone", param_hint="--cancel")
    with reported(as_json):
        api = Admin(admin, token)
        name = color or _left(api)
        standing = api.get(path_of("colors", name), expect="phase")
        if not cancel:
            _agree(standing, yes or as_json)
        asked = why(reason) | {key: True for key, wanted in _wanted(when_drained, cancel, force).items() if wanted}
        document = api.post(f"{path_of('colors', name)}/retire", asked, expect="phase")
        if not (when_drained or cancel):
            document = _follow(api, name, document, clock.monotonic, clock.sleep)
        if as_json:
            print_json(document)
        else:
            typer.echo(clean(_said(api, document)))


def _wanted(when_drained: bool, cancel: bool, force: bool) -> dict[str, bool]:
    return {"when_drained": when_drained, "cancel": cancel, "force": force}


def _left(api: Admin) -> str:
    """The color that traffic has left. Raises `Refused` where there is none, or more than one."""
    found = [one for one in api.get("/v1/colors", expect="colors")["colors"] if one.get("phase") in _LEFT]
    if len(found) != 1:
        names = ", ".join(f"{one['color']} ({one['release']}, {one['phase']})" for one in found) or "none"
        raise Refused(f"which color is not clear, traffic has left {names}: name it, as in `bgproxy retire blue`")
    return str(found[0]["color"])


def _agree(standing: Mapping[str, Any], yes: bool) -> None:
    """Say what there is no way back from, and ask, where there is somebody to ask."""
    if yes or standing.get("phase") not in _LEFT:
        return
    what = f"{standing.get('release')} on {standing.get('color')}"
    said = standing.get("after_this") or "after that there is no rollback to it"
    typer.echo(clean(f"{what} is to be taken down; {said}"), err=True)
    if sys.stdin.isatty() and not typer.confirm("Go on?"):
        raise typer.Exit(REFUSED)


def _follow(
    api: Admin, name: str, first: dict[str, Any], now: Callable[[], float], sleep: Callable[[float], None]
) -> dict[str, Any]:
    """To what comes of it. Raises `Refused` where it fails, or is taken back."""
    label = first.get("release")
    try:
        for document in answers(first, lambda: api.get(path_of("colors", name), expect="phase"), now, sleep):
            order = document.get("retirement")
            if order is None or order["tries"]:
                break
    except KeyboardInterrupt:
        typer.echo("bgproxy: it goes on without you: `bgproxy status` tells how far it is", err=True)
        raise typer.Exit(REFUSED) from None
    if order is not None:
        later = f"; it is tried again, {order['tries']} failed so far" if order["again"] else ""
        what = "is retired, but its successor's contract step was not done" if order["contract"] else "stays drained"
        raise Refused(f"{label} on {name} {what}: {order['why']}{later}")
    if document.get("release") != label or document.get("phase") != "retired":
        what = f"{document.get('release')}, {document.get('phase')}"
        raise Refused(f"{label} on {name} was not retired: the order is void, {name} holds {what} by now")
    return document


def _said(api: Admin, document: Mapping[str, Any]) -> str:
    what = f"{document.get('release')} on {document.get('color')}"
    if document.get("phase") == "retired":
        return f"{what} is retired{_freed(api, document)}"
    if document.get("retirement") is None:
        return f"{what} stays, nothing is ordered"
    return f"{what} is retired once it is drained and the rollback window is over; --cancel takes that back"


def _freed(api: Admin, document: Mapping[str, Any]) -> str:
    """What its retirement says on record."""
    for entry in api.get("/v1/audit", expect="entries", limit=50)["entries"]:
        facts = entry.get("facts", {})
        if entry.get("verb") == "retire" and facts.get("color") == document.get("color") and "freed" in facts:
            freed = facts["freed"]
            return f": {freed.get('replicas')} replicas freed, {freed.get('replica_hours'):g} replica-hours run double"
    return ""
