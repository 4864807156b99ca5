"""Shows a run: live on a terminal, line by line where there is none, and as tables at its end."""

from __future__ import annotations

import math
import time

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bgproxy.cli.demo.run import RELEASES, Plan, Screen
from bgproxy.cli.demo.tally import Row, Tally

_STATUS_INTERVAL = 5.0  # seconds without a line after which, without a terminal, the counts are told


class View:
    """A context: within it the run's lines and counts appear; `screen` is what the run is given."""

    def __init__(self, console: Console, plan: Plan, tally: Tally) -> None:
        self._console = console
        self._plan = plan
        self._tally = tally
        self._told = time.monotonic()
        # Drawn by the event loop, not by rich's thread: the counts change while they would be read.
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.screen = Screen(self._say, self._tick)

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live:
            self._live.stop()

    def _say(self, line: str) -> None:
        self._told = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _tick(self, elapsed: float) -> None:
        if self._live:
            self._live.update(self._picture(elapsed), refresh=True)
        elif time.monotonic() - self._told >= _STATUS_INTERVAL:
            self._say(f"{elapsed:5.1f} s  {self._tally.last_line().removeprefix('demo: ')}")

    def _picture(self, elapsed: float) -> RenderableType:
        total = self._plan.seconds
        bar = Table.grid(padding=(0, 1))
        left = f"{max(0.0, total - elapsed):.0f} s left" if elapsed < total else "the last answers …"
        done = f"{self._tally.flips}/{self._plan.flips} flips, {left}"
        bar.add_row(ProgressBar(total=total, completed=min(elapsed, total), width=40), done)
        return Group(bar, answers(self._tally, live=True))


def answers(tally: Tally, *, live: bool = False) -> Table:
    """What was asked, by kind: who answered, how soon, and what was lost."""
    table = Table(title=None if live else "What the clients saw", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("kind", no_wrap=True)
    for heading in ("open" if live else "parts", "answers", *RELEASES.values(), "p50 ms", "p99 ms", "lost"):
        table.add_column(heading, justify="right")
    for row in tally.rows.values():
        first = tally.open(row.kind) if live else row.parts
        by_release = [str(row.releases[release]) for release in RELEASES.values()]
        table.add_row(row.kind, str(first), str(row.count), *by_release, *_times(row), _lost(row))
    if not live:
        table.caption = "p50, p99: to the first part of an answer, of each turn for WebSockets"
        table.caption_justify = "left"
    return table


def _times(row: Row) -> list[str]:
    times = (row.quantile_ms(share) for share in (0.5, 0.99))
    return ["" if math.isnan(time) else f"{time:.1f}" for time in times]


def _lost(row: Row) -> Text:
    return Text(str(row.lost.total()), style="bold red" if row.lost else "green")


def moves(tally: Tally) -> Table:
    """Every flip and rollback: how long it took, and what was open from before it to after it."""
    table = Table(title="The moves, and what was open across them", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("move", no_wrap=True)
    for heading in ("epoch", "took ms", "call ms", "streams", "websockets"):
        table.add_column(heading, justify="right")
    for move in tally.moves:
        figures = (f"{move.took_ms:.2f}", f"{move.call_ms:.2f}", str(move.streams), str(move.websockets))
        table.add_row(f"{move.verb} {move.source} → {move.target}", str(move.epoch), *figures)
    return table


def report(console: Console, tally: Tally) -> None:
    """The tables, what was lost and why, and the last line, which is always one line."""
    console.print(moves(tally))
    console.print(answers(tally))
    for row in tally.rows.values():
        for reason, times in row.lost.most_common():
            _bad(console, f"lost: {times} times {row.kind}: {reason}")
    for line in (*tally.details, *tally.problems):
        _bad(console, line)
    console.print(tally.last_line(), markup=False, highlight=False, soft_wrap=True)


def _bad(console: Console, line: str) -> None:
    console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
