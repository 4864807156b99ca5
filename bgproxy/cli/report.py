"""How a verb ends: what it prints where it fails, and with which exit code.

Failures go to stderr as one line and a remedy; with --json the problem document goes to stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import typer

from bgproxy.cli.client import RefusedByApi, Unreachable
from bgproxy.errors import TYPE_PREFIX, BgproxyError, ConfigError, Problem, problem_json

DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3

REMEDIES: Mapping[str, str] = {
    "bad_request": "correct what was asked for",
    "forbidden": "use a token with the role operator",
    "key_reused": "repeat the first request as it was, or use another --idempotency-key",
    "no_run": "begin one with `bgproxy release`",
    "not_ready": "repair what is named; --force overrules what can be overruled, and is on record",
    "not_upgraded": "the running proxy is untouched; mend what is named, then try again",
    "stale_epoch": "look with `bgproxy status`, then try again with the epoch that stands",
    "store_unavailable": "nothing was half-done, traffic flows on; try again when the store is back",
    "too_many_failures": "wait a minute and use the right token",
    "unauthorized": "give --token, or better set BGPROXY_TOKEN",
    "unknown_color": "`bgproxy status` lists the colors",
    "unknown_flip": "`bgproxy flips` lists those that are known",
    "unknown_node": "`bgproxy nodes` lists those that are registered",
    "unknown_session": "`bgproxy sessions list` lists those that live",
}
"""By the problem's code, where its detail may not say what to do."""


@contextmanager
def reported(as_json: bool = False, *, lines: bool = False) -> Iterator[None]:
    """End the verb with the right exit code whatever its block raises. `lines`: its JSON is one document per line."""
    tell = print_line if lines else print_json
    try:
        yield
    except RefusedByApi as error:
        _fail(error.problem, as_json and tell, REFUSED)
    except Problem as error:
        _fail(problem_json(error), as_json and tell, REFUSED)
    except Unreachable as error:
        _fail(_own_problem("unreachable", "The admin API cannot be reached", error), as_json and tell, UNREACHABLE)
    except ConfigError as error:
        _fail(_own_problem("config", "The configuration cannot be used", error), as_json and tell, USAGE)
    except BgproxyError as error:
        _fail(_own_problem("failed", "It failed", error), as_json and tell, REFUSED)
    except BrokenPipeError:
        # Whoever read our output has enough. What is left in the buffer must not fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(DONE) from None


def print_json(document: object) -> None:
    """The document on stdout, for programs and for people who pipe it."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_line(document: object) -> None:
    """The document on one line of stdout, for who reads line by line."""
    typer.echo(json.dumps(document, ensure_ascii=False))


def clean(text: object) -> str:
    """Text from elsewhere as it may reach a terminal: what is no printable character is left out."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def _own_problem(code: str, title: str, error: BgproxyError) -> dict[str, Any]:
    return {"type": TYPE_PREFIX + code, "title": title, "detail": str(error), "code": code}


def _fail(problem: dict[str, Any], tell: Callable[[object], None] | Literal[False], code: int) -> None:
    if tell:
        tell(problem)
    else:
        for line in str(problem.get("detail") or problem.get("title")).splitlines():
            typer.echo(f"bgproxy: {clean(line)}", err=True)
        if remedy := REMEDIES.get(str(problem.get("code"))):
            typer.echo(f"  {remedy}", err=True)
    raise typer.Exit(code) from None
