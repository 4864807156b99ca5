"""What was seen, as rows of Markdown, and those into RELIABILITY.md between two markers. Pure.

A fault that is played again takes the place of its row; the others stay, so that a long run can be made in parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bench.reliability.operator import percentile
from bench.reliability.stage import Fault, Seen
from bench.report import table

HEAD = (
    "fault",
    "flips made",
    "requests",
    "clients saw",
    "longest wait",
    "operator saw",
    "flip p50 / p99",
    "longest without a flip",
    "next flip after it",
)
BEGIN = "<!-- results: written by `python -m bench.reliability`, not by hand -->"
END = "<!-- end of results -->"
_LONG = 160  # characters of a refusal
_NODE = re.compile(r"\bh\d+-[\w.-]+|\b[\w.-]+-\d+-[0-9a-f]{4,}\b")


def row(fault: Fault, different: Mapping[str, object], seen: Seen) -> tuple[str, ...]:
    """One fault's line of the table. `different`: what of its stage is."""
    operator, verdict = seen.operator, seen.verdict
    took = f"{percentile(operator.took, 0.5) * 1e3:.0f} / {percentile(operator.took, 0.99) * 1e3:.0f} ms"
    return (
        title(fault, different),
        f"{operator.outcomes['made']:,}",
        f"{verdict.requests:,}",
        _clients(seen),
        f"{seen.slowest * 1e3:,.0f} ms",
        _operator(seen),
        took,
        f"{seen.pause:.2f} s",
        f"{seen.recovery:.2f} s",
    )


def title(fault: Fault, different: Mapping[str, object]) -> str:
    """The first cell of its row, by which it is known again."""
    what = " ".join((fault.__doc__ or "").split()).rstrip(".")
    if different.get("hosts", 1) != 1 and " host " not in what:
        what += f"; {different['hosts']} hosts"
    return what + "".join(f"; `{text}`" for text in _settings(different))


def _settings(different: Mapping[str, object]) -> Iterable[str]:
    if different.get("outage") == "refuse":
        yield 'on_store_outage = "refuse"'
    if different.get("policy") == "follow":
        yield 'policy = "follow"'
    if different.get("on_rollback") == "move":
        yield 'on_rollback = "move"'
    for line in str(different.get("store", "")).splitlines():
        if line.startswith(("fence_after", "min_replicas")):
            yield line


def _clients(seen: Seen) -> str:
    verdict = seen.verdict
    parts = [f"{count:,} x {what}" for what, count in verdict.refused.most_common()]
    if verdict.excused:
        parts.append(f"{verdict.excused} lost with their worker")
    if verdict.moved:
        parts.append(f"{verdict.moved:,} times a session went with the pointer")
    if seen.strays:
        parts.append(f"{seen.strays} sessions on two releases, as `admit` lets them")
    if broken := verdict.broken.total():
        rules = ", ".join(f"guarantee {rule}: {count}" for rule, count in sorted(verdict.broken.items()))
        parts.append(f"**{broken} wrong ({rules})**")
    return "; ".join(parts) or "nothing"


def _operator(seen: Seen) -> str:
    parts = [f"{count} x {what}" for what, count in sorted(seen.notes.items())]
    for what, count in seen.operator.outcomes.most_common():
        if what != "made":
            parts.append(f"{count} x {what}{_quoted(seen.operator.told.get(what, ''))}")
    return "; ".join(parts) or "nothing"


def _quoted(text: str) -> str:
    """The gist of a refusal, with nodes' names shortened."""
    if not text:
        return ""
    text = _NODE.sub("NODE", text).replace("|", "/").partition("; see ")[0]
    return f" (“{text if len(text) <= _LONG else text[:_LONG].rsplit(' ', 1)[0] + ' …'}”)"


def written(page: str, rows: Iterable[tuple[str, ...]], titles: Sequence[str], machine: str, date: str) -> str:
    """The page with new rows; of those that stand, the ones in `titles` stay, and all are in their order.

    Raises ValueError where the markers are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"bench/RELIABILITY.md must hold the two lines {BEGIN!r} and {END!r}")
    known = {one[0]: one for one in (*_rows(old), *rows)}
    kept = {each: known[each] for each in titles if each in known}
    flips, requests = (sum(int(one[at].replace(",", "")) for one in kept.values()) for at in (1, 2))
    wrong = sum(int(found) for one in kept.values() for found in re.findall(r"\*\*(\d+) wrong", one[3]))
    summary = (
        f"{flips:,} flips under {requests:,} requests; breaches of a guarantee: {wrong}. {machine}, {date}, all of it "
        "on one machine: clients, agents, Redis and the fleet share its cores."
    )
    return f"{before}{BEGIN}\n\n{summary}\n\n{table(HEAD, kept.values())}\n\n{END}{after}"


def _rows(text: str) -> Iterable[tuple[str, ...]]:
    """Those of the table that stands."""
    for line in text.splitlines():
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split(" | "))
        if line.startswith("| ") and len(cells) == len(HEAD) and cells != HEAD:
            yield cells
