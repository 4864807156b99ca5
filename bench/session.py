"""What knowing sessions costs on the data path, per build: `path.py` run by each build's own interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from bench.contenders import Build
from bench.report import section, table

PATH = Path(__file__).with_name("path.py")

Costs = dict[str, dict[str, float]]
"""By presets (none, usual) and kind (unpinned, known, small, event): microseconds."""


def measure(build: Build) -> Costs:
    """Raises RuntimeError where the build does not run."""
    env = {**os.environ, **build.environment()}
    # Away from the checkout, or it would be imported in place of the build's own package.
    done = subprocess.run(
        [build.python, str(PATH)], capture_output=True, text=True, check=False, timeout=120, env=env, cwd="/"
    )
    if done.returncode != 0:
        raise RuntimeError(f"bench: {build.name}: path.py failed: {done.stderr[-800:]}")
    costs: Costs = json.loads(done.stdout)
    return costs


def report(found: dict[str, Costs]) -> str:
    """The table."""
    head = ["build", "presets", "unpinned POST", "POST of a known session", "small GET", "event of a stream"]
    rows = [
        [name, presets, *(f"{costs[presets][kind]:.2f}" for kind in ("unpinned", "known", "small", "event"))]
        for name, costs in found.items()
        for presets in ("none", "usual")
    ]
    note = "Microseconds within the data path, without kernel and event loop; the least of 15 rounds."
    return section("What knowing sessions costs", table(head, rows), note)
