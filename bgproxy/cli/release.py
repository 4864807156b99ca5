"""The verbs release, validate and bake: a plan run from its first step to its end, watched from here or from anywhere.

What runs it is the fleet: a command line that is gone, or a node that dies, stops nothing. Approve and abort act on it.
"""

from __future__ import annotations

import sys
import time as clock
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bgproxy.cli.asking import made_of, terms, why
from bgproxy.cli.client import Admin
from bgproxy.cli.following import answers
from bgproxy.cli.options import (
    ADMIN,
    AdminUrl,
    Force,
    IdempotencyKey,
    IfEpoch,
    Json,
    Metadata,
    Reason,
    RouteUpstreams,
    Token,
    Upstreams,
)
from bgproxy.cli.report import DONE, REFUSED, clean, print_line, reported
from bgproxy.errors import Refused

GOOD = frozenset({"settled", "validated"})

Plan = Annotated[
    Path | None,
    typer.Option(
        "--plan", "-p", metavar="FILE", show_default=False, help="In TOML; else the proxy's own, \\[release]."
    ),
]


def release(
    color: Annotated[
        str, typer.Argument(metavar="COLOR", show_default=False, help="An idle color, such as green.")
    ] = "",
    label: Annotated[
        str, typer.Option("--release", metavar="LABEL", show_default=False, help="The version's label, such as v2.")
    ] = "",
    upstream: Upstreams = None,
    route_upstream: RouteUpstreams = None,
    metadata: Metadata = None,
    plan: Plan = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", metavar="", help="Do not ask whether to begin; with --json nobody is asked.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", metavar="", help="Begin nothing; follow the one that stands.")
    ] = False,
    reason: Reason = "",
    if_epoch: IfEpoch = None,
    force: Force = False,
    key: IdempotencyKey = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Bring a release out by its plan: stage, compare, try the gates, flip, watch. Nothing flips before all passed.

    It goes on whatever becomes of this command; the same command again, or --watch from anywhere, follows it. Exit 0
    once it is settled, 1 where it was stopped, aborted or rolled back, with the reason on the last line. One whose
    canary failed drains, ROLLED_BACK, and is REJECTED then.
    """
    if watch and (color or label or plan):
        raise typer.BadParameter("it begins nothing: give no color, release or plan", param_hint="--watch")
    if not watch and not (color and label):
        raise typer.BadParameter("give COLOR and --release; or --watch to follow one that has begun")
    with reported(as_json, lines=True):
        api = Admin(admin, token)
        if not watch:
            made = made_of(label, upstream, route_upstream, metadata)
            asked = {"color": color, **made, **_plan(plan), **terms(reason, if_epoch, force)}
            _agree(plan, f"{label} on {color}", yes or as_json)
            _begin(api, asked, key, as_json)
        _follow(api, as_json)


def validate(
    color: Annotated[str, typer.Argument(metavar="COLOR", show_default=False, help="Where a release waits.")],
    plan: Plan = None,
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Try the release that waits on COLOR by a plan's gates, and flip nothing: it is READY then, or REJECTED.

    Exit 0 where all passed, 1 where one did not, with the reason on the last line.
    """
    with reported(as_json, lines=True):
        api = Admin(admin, token)
        _begin(api, {"color": color, "kind": "validate", **_plan(plan), **why(reason)}, "", as_json)
        _follow(api, as_json)


