"""Tables on the terminal; plain text of the same shape where there is none, or where NO_COLOR is set."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgproxy.cli.report import clean

_NAMED_LIKE_THEMSELVES = frozenset({"blue", "green", "red", "yellow", "magenta", "cyan"})
_PHASES = {"active": "bold", "baking": "yellow", "rejected": "red", "rolled_back": "red", "retired": "dim"}
_OUTCOMES = ("kept", "moved", "ended", "lost", "turns_cut")
_STORE = {"up": "green", "degraded": "yellow", "down": "red"}
_STATES = {"live": "green", "finishing": "cyan", "silent": "yellow", "fenced": "red"}
_LOADS = ("in\nflight", "streams", "web-\nsockets")  # two lines, so that all fits into 80 columns
_WIDE = 4_000  # columns where there is no terminal: nothing is cut off that a program may look for


def show_status(document: Mapping[str, Any]) -> None:
    """The answer of /v1/status."""
    console = terminal()
    console.print(_headline(document))
    console.print(_reason(document), style="dim")
    for line in _waits(document):
        console.print(line)
    if flip := document.get("flip"):
        counts = ", ".join(f"{name.replace('_', ' ')} {flip.get(name, 0)}" for name in _OUTCOMES)
        console.print(Text(clean(f"sessions that this {flip.get('verb')} left: {counts}")))
    if run := document.get("run"):
        text = f"{run.get('id')}: {run.get('release')} on {run.get('color')} is being released, at {run.get('step')}"
        console.print(Text(clean(f"{text}; `bgproxy release --watch` follows it"), style="yellow"))
        if trouble := run.get("trouble"):
            console.print(Text(clean(trouble), style="bold red"))
    if canary := document.get("canary"):
        listed = ", and those listed," if canary.get("match") else ""
        text = f"canary: {canary.get('share', 0):.2%} of new sessions{listed} begin on {canary.get('color')}"
        console.print(
            Text(clean(f"{text} ({canary.get('release')}) since {time(canary.get('since'))}"), style="yellow")
        )
    console.print()
    console.print(_colors(document["colors"], str(document.get("active"))))
    for line in _idle(document["colors"]):
        console.print(line)
    console.print()
    console.print(_nodes(document.get("nodes", [])))
    console.print()
    store = document.get("store", {})
    state = Text(clean(store.get("state")), style=_STORE.get(str(store.get("state")), ""))
    console.print(Text.assemble("store ", state, f" ({clean(store.get('kind'))}), heard {_age(store.get('age'))} ago"))
    if problem := store.get("problem"):
        console.print(Text(clean(problem), style="yellow"))
    if fenced := store.get("fenced"):
        console.print(Text(f"FENCED: {clean(fenced)} worker(s) of this host admit nothing new", style="bold red"))
    if alarm := store.get("alarm"):
        console.print(Text(f"ALARM: {clean(alarm)}", style="bold red"))


def show_audit(document: Mapping[str, Any]) -> None:
    """The answer of /v1/audit."""
    table = grid("time", "epoch", "verb", "actor", "reason", "facts", right={"epoch"})
    for entry in document["entries"]:
        facts = " ".join(f"{name}={_fact(value)}" for name, value in entry.get("facts", {}).items())
        cells = (time(entry.get("at")), entry.get("epoch"), entry.get("verb"), entry.get("actor"), entry.get("reason"))
        table.add_row(*(Text(clean(cell)) for cell in (*cells, facts)))
    console = terminal()
    console.print(table)
    if document.get("next"):
        console.print(Text(f"older ones: bgproxy audit --before {clean(document['next'])}", style="dim"))


def show_nodes(document: Mapping[str, Any]) -> None:
    """The answer of /v1/nodes."""
    right = {"pid", "epoch", "age", "in\nflight", "streams"}
    rows = grid("id", "host", "pid", "version", "epoch", "age", "state", "in\nflight", "streams", right=right)
    for node in document["nodes"]:
        facts = (node.get(key) for key in ("id", "host", "pid", "version", "epoch"))
        loads = (sum(node.get(key, {}).values()) for key in ("in_flight", "streams"))
        state = Text(clean(node.get("state")), style=_STATES.get(str(node.get("state")), ""))
        rows.add_row(*(Text(clean(cell)) for cell in (*facts, _age(node.get("age")))), state, *map(clean, loads))
    console = terminal()
    console.print(rows)
    for line in _silent(document):
        console.print(line)
    if not document.get("complete", True):
        console.print(Text("the store is away: only the nodes of this host are known", style="yellow"))


def show_flips(flips: Sequence[Mapping[str, Any]]) -> None:
    """The ledgers of /v1/flips."""
    counts = [name.replace("_", "\n") for name in _OUTCOMES]
    rows = grid("time", "epoch", "verb", "from", "to", *counts, "actor", "reason", right={"epoch", *counts})
    for one in flips:
        first = [time(one.get("at")), *(one.get(name) for name in ("epoch", "verb", "from", "to"))]
        outcomes = [Text(clean(one.get(name)), style=_outcome(name, one.get(name))) for name in _OUTCOMES]
        last = (Text(clean(one.get(name))) for name in ("actor", "reason"))
        rows.add_row(*(Text(clean(cell)) for cell in first), *outcomes, *last)
    terminal().print(rows)


def _outcome(name: str, count: object) -> str:
    """What should be 0 and is not stands out."""
    return "red" if count and name in ("lost", "turns_cut") else ""


def painted(color: object, style: str = "") -> Text:
    """A color's name; one that is called like a color is shown in it."""
    name = clean(color)
    return Text(name, style=f"{name if name in _NAMED_LIKE_THEMSELVES else ''} {style}".strip())


