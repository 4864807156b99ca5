"""The verb report: all that is on record of one release, as a page and as JSON."""

from __future__ import annotations

import json
import time as clock
from pathlib import Path
from typing import Annotated, Any

import typer

from bgproxy import __version__
from bgproxy.cli.audit import all_entries, put
from bgproxy.cli.client import Admin, RefusedByApi
from bgproxy.cli.options import ADMIN, AdminUrl, Token
from bgproxy.cli.report import clean, print_json, reported
from bgproxy.errors import Refused

_SHOWN = 20  # labels that are named where one is not known


def report(
    release: Annotated[str, typer.Argument(metavar="RELEASE", show_default=False, help="A label, such as v2.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", show_default=False, help="Write a page that needs nothing.")
    ] = None,
    as_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", show_default=False, help="Write it as JSON.")
    ] = None,
    admin: AdminUrl = ADMIN,
    token: Token = "",
) -> None:
    """Report on one release: timeline, gates with evidence, both colors' figures, flips, approvals, the record's hash.

    Without --html and --json the JSON goes to stdout. Exit 1 where the release is not on record, or the record is not
    what was once written (the report is written all the same).
    """
    with reported():
        document = gathered(Admin(admin, token), release)
        if html is not None:
            from bgproxy.cli.reporting.page import page

            put(html, page(document))
        if as_file is not None:
            put(as_file, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        if html is None and as_file is None:
            print_json(document)
        else:
            typer.echo(clean(_said(document, [str(file) for file in (html, as_file) if file is not None])))
        if not document["chain"]["intact"]:
            raise Refused(f"the audit is not what was once written: {document['chain']['fault']['detail']}")


def gathered(api: Admin, label: str) -> dict[str, Any]:
    """The report's document. Raises `Refused` where nothing is on record of that release, with those that are."""
    from bgproxy.cli.reporting.record import Record

    record = Record(label)
    for entry in all_entries(api):
        record.take(entry)
    if not record.is_known:
        known = [*record.known]
        named = ", ".join(known[-_SHOWN:]) or "none"
        more = f" (the newest {_SHOWN} of {len(known)})" if len(known) > _SHOWN else ""
        raise Refused(f"no release {label[:140]!r} is on record; known are {named}{more}")
    chain = api.get("/v1/audit/verify", expect="intact")
    ledgers = {epoch: ledger for epoch in record.epochs() if (ledger := _ledger(api, epoch)) is not None}
    fleet = api.get("/v1/status", expect="epoch").get("fleet")
    about = {"fleet": fleet, "made": round(clock.time(), 3), "version": __version__}
    return {**about, **record.document(chain, ledgers)}


def _ledger(api: Admin, epoch: int) -> dict[str, Any] | None:
    """What became of a flip's sessions; None where that is not kept any more."""
    try:
        return api.get(f"/v1/flips/{epoch}", expect="kept")
    except RefusedByApi as error:
        if error.problem.get("code") != "unknown_flip":
            raise
        return None


def _said(document: dict[str, Any], files: list[str]) -> str:
    chain = document["chain"]
    kept = f"{len(document['timeline'])} entries, chain head {chain['head']}"
    cut = "" if document["begins"]["known"] else f"; {document['begins']['said']}"
    return f"{document['release']} is reported in {' and '.join(files)}: {kept}{cut}"
