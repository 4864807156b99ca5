"""The verbs that change something: flip, rollback, pause, resume, stage."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from bgproxy.cli.client import Admin
from bgproxy.cli.options import ADMIN, AdminUrl, Exclude, Force, IdempotencyKey, IfEpoch, Json, Reason, Strategy, Token
from bgproxy.cli.report import clean, print_json, reported

Color = Annotated[str, typer.Argument(metavar="COLOR", show_default=False, help="The color's name, such as green.")]


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
        asked = {"to": color, **_terms(reason, if_epoch, force), **_nodes(strategy, exclude)}
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
        asked = {**_terms(reason, if_epoch, force), **_nodes(strategy, exclude)}
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
        answer = Admin(admin, token).post("/v1/pause", {"max_hold": max_hold, **_why(reason)}, expect="paused")
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
        answer = Admin(admin, token).post("/v1/resume", _why(reason), expect="paused")
        if as_json:
            print_json(answer)
        else:
            typer.echo("new requests go on" if answer.get("changed") else "nothing was paused")


def stage(
    color: Color,
    release: Annotated[str, typer.Option("--release", help="The version's label, such as v2.", show_default=False)],
    upstream: Annotated[
        list[str] | None, typer.Option("--upstream", metavar="URL", help="http://host:port or unix:/path; may repeat.")
    ] = None,
    route_upstream: Annotated[
        list[str] | None,
        typer.Option("--route-upstream", metavar="ROUTE=URL", help="An upstream of one route only; may repeat."),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="A fact to keep with it; may repeat.")
    ] = None,
    reason: Reason = "",
    if_epoch: IfEpoch = None,
    force: Force = False,
    key: IdempotencyKey = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Put a release on COLOR, which is not active; it takes no traffic before the flip."""
    routes: dict[str, list[str]] = {}
    for name, url in pairs(route_upstream or [], "--route-upstream"):
        routes.setdefault(name, []).append(url)
    facts = dict(pairs(metadata or [], "--metadata"))
    asked: dict[str, Any] = {"release": release, "upstreams": upstream or [], **_terms(reason, if_epoch, force)}
    asked |= {"routes": routes} if routes else {}
    asked |= {"metadata": facts} if facts else {}
    with reported(as_json):
        api = Admin(admin, token)
        answer = api.put(f"/v1/colors/{quote(color, safe='')}", asked, expect="epoch", key=key)
        _say_if_replayed(api)
        _say_if_lost_soon(answer)
        if as_json:
            print_json(answer)
        else:
            done = "is staged on" if answer.get("changed", True) else "was there already, nothing changed:"
            typer.echo(clean(f"{answer.get('release', release)} {done} {color}, phase {answer.get('phase')}"))


def pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    """NAME=VALUE texts taken apart. Raises BadParameter for a text without a name or a `=`."""
    found: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f'"{text}" is not NAME=VALUE', param_hint=option)
        found.append((name, value))
    return found


def _why(reason: str) -> dict[str, Any]:
    return {"reason": reason} if reason else {}


def _nodes(strategy: str, exclude: list[str] | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"strategy": strategy} if strategy else {}
    return asked | ({"exclude": exclude} if exclude else {})


def _terms(reason: str, if_epoch: int | None, force: bool) -> dict[str, Any]:
    terms: dict[str, Any] = _why(reason)
    terms |= {"if_epoch": if_epoch} if if_epoch is not None else {}
    return terms | ({"force": True} if force else {})


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
