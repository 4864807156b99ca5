"""One performance from the first line on the terminal to the exit code: the run, what ends it early, and its report."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from rich.console import Console

from bgproxy.cli.demo.processes import Family, NotStarted
from bgproxy.cli.demo.run import RELEASES, START, Plan, run
from bgproxy.cli.demo.tally import PointerLog, Tally
from bgproxy.cli.demo.view import View, report

_LOUD = ("mcp", "openai", "httpx2", "websockets")  # what they would log is counted as lost; nobody needs it twice
_LATE_WORKERS = (
    "late: a flip returns once the worker that was asked has flipped; the others follow as the store tells them, and "
    "what they took in those milliseconds went to the release before"
)
_STOPPED = 130  # what shells report of a command that was interrupted


def perform(plan: Plan, *, as_json: bool = False) -> int:
    """Run, report and return the exit code: 0 only if everything that was planned was done and nothing was lost."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    tally, family = Tally(PointerLog(RELEASES[START])), Family()
    console = Console(quiet=as_json)
    try:
        with View(console, plan, tally) as view:
            asyncio.run(_stoppable(run(plan, tally, family, view.screen)))
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("demo: stopped before its end; what it has counted says nothing", file=sys.stderr)
        return _STOPPED
    finally:
        family.kill()
    tally.problems += tally.doubts(list(RELEASES.values()))
    if plan.workers > 1 and any(row.lost["late"] for row in tally.rows.values()):
        tally.problems.append(_LATE_WORKERS)
    good = not (tally.lost or tally.problems)
    if as_json:
        print(json.dumps({"ok": good, **tally.document()}, indent=2))
    report(console, tally)
    return 0 if good else 1


async def _stoppable(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; SIGTERM and SIGHUP end it as Ctrl-C does, with everything that it has started."""
    me = asyncio.current_task()
    assert me is not None  # this is a coroutine, so some task runs it
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    await work