def time(at: object) -> str:
    """A moment of the store's clock in this host's zone; nothing where there is none."""
    if not isinstance(at, int | float):
        return ""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def terminal() -> Console:
    """Where tables go."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def grid(*columns: str, right: frozenset[str] | set[str] = frozenset()) -> Table:
    """An empty table with these columns; those of `right` hold numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _headline(document: Mapping[str, Any]) -> Text:
    previous = document.get("previous")
    line = Text.assemble("fleet ", (clean(document.get("fleet")), "bold"), ", active ", painted(document.get("active")))
    if previous:
        line.append(f", previous {clean(previous)}")
    return line.append(f", epoch {clean(document.get('epoch'))}")


def _reason(document: Mapping[str, Any]) -> Text:
    reason = clean(document.get("reason", ""))
    actor = clean(document.get("actor", ""))
    return Text(f"since {time(document.get('at'))} by {actor}{f': {reason}' if reason else ''}")


def _waits(document: Mapping[str, Any]) -> Iterator[Text]:
    """What new requests wait for, and what flips wait for."""
    yield from _silent(document)
    if pause := document.get("pause"):
        why = f": {pause['reason']}" if pause.get("reason") else ""
        said = f"PAUSED by {pause.get('actor')}{why}; new requests wait for `bgproxy resume`"
        yield Text(clean(f"{said}, at most {pause.get('max_hold')} s"), style="bold yellow")
    if pending := document.get("pending"):
        said = f"a {pending.get('verb')} to {pending.get('to')} by {pending.get('actor')} is under way"
        if document.get("store", {}).get("state") == "down":
            why = "whether it was made only the store knows; new requests wait, then get 503, until it is back"
            yield Text(clean(f"{said}: {why}"), style="bold red")
        else:
            yield Text(
                clean(f"{said}: new requests wait until every node holds them, or it is given up"), style="yellow"
            )