def bake(
    plan: Plan = None,
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Watch the active release against the one before it, as a plan's \\[bake] has it; roll it back where it is bad.

    For a flip that was made without a plan: what came since the flip counts too, ten minutes of it at most. `bgproxy
    abort` ends the watch and moves nothing. Exit 0 where it settles, 1 where it was rolled back, with the reason on the
    last line.
    """
    with reported(as_json, lines=True):
        api = Admin(admin, token)
        active = api.get("/v1/status", expect="active")["active"]
        _begin(api, {"color": active, "kind": "bake", **_plan(plan), **why(reason)}, "", as_json)
        _follow(api, as_json)


def approve(
    gate: Annotated[
        str, typer.Argument(metavar="GATE", show_default=False, help="A manual gate's name, or bake; else what waits.")
    ] = "",
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Say yes to the manual gate that a release waits for; it is on record under your token's name.

    A bake takes one too: what cannot be judged settles then, once the time of the bake is over.
    """
    with reported(as_json, lines=True):
        asked = {**({"gate": gate} if gate else {}), **why(reason)}
        answer = Admin(admin, token).post("/v1/run/approve", asked, expect="steps")
        if as_json:
            print_line(answer)
        else:
            names = "; ".join(f"{name} is approved by {actor}" for name, actor in answer["approvals"].items())
            typer.echo(clean(f"{answer['id']}, {answer['release']} on {answer['color']}: {names}"))


def abort(reason: Reason = "", admin: AdminUrl = ADMIN, token: Token = "", as_json: Json = False) -> None:
    """End the release that is being brought out, with nothing flipped; once it has flipped, by a rollback.

    A watch that `bgproxy bake` began ends with nothing moved.
    """
    with reported(as_json, lines=True):
        answer = Admin(admin, token).post("/v1/run/abort", why(reason), expect="steps")
        if as_json:
            print_line(answer)
        else:
            typer.echo(clean(last_line(answer)))


def _plan(file: Path | None) -> dict[str, Any]:
    """The plan as it is sent; without a file it is the proxy's own.

    Raises ConfigError, a line per fault: what is wrong is told before anything is asked.
    """
    if file is None:
        return {}
    from bgproxy.config.plan import load_plan

    return {"plan": load_plan(file)[0]}


def _agree(file: Path | None, what: str, yes: bool) -> None:
    """Tell what will be done, and ask, where there is somebody to ask. Ends the verb where the answer is no."""
    if yes:
        return
    if not _is_asked():
        raise typer.BadParameter("there is nobody to ask: give it to begin without a question", param_hint="--yes")
    typer.echo(f"{what}, by {file or 'the plan of the proxy'}")
    if file is not None:
        from bgproxy.config.plan import load_plan

        for number, line in enumerate(load_plan(file)[1].lines(), start=1):
            typer.echo(clean(f"  {number}. {line}"))
    if not typer.confirm("Begin?"):
        raise typer.Exit(REFUSED)


def _is_asked() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin.isatty()


def _begin(api: Admin, asked: Mapping[str, Any], key: str, as_json: bool) -> None:
    answer = api.post("/v1/run", asked, expect="steps", key=key)
    if not as_json and not answer["changed"]:
        typer.echo(clean(f"{answer['id']} was begun before by {answer['actor']}; following it"))


def _follow(api: Admin, as_json: bool) -> NoReturn:
    """Tell each step as it is done, to the end; the verb ends with what became of it."""
    from bgproxy.cli.release_screen import progress

    document: dict[str, Any] = {}
    try:
        with progress(as_json) as told:
            for document in looks(api, clock.monotonic, clock.sleep):
                told(document)
    except KeyboardInterrupt:
        typer.echo(
            "bgproxy: it goes on without you: `bgproxy release --watch` follows, `bgproxy abort` ends it", err=True
        )
        raise typer.Exit(REFUSED) from None
    if as_json:
        print_line(document)
    else:
        typer.echo(clean(last_line(document)))
    raise typer.Exit(DONE if document.get("outcome") in GOOD else REFUSED)


def looks(api: Admin, now: Callable[[], float], sleep: Callable[[float], None]) -> Iterator[dict[str, Any]]:
    """Each look at the run that stands, to its end. A proxy that does not answer for a while is asked again."""

    def ask() -> dict[str, Any]:
        return api.get("/v1/run", expect="steps")

    first = ask()
    for document in answers(first, ask, now, sleep):
        if document["id"] != first["id"]:
            raise Refused(f"{first['id']} is over, and {document['id']} has begun since: `bgproxy audit` tells of both")
        yield document
        if not document["open"]:
            return


def last_line(document: Mapping[str, Any]) -> str:
    """What became of it."""
    what = f"{document.get('release')} on {document.get('color')}"
    why = f": {document['why']}" if document.get("why") else ""
    outcome = document.get("outcome")
    if outcome == "settled":
        return f"settled: {document.get('color')} is active with {document.get('release')}{_doubt(document)}"
    if outcome == "validated":
        return f"validated: {what} is ready, nothing was flipped"
    if outcome == "stopped":
        return f"stopped, {what} was not made active{why}"
    return f"{str(outcome or 'open').replace('_', ' ')}, {what}{why}"


def _doubt(document: Mapping[str, Any]) -> str:
    """Why the bake could not be judged, where it settled nevertheless."""
    found = [str(step.get("why")) for step in document.get("steps", ()) if step.get("name") == "bake"]
    return f" ({found[-1]})" if found and found[-1].startswith("undecided") else ""
