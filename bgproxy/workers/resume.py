"""A supervisor that exchanges its program: what it knows goes along, in a file without a name, over the exec.

The new program is the one whose workers are ready already, so it can read their settings. Nothing that lives ends by
this: workers stay children of this process, and lines and sockets stay open.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgproxy.errors import ConfigError
from bgproxy.orders import Line
from bgproxy.workers import RESUME
from bgproxy.workers.crew import Crew, Seat
from bgproxy.workers.passing import FORMAT, doors_document, doors_from, files_of, read, variable, written
from bgproxy.workers.requests import Requests


@dataclass(frozen=True, slots=True)
class Known:
    """What a supervisor knows."""

    crew: Crew
    finishing: list[Seat]  # workers of before an upgrade
    requests: Requests
    ours: bool  # the runtime directory is to be removed
    reload: bool  # the new program is to read its configuration once more


def exchange(words: list[str], known: Known, settings: int) -> None:
    """Run the new program in this process. `settings`: the descriptor of those that it has written itself.

    Does not return. Raises OSError where it cannot be run: then everything is as before.
    """
    crew, requests = known.crew, known.requests
    document: dict[str, Any] = {
        "format": FORMAT,
        "settings": settings,
        "seats": [_seat_document(seat) for seat in crew.seats],
        "finishing": [_seat_document(seat) for seat in known.finishing],
        "doors": doors_document(crew.doors),
        "sockets": files_of(crew.doors),
        "requests": requests.socket.fileno() if requests.socket is not None else None,
        "runtime_dir": os.fspath(crew.runtime_dir),
        "ours": known.ours,
        "reload": known.reload,
    }
    told = written(json.dumps(document).encode(), "supervisor")
    files = [told, *_files(document)]
    try:
        for file in files:
            os.set_inheritable(file, True)
        os.execvpe(words[0], words, {**os.environ, RESUME: str(told)})  # noqa: S606 - the words are our own
    finally:
        for file in files:
            os.set_inheritable(file, False)
        os.close(told)
        os.close(settings)


def told() -> Known:
    """What the program before this one knew."""
    file = variable(RESUME)
    document: dict[str, Any] = json.loads(read(file)) if file is not None else {}
    if document.get("format") != FORMAT:
        raise ConfigError(f"{RESUME}: bgproxy sets this for its own processes; unset it")
    for file in _files(document):
        os.set_inheritable(file, False)
    settings = pickle.loads(read(document["settings"]))  # noqa: S301 - written by this very program, see trial.py
    seats = [_seat(one) for one in document["seats"]]
    doors = doors_from(document["doors"], document["sockets"])
    crew = Crew(settings, doors, seats, Path(document["runtime_dir"]))
    requests = Requests(socket.socket(fileno=document["requests"]) if document["requests"] is not None else None)

    finishing = [_seat(one) for one in document["finishing"]]
    return Known(crew, finishing, requests, bool(document["ours"]), bool(document.get("reload")))


def _files(document: dict[str, Any]) -> list[int]:
    """Every descriptor that goes along."""
    lines = [seat["line"] for seat in (*document["seats"], *document["finishing"])]
    told = [document["settings"], document["requests"], *lines, *document["sockets"]]
    return [file for file in told if file is not None]


def _seat_document(seat: Seat) -> dict[str, Any]:
    return {
        "slot": seat.slot,
        "pid": seat.pid,
        "line": seat.line.socket.fileno() if seat.line is not None else None,
        "served": seat.served,
        "born": seat.born,  # CLOCK_MONOTONIC is the machine's, not the process's
        "until": seat.until if seat.until != float("inf") else None,
    }


def _seat(document: dict[str, Any]) -> Seat:
    seat = Seat(document["slot"], document["pid"], born=document["born"], served=document["served"])
    if document["line"] is not None:
        seat.line = Line(socket.socket(fileno=document["line"]))
    if document["until"] is not None:
        seat.until = document["until"]
    return seat
