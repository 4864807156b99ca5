"""The verbs recordings list and recordings delete: the sessions that this host has kept for replays.

They read the configuration, and the files that it names, by its key: no proxy is asked, and nothing that was said is
shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bgproxy.cli.options import ConfigFile, Json
from bgproxy.cli.report import clean, print_json, reported
from bgproxy.cli.settings import loaded
from bgproxy.cli.verbs import verb
from bgproxy.errors import BgproxyError

if TYPE_CHECKING:
    from bgproxy.rollout.records import Records

app = typer.Typer(no_args_is_help=True, help="Look at the sessions that this host has recorded for replays.")


@verb(app, "bgproxy recordings list --config config/bgproxy.toml", name="list")
def listed(config: ConfigFile = None, as_json: Json = False) -> None:
    """List them, the newest first: turns, bytes, when they began and the release that answered; what cannot be used."""
    with reported(as_json):
        found = list(_described(_records(config)))
        if as_json:
            print_json({"recordings": found})
            return
        for one in found:
            said = one.get("broken") or f"{one['turns']} turns, {one['release']}, began {one['began']}"
            typer.echo(clean(f"{one['session']}  {one['bytes']:>9} bytes  {said}"))
        typer.echo(f"{len(found)} sessions")


@verb(app, "bgproxy recordings delete --all --config config/bgproxy.toml")
def delete(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="SESSION", show_default=False, help="Names, as they are listed.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", metavar="", help="All of them.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Delete recorded sessions. One that is still going on is not recorded any further."""
    with reported(as_json):
        records = _records(config)
        known = _names(records)
        if bool(sessions) == everything:
            raise BgproxyError("name the sessions to delete, or give --all")
        chosen = known if everything else list(dict.fromkeys(sessions or ()))
        if strange := [name for name in chosen if name not in known]:
            raise BgproxyError(f"there is no recording {strange[0]}: `bgproxy recordings list` has their names")
        for name in chosen:
            records.remove(name)
        if as_json:
            print_json({"deleted": chosen})
        else:
            typer.echo(f"{len(chosen)} sessions deleted")


def _records(config: str | None) -> Records:
    from bgproxy.rollout.recording import records_of

    options = loaded(config).recording()
    if not options.directory:
        raise BgproxyError("nothing is recorded: the configuration names no recording.directory")
    return records_of(options)


def _names(records: Records) -> list[str]:
    try:
        return records.sessions()
    except OSError as error:
        raise BgproxyError(f"the recordings cannot be read: {error.filename}: {error.strerror}") from None


def _described(records: Records) -> Iterator[dict[str, Any]]:
    from datetime import UTC, datetime

    from bgproxy.rollout.records import Broken

    for name in _names(records):
        one: dict[str, Any] = {"session": name, "bytes": records.size(name)}
        try:
            turns = records.read(name)
            began = datetime.fromtimestamp(float(turns[0]["at"]), UTC).isoformat(timespec="seconds")
            yield {**one, "turns": len(turns), "release": str(turns[0]["release"]), "began": began}
        except Broken as error:
            yield {**one, "broken": str(error)}
        except (KeyError, TypeError, ValueError):
            yield {**one, "broken": "it was written by another version"}
