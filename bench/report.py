"""Figures into medians, ratios and Markdown tables, and those into the README, between two markers.

Pure but for what it is told to read of this machine.
"""

from __future__ import annotations

import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

BASE = "nginx"  # every ratio is to its figure of the same run
BEGIN = "<!-- results: written by `python -m bench`, not by hand -->"
END = "<!-- end of results -->"


def median(values: Iterable[float]) -> float:
    """The middle value; NaN of none, so that a table says so instead of failing."""
    held = list(values)
    return statistics.median(held) if held else float("nan")


def ratio(figures: Mapping[str, float], name: str) -> str:
    """The figure of `name` over that of BASE, or a dash where BASE did not run."""
    base = figures.get(BASE)
    return f"{figures[name] / base:.2f}" if base else "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left, figures to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def section(title: str, body: str, note: str = "") -> str:
    """A headed part of the results."""
    return f"### {title}\n\n" + (f"{note}\n\n" if note else "") + body


def splice(text: str, results: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError where they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"bench/README.md must hold the two lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{results.strip()}\n\n{END}{after}"


def machine() -> str:
    """Cores, their name, the kernel and the interpreter, in a few words."""
    models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kernel = ".".join(platform.release().split(".")[:2])
    name = models[0] if models else platform.machine()
    return f"{len(models)} x {name}, {platform.system()} {kernel}, Python {platform.python_version()}"
