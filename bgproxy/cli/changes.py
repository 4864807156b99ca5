"""The verbs that change something: flip, rollback, pause, resume, stage."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bgproxy.cli.asking import made_of, path_of, terms, why
from bgproxy.cli.client import Admin
from bgproxy.cli.options import (
    ADMIN,
    AdminUrl,
    Color,
    Exclude,
    Force,
    IdempotencyKey,
    IfEpoch,
    Json,
    Metadata,
    Reason,
    RouteUpstreams,
    Strategy,
    Token,
    Upstreams,
)
from bgproxy.cli.report import clean, print_json, reported


def flip(
    color: Color,
    reason: Reason = "",
    if_epoch: IfEpoch = None,
    force: Force = False,
    strategy: Strategy = "",
    exclude: Exclude = None,
    key: IdempotencyKey = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Make COLOR the active one, in one step that no request can see half-done."""
    with reported(as_json):
        asked = {"to": color, **terms(reason, if_epoch, force), **_nodes(strategy, exclude)}
        api = Admin(admin, token)
        _moved(api, api.post("/v1/flip", asked, expect="epoch", key=key), as_json)


def rollback(
    reason: Reason = "",
    if_epoch: IfEpoch = None,
    force: Force = False,
    strategy: Strategy = "",
    exclude: Exclude = None,
    key: IdempotencyKey = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Make the previous color the active one again, as fast as a flip."""
    with reported(as_json):
        api = Admin(admin, token)
        asked = {**terms(reason, if_epoch, force), **_nodes(strategy, exclude)}
        _moved(api, api.post("/v1/rollback", asked, expect="epoch", key=key), as_json)


def pause(
    max_hold: Annotated[
        float, typer.Option("--max-hold", metavar="SECONDS", help="After so long new requests go on by themselves.")
    ] = 30.0,
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Hold new requests on all nodes, for work that needs a quiet moment; known sessions and streams go on."""
    with reported(as_json):
        answer = Admin(admin, token).post("/v1/pause", {"max_hold": max_hold, **why(reason)}, expect="paused")
        if as_json:
            print_json(answer)
        else:
            typer.echo(f"new requests are held, for at most {max_hold:g} s, took {answer.get('took_ms')} ms")


def resume(
    reason: Reason = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Let new requests go on after a pause."""
    with reported(as_json):
        answer = Admin(admin, token).post("/v1/resume", why(reason), expect="paused")
        if as_json:
            print_json(answer)
        else:
            typer.echo("new requests go on" if answer.get("changed") else "nothing was paused")


def stage(
    color: Color,
    release: Annotated[
        str, typer.Option("--release", metavar="LABEL", help="The version's label, such as v2.", show_default=False)
    ],
    upstream: Upstreams = None,
    route_upstream: RouteUpstreams = None,
    metadata: Metadata = None,
    reason: Reason = "",
    if_epoch: IfEpoch = None,
    force: Force = False,
    key: IdempotencyKey = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Put a release on COLOR, which is not active; it takes no traffic before the flip."""
    asked = made_of(release, upstream, route_upstream, metadata) | terms(reason, if_epoch, force)
    with reported(as_json):
        api = Admin(admin, token)
        answer = api.put(path_of("colors", color), asked, expect="epoch", key=key)
        _say_if_replayed(api)
        _say_if_lost_soon(answer)
        if as_json:
            print_json(answer)
        else:
            done = "is staged on" if answer.get("changed", True) else "was there already, nothing changed:"
            typer.echo(clean(f"{answer.get('release', release)} {done} {color}, phase {answer.get('phase')}"))


def _nodes(strategy: str, exclude: list[str] | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"strategy": strategy} if strategy else {}
    return asked | ({"exclude": exclude} if exclude else {})


def _moved(api: Admin, answer: dict[str, Any], as_json: bool) -> None:
    _say_if_replayed(api)
    _say_if_lost_soon(answer)
    if as_json:
        print_json(answer)
    elif not answer.get("changed", True):
        typer.echo(clean(answer.get("detail") or f"{answer.get('active')} is the active color already"))
    else:
        came = f", came from {answer['previous']}" if answer.get("previous") else ""
        took = answer.get("took_ms", 0.0)
        typer.echo(clean(f"{answer.get('active')} is active{came}, epoch {answer['epoch']}, took {took} ms"))


def _say_if_lost_soon(answer: dict[str, Any]) -> None:
    replicas = answer.get("replicas")
    if replicas and replicas["have"] < replicas["wanted"]:
        typer.echo(
            f"bgproxy: it is done, but {replicas['have']} of {replicas['wanted']} replicas have it: a failover of the "
            "store now may lose it; see min_replicas",
            err=True,
        )


def _say_if_replayed(api: Admin) -> None:
    if api.replayed:
        typer.echo(
            "bgproxy: this was done before, under the same key; nothing was done now, its first answer was:", err=True
        )
