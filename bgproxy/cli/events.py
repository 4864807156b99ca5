"""The verb events: changes as lines, one per event, for as long as somebody wants to follow them."""

from __future__ import annotations

import json
import time as clock
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import typer

from bgproxy.cli.client import Admin, Unreachable
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Token
from bgproxy.cli.report import clean, reported

SILENCE_TIMEOUT = 45.0  # s; three of the server's heartbeats: without one the line is dead, though nobody closed it
FIRST_RETRY, LAST_RETRY = 0.25, 5.0  # s between two tries, doubling


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event (WHATWG HTML §9.2)."""

    name: str
    id: str
    data: Any


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", metavar="", help="Go on with changes as they happen.")
    ] = False,
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Print the pointer and each color's release as they stand, and with --follow every change, one line each."""
    with reported(as_json):
        api = Admin(admin, token)
        told = tell_json if as_json else tell_line
        if follow:
            found = followed(api, clock.sleep)
        else:
            standing = 1 + len(api.get("/v1/colors", expect="colors")["colors"])  # the pointer, then each color
            found = islice(parse(api.stream("/v1/events", SILENCE_TIMEOUT)), standing)
        try:
            for event in found:
                typer.echo(told(event))
        except KeyboardInterrupt:  # how following ends
            raise typer.Exit from None


def followed(api: Admin, sleep: Callable[[float], None]) -> Iterator[Event]:
    """Events from now on, over broken connections. Raises Unreachable only if the first connection fails."""
    last_id, wait, reached = "", FIRST_RETRY, False
    while True:
        try:
            for event in parse(api.stream("/v1/events", SILENCE_TIMEOUT, last_id)):
                last_id, wait, reached = event.id or last_id, FIRST_RETRY, True
                yield event
        except Unreachable as error:
            if not reached:
                raise
            if wait == FIRST_RETRY:
                typer.echo(f"bgproxy: {clean(error)} (trying again)", err=True)
        sleep(wait)
        wait = min(wait * 2, LAST_RETRY)


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """The events in the lines of a stream; one that is cut off at the end does not count."""
    name, event_id = "message", ""
    data: list[str] = []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(name, event_id, _decoded("\n".join(data)))
            name, data = "message", []
        elif field == "event":
            name = value
        elif field == "id":
            event_id = value
        elif field == "data":
            data.append(value)


def tell_json(event: Event) -> str:
    """One event as one line of JSON."""
    return json.dumps({"event": event.name, "id": event.id, "data": event.data}, ensure_ascii=False)


def tell_line(event: Event) -> str:
    """One event as a line for people."""
    data = event.data if isinstance(event.data, dict) else {"data": event.data}
    at = data.get("at")
    moment = clock.strftime("%Y-%m-%d %H:%M:%S", clock.localtime(at)) if isinstance(at, int | float) else " " * 19
    if event.name == "pointer":
        came = f", came from {data['previous']}" if data.get("previous") else ""
        reason = f": {data['reason']}" if data.get("reason") else ""
        text = f"{data.get('active')} is active{came}, epoch {data.get('epoch')}, by {data.get('actor')}{reason}"
    elif event.name == "release":
        text = f"{data.get('color')} holds {data.get('release') or 'nothing'}"
        text += f", phase {data['phase']}" if data.get("phase") else ""
    elif event.name == "run":
        stands = data.get("outcome") or f"at {data.get('step')}"
        why = f": {data['why']}" if data.get("why") else ""
        text = f"{data.get('id')}, {data.get('release')} on {data.get('color')}, {stands}{why}"
    else:
        text = json.dumps(event.data, ensure_ascii=False)
    return clean(f"{moment}  {event.name:<8} {text}")


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
