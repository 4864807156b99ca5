"""The verb drain: what still holds a color that traffic has left, waiting until nothing does, and its deadline."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from bgproxy.cli.asking import path_of, why
from bgproxy.cli.client import Admin, Unreachable
from bgproxy.cli.options import ADMIN, AdminUrl, Color, Json, Reason, Token
from bgproxy.cli.report import REFUSED, clean, print_json, reported
from bgproxy.errors import Refused

INTERVAL = 1.0  # s between two looks; the proxy itself looks as often


def drain(
    color: Color,
    wait: Annotated[bool, typer.Option("--wait", "-w", metavar="", help="Wait until it is drained.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.0, metavar="SECONDS", help="How long to wait at most; then exit 1."),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", min=0.0, metavar="SECONDS", help="From now; then end the sessions still there."),
    ] = None,
    no_deadline: Annotated[bool, typer.Option("--no-deadline", metavar="", help="Cancel the deadline.")] = False,
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Show what still holds COLOR over all nodes: live sessions, requests in flight, streams, WebSockets.

    A color drains by itself once a flip has left it, and nothing is ended by looking. It is drained when no session
    lives on its release and nothing is in flight. With --wait: exit 0 when drained, 1 at the timeout. With --deadline
    each session that still lives there then is ended, in the way of its own protocol.
    """
    _check(wait, timeout, deadline, no_deadline, reason)
    with reported(as_json):
        api = Admin(admin, token)
        if deadline is not None or no_deadline:
            _set(api, color, deadline, reason)
        if not wait:
            _tell(_ask(api, color), as_json)
            return
        document = _wait(api, color, timeout, as_json)
        _tell(document, as_json)
        if not document["drained"]:
            if not as_json:
                typer.echo(clean(f"bgproxy: {color} is not drained after {timeout:g} s"), err=True)
            raise typer.Exit(REFUSED)


def _check(wait: bool, timeout: float | None, deadline: float | None, no_deadline: bool, reason: str) -> None:
    """Raises BadParameter for options that do not go together."""
    if timeout is not None and not wait:
        raise typer.BadParameter("it is how long to wait at most: give --wait too", param_hint="--timeout")
    if deadline is not None and no_deadline:
        raise typer.BadParameter("it cancels what --deadline sets: give one of them", param_hint="--no-deadline")
    if reason and deadline is None and not no_deadline:
        raise typer.BadParameter("looking needs none: it is why there is a --deadline, or none", param_hint="--reason")


def _set(api: Admin, color: str, seconds: float | None, reason: str) -> None:
    """Set or cancel the deadline; where the color is drained already there is nothing left that it could end."""
    if not _ask(api, color)["drained"]:
        api.post(_path(color), {"deadline": seconds, **why(reason)}, expect="drained")


def _wait(api: Admin, color: str, timeout: float | None, as_json: bool) -> dict[str, Any]:
    """The last look. Ends the verb where somebody has waited enough."""
    document: dict[str, Any] = {}
    try:
        if as_json:
            *_, document = looks(api, color, timeout, clock.monotonic, clock.sleep)
            return document
        from bgproxy.cli.drain_screen import Progress

        with Progress() as progress:
            for document in looks(api, color, timeout, clock.monotonic, clock.sleep):
                progress.tell(document)
    except KeyboardInterrupt:
        raise typer.Exit(REFUSED) from None
    return document


def looks(
    api: Admin, color: str, timeout: float | None, now: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[dict[str, Any]]:
    """Each look at the color until it is drained or `timeout` seconds are over, at least one.

    Raises Refused where the color is active: it takes new sessions, so waiting has no end. Once something has answered,
    a proxy that does not (it may be restarted) is asked again, to the end of the time.
    """
    began = now()
    reached = False
    while True:
        left = float("inf") if timeout is None else began + timeout - now()
        try:
            document = _ask(api, color)
        except Unreachable:
            if not reached or left <= 0:
                raise
        else:
            reached = True
            if document.get("active"):
                raise Refused(f"{color} is active and takes new sessions: flip to another color first")
            yield document
            if document["drained"] or left <= 0:
                return
        sleep(max(0.0, min(INTERVAL, left)))


def _ask(api: Admin, color: str) -> dict[str, Any]:
    return api.get(_path(color), expect="drained")


def _path(color: str) -> str:
    return f"{path_of('colors', color)}/drain"


def _tell(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    from bgproxy.cli.drain_screen import show_drain

    show_drain(document)
