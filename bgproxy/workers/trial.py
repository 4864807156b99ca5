"""The new process of an upgrade, from its start until the one that serves has taken its workers over.

It has the standing sockets and starts workers of its own on them, with its own program and configuration, which wait
beside those that serve. When all of them are ready it hands them over and ends; they live on. Whatever goes wrong
until then, the process that serves is told why and goes on as it was. When that one is gone, so is this.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from select import select

from bgproxy import __version__, orders
from bgproxy.config import Settings
from bgproxy.errors import BgproxyError, ConfigError
from bgproxy.store.address import redacted
from bgproxy.telemetry import logs
from bgproxy.workers import TRIAL
from bgproxy.workers.crew import Crew, empty_seats, how_it_ended
from bgproxy.workers.doors import open_doors
from bgproxy.workers.passing import Document, Passing, doors_document, doors_from, files_of, variable, written

log = logging.getLogger(__name__)

LONGEST_WHY = 4_000  # characters of a reason


class UpgradeFailed(BgproxyError):
    """The process that serves goes on as it was."""


def run(load: Callable[[], Settings]) -> int:
    """Be on trial; the exit status. `load` reads the configuration; what is wrong with it is told as well."""
    file = variable(TRIAL)
    assert file is not None, "only the process that serves starts one of this kind, and says so"
    line = Passing(socket.socket(fileno=file))
    try:
        stand(load(), line)
    except Exception as error:
        why = str(error) if isinstance(error, BgproxyError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            line.send({"say": "failed", "why": why[:LONGEST_WHY]})
        raise
    return 0


def stand(settings: Settings, line: Passing) -> None:
    """Start workers, and hand them over once they are ready. Raises BgproxyError for what cannot be."""
    logs.setup(settings.log().level, settings.log().format, "successor")
    begin, files = _next(line)
    _compare(settings, begin)
    doors = open_doors(settings, doors_from(begin["doors"], files))
    seats = empty_seats(settings.workers, begin["slots"])
    crew = Crew(settings, doors, seats, Path(begin["runtime_dir"]))
    try:
        for seat in crew.seats:
            crew.start(seat, [line], beside=True)
        _wait_until_ready(crew, line)
        _hand_over(crew, line)
        _next(line)  # it has them
    except BaseException:
        crew.say(orders.END)
        raise


def _next(line: Passing) -> tuple[Document, list[int]]:
    """What the process that serves says next."""
    try:
        while (said := line.receive()) is None:
            select([line], [], [])
        return said
    except EOFError:
        raise UpgradeFailed("the process that served is gone") from None


def _compare(settings: Settings, begin: Document) -> None:
    """Refuse what would not be known under the new configuration; say what is not taken over."""
    for key, mine in (("fleet", settings.fleet), ("store", identity(settings))):
        if mine != begin[key]:
            raise ConfigError(
                f"{key}: an upgrade cannot change it from {begin[key]} to {mine}, as pointer and sessions would stay "
                "behind: leave it as it was, or stop the proxy and start it anew"
            )
    if settings.runtime_dir and settings.runtime_dir != begin["runtime_dir"]:
        log.warning("runtime_dir: it stays %s until the proxy is started anew", begin["runtime_dir"])


def identity(settings: Settings) -> str:
    """The store's place, without what may change: its password."""
    store = settings.store()
    return f"{redacted(store.url)}{' ' if store.snapshot else ''}{store.snapshot}"


def _wait_until_ready(crew: Crew, line: Passing) -> None:
    while not all(seat.served for seat in crew.seats):
        lines = [seat.line.socket.fileno() for seat in crew.seats if seat.line is not None]
        ready, _, _ = select([line.fileno(), *lines], [], [])
        if line.fileno() in ready:
            _next(line)  # there is nothing to be said yet: this is its end
        for seat in crew.seats:
            seat.hear()
            pid, status = os.waitpid(seat.pid, os.WNOHANG)
            if pid:
                seat.pid = 0
                raise UpgradeFailed(seat.why or f"a new worker {how_it_ended(os.waitstatus_to_exitcode(status))}")


def _hand_over(crew: Crew, line: Passing) -> None:
    lines = [seat.line.socket.fileno() for seat in crew.seats if seat.line is not None]
    settings = written(pickle.dumps(crew.settings), "settings")
    ready = {
        "say": "ready",
        "version": __version__,
        "seats": [{"slot": seat.slot, "pid": seat.pid} for seat in crew.seats],
        "doors": doors_document(crew.doors),
    }
    line.send(ready, [settings, *lines, *files_of(crew.doors)])