def _silent(document: Mapping[str, Any]) -> Iterator[Text]:
    """Nodes that everything waits for, and the two ways on."""
    nodes = {node.get("id"): node for node in document.get("nodes", [])}
    is_complete = document.get("complete", document.get("store", {}).get("state") != "down")
    fenced = [str(name) for name, node in nodes.items() if node.get("state") == "fenced" and is_complete]
    if fenced:
        said = (
            f"fenced: {', '.join(fenced)}: flips leave them behind, and sessions do not move while they are not heard"
        )
        yield Text(clean(f"{said}; gone for good: `bgproxy nodes forget {' '.join(fenced)}`"), style="red")
    if silent := document.get("silent"):
        names = ", ".join(f"{name} (heard {_age(nodes.get(name, {}).get('age'))} ago)" for name in silent)
        said = f"SILENT: {names}: flips are given up and sessions do not move while a node is not heard"
        yield Text(clean(said), style="bold red")
        excluded = " ".join(f"--exclude {name}" for name in silent)
        exclude = f"out of reach: `bgproxy flip COLOR {excluded}` leaves them behind"
        if all(nodes.get(name, {}).get("fence_after") for name in silent):
            exclude += ", which flips do by themselves once they must have fenced themselves"
        yield Text(clean(f"gone for good: `bgproxy nodes forget {' '.join(silent)}`; {exclude}"), style="yellow")


def _colors(colors: Mapping[str, Mapping[str, Any]], active: str) -> Table:
    table = grid("color", "release", "phase", "upstream", "health", *_LOADS, right=set(_LOADS))
    for name, color in colors.items():
        label = painted(name, "bold" if name == active else "")
        phase = clean(color.get("phase") or "-")
        loads = [clean(color.get(key, 0)) for key in ("in_flight", "streams", "websockets")]
        upstreams = color.get("upstreams") or [{}]
        first = (label, Text(clean(color.get("release") or "-")), Text(phase, style=_PHASES.get(phase, "")))
        table.add_row(*first, *_upstream(upstreams[0]), *loads)
        for upstream in upstreams[1:]:
            table.add_row("", "", "", *_upstream(upstream), "", "", "")
    return table


def _idle(colors: Mapping[str, Mapping[str, Any]]) -> Iterator[Text]:
    """What stands idle, what that costs, and whether it is to be taken down."""
    for name, color in colors.items():
        if cost := color.get("double_running"):
            hours = f"{cost.get('replicas')} replicas idle, {cost.get('replica_hours', 0):.3f} replica-hours so far"
            said = f"{name}: double running since {time(cost.get('since'))}, {hours}"
            yield Text(clean(said), style="dim")
        if order := color.get("retirement"):
            what = "followed by its successor's contract step" if order.get("contract") else "retired"
            waits = f", not before {time(order['due'])}" if order.get("due") else ""
            under_way = (
                f"is being {what} by {order.get('leader')}" if order.get("leader") else f"is to be {what}{waits}"
            )
            failed = f"; {order.get('tries')} failed: {order.get('why')}" if order.get("tries") else ""
            said = f"{name}: {color.get('release')} {under_way}, asked by {order.get('actor')}{failed}"
            yield Text(clean(said), style="red" if failed else "yellow")
        if color.get("after_this"):
            yield Text(clean(f"{name}: to be retired, then {color['after_this']}"), style="yellow")


def _upstream(upstream: Mapping[str, Any]) -> tuple[Text, Text]:
    if not upstream:
        return Text("-"), Text("-")
    url, healthy, reason = (
        Text(clean(upstream.get("url"))),
        upstream.get("healthy"),
        clean(upstream.get("reason") or ""),
    )
    if healthy is None:
        return url, Text("unknown", style="dim")
    if healthy:
        return url, Text("up", style="green")
    return url, Text(f"down: {reason}" if reason else "down", style="red")


def _nodes(nodes: list[Mapping[str, Any]]) -> Table:
    right = {"pid", "epoch", *_LOADS, "heard"}
    table = grid("node", "host", "pid", "version", "epoch", *_LOADS, "heard", right=right)
    for node in nodes:
        loads = (sum(node.get(key, {}).values()) for key in ("in_flight", "streams", "websockets"))
        facts = (node.get(key) for key in ("id", "host", "pid", "version", "epoch"))
        state = node.get("state", "live")
        odd = "" if state == "live" else f"{clean(state)}, "
        heard = Text(f"{odd}{_age(node.get('age'))} ago", style=_STATES.get(str(state), "") if odd else "")
        table.add_row(*(Text(clean(cell)) for cell in (*facts, *loads)), heard)
    return table


def _age(seconds: object) -> str:
    return f"{seconds:.1f} s" if isinstance(seconds, int | float) else "?"


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_fact(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ",".join(_fact(item) for item in value)
    return str(value)
