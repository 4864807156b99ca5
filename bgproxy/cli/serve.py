"""The verb serve: the only one, with demo, that runs the proxy in this process."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from bgproxy.cli.asking import pairs
from bgproxy.cli.options import ConfigFile
from bgproxy.cli.report import reported
from bgproxy.workers import RESUME, TRIAL


def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Where clients come in: host:port or unix:/path; may repeat."),
    ] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where the admin API listens: host:port or unix:/path.")
    ] = None,
    blue: Annotated[list[str] | None, typer.Option(metavar="URL", help="An upstream of blue; may repeat.")] = None,
    green: Annotated[list[str] | None, typer.Option(metavar="URL", help="An upstream of green; may repeat.")] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(metavar="COLOR=URL", help="An upstream of any color; may repeat.")
    ] = None,
    active: Annotated[str | None, typer.Option(metavar="COLOR", help="The color that a new fleet starts with.")] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="memory://, redis://host:port/db, redis+sentinel://…, redis+cluster://…"),
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes on the same address.")] = None,
    fleet: Annotated[str | None, typer.Option(metavar="NAME", help="The fleet's name in the store.")] = None,
    session: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRESET",
            help="How sessions are known, in place of the usual list: mcp, header:X-Session-Id …; may repeat.",
        ),
    ] = None,
    config: ConfigFile = None,
    access_log: Annotated[str | None, typer.Option(metavar="WHERE", help="off, stdout or a file's path.")] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning, error, critical.")
    ] = None,
) -> None:
    """Run the proxy. Flags are stronger than BGPROXY_… variables, these than the file, the file than the defaults."""
    flags: dict[str, Any] = {
        "listen": listen or None,
        "admin": admin,
        "active": active,
        "store": store,
        "workers": workers,
        "fleet": fleet,
        "access_log": {"output": access_log} if access_log else None,
        "log": {"level": log_level} if log_level else None,
        "sessions": {"presets": session} if session else None,
        "colors": _colors(blue, green, upstream),
    }
    with reported():
        code = _run(config, {name: value for name, value in flags.items() if value is not None})
    raise typer.Exit(code)


def _run(config: str | None, flags: dict[str, Any]) -> int:
    """As what this process was started: for itself, as the new one of an upgrade, or by a supervisor that goes on."""
    if RESUME in os.environ:
        from bgproxy.workers.supervisor import go_on

        return go_on()
    from bgproxy.config import Settings

    if TRIAL in os.environ:
        from bgproxy.workers import trial

        return trial.run(lambda: Settings.load(config, flags))
    settings = Settings.load(config, flags)
    from bgproxy.workers.supervisor import run

    return run(settings)


def _colors(blue: list[str] | None, green: list[str] | None, others: list[str] | None) -> dict[str, Any] | None:
    """The upstreams given by flags, in the shape of the file."""
    found: dict[str, list[str]] = {"blue": list(blue or []), "green": list(green or [])}
    for color, url in pairs(others, "--upstream"):
        found.setdefault(color, []).append(url)
    return {color: {"upstreams": urls} for color, urls in found.items() if urls} or None
