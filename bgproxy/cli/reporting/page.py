"""The report as one HTML file that needs nothing else: no script, no font, no address that anything is loaded from.

What stands in it was written by others, agents among them: the template escapes all of it, and the page's own policy
forbids whatever might come through nevertheless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bgproxy.cli.reporting.plots import bars, lines, told


def page(document: Mapping[str, Any]) -> str:
    """The HTML of a report's document."""
    environment = Environment(
        loader=PackageLoader("bgproxy.cli.reporting", "."),
        autoescape=True,  # of every template whatever its name
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"time": _time, "json": _json, "told": _told}
    plots = [{**one, "bars": bars(one), "lines": [*lines(one["series"])]} for one in document["comparisons"]]
    return environment.get_template("report.html.j2").render(report=document, plots=plots)


def _time(at: object) -> str:
    """A moment of the store's clock in UTC, to the millisecond."""
    if isinstance(at, bool) or not isinstance(at, int | float):
        return ""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return str(at)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _told(value: float, name: str) -> str:
    return told(name, value)
