"""What every contender has in common, and how its configuration is filled in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Running, Stage

# Takes a color, returns the time (`time.perf_counter`) at which the command had returned to the one who gave it.
Flip = Callable[[str], Awaitable[float]]


class NotInstalled(Exception):
    """This contender is not on this machine; the text says what was looked for."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Loopback ports of the two colors' upstreams."""

    blue: int
    green: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender is started and what it stands in front of."""

    stage: Stage
    core: int
    backends: Backends
    flippable: bool


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy that listens on a loopback port, blue being active."""

    name: str
    version: str
    running: Running
    port: int
    admin_port: int = 0
    flip: Flip | None = None


def fill(template: str, target: Path, **values: str | int | Path) -> Path:
    """Write a configuration: every @KEY@ of a template beside this file replaced by its value."""
    text = (Path(__file__).parent / template).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key.upper()}@", str(value))
    target.write_text(text)
    return target
