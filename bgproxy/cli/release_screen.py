"""A release's steps: on a terminal a picture of all of them, elsewhere a line for each one that is done."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bgproxy.cli.report import clean, print_line
from bgproxy.cli.screen import painted

Told = Callable[[Mapping[str, Any]], None]

_STYLES = {"pass": "green", "fail": "bold red", "undecided": "yellow"}


@contextmanager
def progress(as_json: bool) -> Iterator[Told]:
    """What each look is told to; on stdout, so that the last line of it is the end."""
    console = Console(highlight=False)
    if as_json:
        yield Lines(lambda step, document: print_line({"run": document.get("id"), **step})).tell
    elif not console.is_terminal:
        yield Lines(lambda step, _: typer.echo(line(step)), waiting=True).tell
    else:
        with Live(console=console, refresh_per_second=8) as live:
            yield lambda document: live.update(picture(document))


class Lines:
    """Each step once, when it is done; and what somebody has to do."""

    def __init__(self, tell: Callable[[Mapping[str, Any], Mapping[str, Any]], None], *, waiting: bool = False) -> None:
        self._tell = tell
        self._waiting = waiting
        self._told: set[str] = set()
        self._seen = ""  # what was told last of a release that bakes

    def tell(self, document: Mapping[str, Any]) -> None:
        """A look at the run."""
        for step in document.get("steps", ()):
            name = str(step.get("name"))
            if step.get("verdict") and name not in self._told:
                self._told.add(name)
                self._tell(step, document)
        if self._waiting and (trouble := document.get("trouble")) and "trouble" not in self._told:
            self._told.add("trouble")
            typer.echo(clean(f"trouble   {trouble}"))
        if self._waiting and (watch := document.get("watch")):
            self._tell_watch(watch, document.get("step"))
        if self._waiting and (mirrored := document.get("mirrored")):
            self._tell_mirrored(mirrored)
        gate = document.get("waits_for")
        if self._waiting and gate and f"? {gate}" not in self._told:
            self._told.add(f"? {gate}")
            typer.echo(clean(waiting(document)))

    def _tell_watch(self, watch: Mapping[str, Any], step: object) -> None:
        """Each time that a tenth of a minute has passed, or the verdict is another one."""
        seen = f"{watch.get('verdict')} {watch.get('held')} {float(watch.get('left') or 0.0) // 6:.0f}"
        if seen != self._seen:
            self._seen = seen
            typer.echo(seen_line(watch, step))

    def _tell_mirrored(self, mirrored: Mapping[str, Any]) -> None:
        """Each time that ten more were compared, or something is wrong that was not."""
        wrong = [name for name in ("differed", "failed", "slow") if mirrored.get(name)]
        seen = f"mirror {int(mirrored.get('compared') or 0) // 10} {wrong}"
        if seen != self._seen:
            self._seen = seen
            typer.echo(mirrored_line(mirrored))


def mirrored_line(mirrored: Mapping[str, Any]) -> str:
    """What was compared so far, and the first example of what is wrong."""
    counts = [f"{mirrored.get(name, 0)} {name}" for name in ("compared", "differed", "slow", "failed", "dropped")]
    examples = mirrored.get("examples") or [""]
    return clean(f"mirroring {', '.join(counts)}" + (f": {examples[0]}" if examples[0] else ""))


def seen_line(watch: Mapping[str, Any], step: object) -> str:
    """What is seen of a release at its canary or bake: its samples, beside the old one's, and how it stands."""
    word, beside = ("canary", "active") if step == "canary" else ("baking", "before")
    new, old = watch.get("new") or {}, watch.get("old") or {}
    parts = [f"{new.get('answers', 0)} answers, {new.get('errors', 0)} errors ({new.get('error_rate', 0.0):.2%})"]
    for name in ("p95", "first_byte"):
        if name in new:
            before = f" ({beside} {old[name]:.3f} s)" if name in old else ""
            parts.append(f"{name.replace('_', ' ')} {new[name]:.3f} s{before}")
    if made := watch.get("synthetic"):
        parts.append(f"synthetic {made.get('answers', 0)} answers, {made.get('errors', 0)} errors")
    left = "held" if watch.get("held") else f"{watch.get('left', 0.0):.0f} s left"
    silent = f"; no news of {', '.join(watch['silent'])}" if watch.get("silent") else ""
    return clean(f"{word}    {', '.join(parts)}, {left}: {watch.get('verdict')}, {watch.get('why')}{silent}")


def line(step: Mapping[str, Any]) -> str:
    """A step that is done."""
    took = step.get("took") or 0.0
    return clean(f"{step.get('verdict'):<9} {step.get('name')} ({took:.1f} s): {step.get('why')}")


def waiting(document: Mapping[str, Any]) -> str:
    """What somebody has to do."""
    text = document.get("waits_text")
    return f"waiting: bgproxy approve {document.get('waits_for')}" + (f"  ({text})" if text else "")


def picture(document: Mapping[str, Any]) -> Group:
    """All steps, the one that is under way with a sign of life."""
    what = clean(f"{document.get('id')}  {document.get('release')} on ")
    title = Text.assemble(what, painted(document.get("color")))
    rows = Table.grid(padding=(0, 1))
    for step in document.get("steps", ()):
        verdict, name = step.get("verdict"), str(step.get("name"))
        under_way = document.get("open") and name == document.get("step")
        sign: Text | Spinner = (
            Spinner("dots") if under_way else Text(clean(verdict or ""), style=_STYLES.get(verdict, ""))
        )
        took = f"{step['took']:.1f} s" if step.get("took") is not None else _since(document) if under_way else ""
        rows.add_row(sign, clean(name), clean(took), Text(clean(step.get("why") or ""), overflow="fold"))
    more = [Text(seen_line(watch, document.get("step")), style="dim")] if (watch := document.get("watch")) else []
    more += [Text(mirrored_line(mirrored), style="dim")] if (mirrored := document.get("mirrored")) else []
    more += [Text(clean(trouble), style="bold red")] if (trouble := document.get("trouble")) else []
    waits = document.get("waits_for")
    more += [Text(clean(waiting(document)), style="yellow")] if waits else []
    return Group(title, rows, *more)


def _since(document: Mapping[str, Any]) -> str:
    """How long the step has been under way, by this host's clock."""
    at = document.get("at")
    return f"{max(0.0, clock.time() - at):.0f} s" if isinstance(at, int | float) else ""
