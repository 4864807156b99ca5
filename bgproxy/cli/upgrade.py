"""The verb upgrade: it asks the supervisor on this host itself, over the Unix socket in its runtime directory.

Not over the admin API: which program a host runs is said by who may log in there, not by who holds a token.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from bgproxy.cli.client import Admin, RefusedByApi, Unreachable
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Token
from bgproxy.cli.report import clean, print_json, reported
from bgproxy.errors import TYPE_PREFIX
from bgproxy.workers.requests import NAME

MAX_ANSWER_BYTES = 64 * 1024


def upgrade(
    program: Annotated[
        str,
        typer.Option(
            "--program",
            metavar="PATH",
            show_default=False,
            help="The bgproxy to go on with, such as /opt/bgproxy-2/bin/bgproxy; else what it was started by.",
        ),
    ] = "",
    runtime_dir: Annotated[
        str,
        typer.Option(
            "--runtime-dir", metavar="DIR", show_default=False, help="The proxy's own, else the admin API is asked."
        ),
    ] = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Exchange the running proxy on this host for a new one, with its configuration read anew; nothing is cut."""
    with reported(as_json):
        directory = runtime_dir or Admin(admin, token).get("/v1/status", expect="runtime_dir")["runtime_dir"]
        program = os.path.abspath(program) if "/" in program else program  # noqa: PTH100 - a link stays a link
        told = ask(Path(directory) / NAME, {"verb": "upgrade", "program": program})
        if not told.get("done"):
            raise RefusedByApi(_problem(str(told.get("why"))))
        if as_json:
            print_json(told)
            return
        before, after = clean(told.get("before")), clean(told.get("version"))
        typer.echo(f"upgraded from {before} to {after}; {clean(told.get('finishing'))} worker(s) finish what they hold")


def ask(path: Path, what: dict[str, Any]) -> dict[str, Any]:
    """One request to a supervisor, and its answer, which comes when it is known. Raises Unreachable."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(os.fspath(path))
            line.sendall(json.dumps(what).encode() + b"\n")
        except OSError as error:
            raise Unreachable(
                f"no supervisor answers at {path}: {error.strerror or error}; run this on the proxy's own host, as its "
                "user or root, or send its process SIGUSR2"
            ) from None
        answer = b""
        try:
            while not answer.endswith(b"\n") and (data := line.recv(MAX_ANSWER_BYTES)):
                answer += data
            told = json.loads(answer)
        except (OSError, ValueError):
            raise Unreachable(
                "the supervisor has gone without an answer; what became of it is in its log, look with `bgproxy status`"
            ) from None
    return dict(told)


def _problem(why: str) -> dict[str, Any]:
    return {
        "type": f"{TYPE_PREFIX}not_upgraded",
        "title": "The proxy was not upgraded",
        "detail": why,
        "code": "not_upgraded",
    }
