"""The verb audit: who changed what and why; the whole record as a file, and whether it is what was once written."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from bgproxy.cli.client import Admin
from bgproxy.cli.options import ADMIN, AdminUrl, Json, Token
from bgproxy.cli.report import REFUSED, clean, print_json, reported
from bgproxy.errors import ConfigError

PAGE = 1000  # entries asked for at once

_HASH = re.compile(r"[0-9a-f]{64}")


def audit(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", show_default=False, help="With --export: written; with --verify: looked at."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            metavar="",
            help="Walk the hash chain of all entries, or of an exported FILE; exit 1 where it is broken.",
        ),
    ] = False,
    export: Annotated[
        bool,
        typer.Option("--export", metavar="", help="Print all entries, the oldest first, one JSON object per line."),
    ] = False,
    head: Annotated[
        str,
        typer.Option(
            "--head", metavar="HASH", show_default=False, help="With --verify: a head it told before, kept since."
        ),
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="Entries at most, newest first.")
    ] = 20,
    before: Annotated[
        str, typer.Option("--before", metavar="ID", show_default=False, help="An entry's id: only older ones.")
    ] = "",
    admin: AdminUrl = ADMIN,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Show who changed what, when and why, the newest first; or export, or verify, the whole record."""
    if verify and export:
        raise typer.BadParameter("--verify and --export: one at a time")
    if file is not None and not (verify or export):
        raise typer.BadParameter("FILE goes with --export or --verify")
    if head and not (verify and _HASH.fullmatch(head)):
        raise typer.BadParameter("--head is a hash of 64 hex digits, and goes with --verify")
    with reported(as_json):
        if verify:
            _tell(_verified_file(file, head) if file else _verified(Admin(admin, token), head), as_json)
        elif export:
            with _written(file) as out:
                for entry in all_entries(Admin(admin, token)):
                    print(json.dumps(entry, ensure_ascii=False, separators=(",", ":")), file=out)
        else:
            _show(Admin(admin, token), limit, before, as_json)


def _show(api: Admin, limit: int, before: str, as_json: bool) -> None:
    document = api.get("/v1/audit", expect="entries", limit=limit, **({"before": before} if before else {}))
    if as_json:
        print_json(document)
        return
    from bgproxy.cli.screen import show_audit

    show_audit(document)


def all_entries(api: Admin) -> Iterator[dict[str, Any]]:
    """All entries, the oldest first."""
    after: str | None = "0"
    while after is not None:
        page = api.get("/v1/audit", expect="entries", limit=PAGE, after=after)
        yield from page["entries"]
        after = page["next"]


@contextmanager
def _written(file: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that is there whole or not at all."""
    if file is None:
        yield sys.stdout
        return
    part = Path(f"{file}.part")
    try:
        with part.open("w", encoding="utf-8") as out:
            yield out
        part.replace(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}; name another file") from None
    finally:
        part.unlink(missing_ok=True)


def put(file: Path, text: str) -> None:
    """Write a file that is there whole or not at all. Raises ConfigError where it cannot be."""
    with _written(file) as out:
        out.write(text)


def _verified(api: Admin, head: str) -> dict[str, Any]:
    return api.get("/v1/audit/verify", expect="intact", **({"head": head} if head else {}))


def _verified_file(file: Path, head: str) -> dict[str, Any]:
    """What an exported file is worth, by itself: nothing but it is asked."""
    from bgproxy.rules.chain import Walk

    walk = Walk(kept=head)
    try:
        with file.open(encoding="utf-8", errors="backslashreplace") as lines:
            for number, line in enumerate(lines, 1):
                walk.take(_entry(line, number))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}; name an exported file") from None
    report = walk.report()
    return {"intact": report.fault is None, **asdict(report)}


def _entry(line: str, number: int) -> dict[str, Any]:
    """One line's entry; of one that is none, something whose hash cannot be right, named by its line."""
    try:
        entry = json.loads(line, object_pairs_hook=_once)
        if isinstance(entry, dict):
            return entry
    except (ValueError, RecursionError):
        pass
    return {"id": f"line {number} of the file", "hash": "", "seq": None}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member stands twice: which one counts, each reader decides for itself")
    return members


def _tell(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif found["intact"]:
        typer.echo(clean("; ".join(_intact(found))))
    if not found["intact"]:
        _broken(found["fault"]["detail"], as_json)


def _broken(detail: str, as_json: bool) -> NoReturn:
    if not as_json:
        typer.echo(f"bgproxy: the audit is not what was once written: {clean(detail)}", err=True)
        typer.echo("  keep the store as it is, and compare with an earlier export", err=True)
    raise typer.Exit(REFUSED)


def _intact(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["entries"]:
        yield "nothing to verify: no entry carries a hash"
    else:
        count = f"{found['entries']} {'entry' if found['entries'] == 1 else 'entries'}"
        yield f"intact: {count}, {found['first']} to {found['last']}, head {found['head']}"
    if found["anchor"]:
        yield f"what came before {found['first']} is retired, and told by its last hash {found['anchor']}"
    if found["before"]:
        yield f"from before the chain, and not to be verified: {found['before']}"
