"""The verb drain: what still holds a color that traffic has left, and waiting until nothing does."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer

from bgproxy.cli.changes import Color
from bgproxy.cli.client import Admin, Unreachable
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Token
from bgproxy.cli.report import REFUSED, clean, print_json, reported
from bgproxy.errors import Refused

INTERVAL = 1.0  # s between two looks; the proxy itself looks as often


def drain(
    color: Color,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until it is drained.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.0, metavar="S", help="Seconds to wait at most; then exit 1.")
    ] = None,
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Show what still holds COLOR over all nodes: live sessions, requests in flight, streams, WebSockets.

    A color drains by itself once a flip has left it, and nothing is ended by looking. It is drained when no session
    lives on its release and nothing is in flight. With --wait: exit 0 when drained, 1 at the timeout.
    """
    if timeout is not None and not wait:
        raise typer.BadParameter("it is how long to wait at most: give --wait too", param_hint="--timeout")
    with reported(as_json):
        api = Admin(admin, token)
        if not wait:
            _tell(_ask(api, color), as_json)
            return
        document: dict[str, Any] = {}
        told = ""
        try:
            for document in looks(api, color, timeout, clock.monotonic, clock.sleep):
                if not as_json and (line := _progress(document)) != told:
                    typer.echo(told := line, err=True)
        except KeyboardInterrupt:  # enough waited
            raise typer.Exit(REFUSED) from None
        _tell(document, as_json)
        if not document["drained"]:
            if not as_json:
                typer.echo(clean(f"bgproxy: {color} is not drained after {timeout:g} s"), err=True)
            raise typer.Exit(REFUSED)


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
    return api.get(f"/v1/colors/{quote(color, safe='')}/drain", expect="drained")


def _progress(document: dict[str, Any]) -> str:
    sessions = document.get("sessions")
    parts = [f"sessions {'?' if sessions is None else sessions}", f"in flight {document.get('in_flight', 0)}"]
    return clean(f"{document.get('color')}: {', '.join(parts)}")


def _tell(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    from bgproxy.cli.session_screen import show_drain

    show_drain(document)
