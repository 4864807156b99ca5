"""What holds a color, on the terminal: all of it at the end, and while one waits a picture, or plain lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bgproxy.cli.report import clean
from bgproxy.cli.screen import painted, terminal, time

_SHOWN = 5  # blockers in the picture, the biggest ones


class Progress:
    """A context within which each look is told; on stderr, so that what a verb prints stays its own."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._is_live = self._console.is_terminal
        self._most = 0
        self._told = ""

    def __enter__(self) -> Progress:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._is_live:
            self._live.stop()

    def tell(self, document: Mapping[str, Any]) -> None:
        """A look at the color."""
        if self._is_live:
            self._live.update(self._picture(document), refresh=True)
        elif (line := _line(document)) != self._told:
            self._told = line
            typer.echo(line, err=True)

    def _picture(self, document: Mapping[str, Any]) -> Group:
        held = (document.get("sessions") or 0) + document.get("in_flight", 0)
        self._most = max(self._most, held, 1)
        top = Table.grid(padding=(0, 1))
        done = self._most - held
        # Named colors: with sixteen of them, rich's own come out as one grey.
        bar = ProgressBar(self._most, done, 30, style="bright_black", complete_style="green", finished_style="green")
        top.add_row(painted(document.get("color")), bar, clean(_counts(document)))
        rows = [Text(clean(one.get("detail")), style="dim") for one in document.get("blockers", ())[:_SHOWN]]
        until = _deadline(document, document.get("seconds_left"))
        return Group(top, *([Text(clean(until), style="yellow")] if until else []), *rows)


def show_drain(document: Mapping[str, Any]) -> None:
    """The answer of /v1/colors/{color}/drain."""
    screen = terminal()
    release = document.get("release")
    holds = f"holds {release}, phase {document.get('phase')}" if release else "has no release"
    end = "drained" if document.get("drained") else "not drained"
    screen.print(Text.assemble(painted(document.get("color")), clean(f" {holds}: {end}")))
    last = time(document.get("last_expires"))
    more = f"; the last session expires {last} if it is not used any more" if last else ""
    screen.print(Text(clean(_counts(document) + more)))
    if until := _deadline(document, None):
        screen.print(Text(clean(until)))
    for blocker in document.get("blockers", ()):
        screen.print(Text(clean(f"  {blocker.get('detail')}"), style="yellow"))


def _counts(document: Mapping[str, Any]) -> str:
    """What holds a color, in one line."""
    sessions, oldest = document.get("sessions"), document.get("oldest")
    counts = f"sessions {'?' if sessions is None else sessions}, in flight {document.get('in_flight', 0)}"
    among = f"streams {document.get('streams', 0)}, WebSockets {document.get('websockets', 0)}"
    return f"{counts} ({among}{f', the oldest for {oldest:.0f} s' if oldest is not None else ''})"


def _line(document: Mapping[str, Any]) -> str:
    """The same without what changes at each look, for where each line stays."""
    sessions = document.get("sessions")
    parts = [f"sessions {'?' if sessions is None else sessions}", f"in flight {document.get('in_flight', 0)}"]
    parts += [until] if (until := _deadline(document, None)) else []
    return clean(f"{document.get('color')}: {', '.join(parts)}")


def _deadline(document: Mapping[str, Any], left: float | None) -> str:
    """What becomes of its sessions; nothing where they have no deadline. `left`: seconds, told where they are known."""
    if document.get("ended"):
        return f"its sessions were ended {time(document.get('deadline'))}"
    if document.get("deadline") is None:
        return ""
    return f"what still lives is ended {f'in {left:.0f} s' if left is not None else time(document['deadline'])}"
