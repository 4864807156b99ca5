"""A worker's process: how it is forked off, and what it does from there to its end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from time import monotonic

import uvloop

from bgproxy.app import Worker
from bgproxy.config import Settings
from bgproxy.orders import Place
from bgproxy.telemetry import logs

log = logging.getLogger(__name__)


def fork(
    settings: Settings, place: Callable[[socket.socket], Place], let_go: Callable[[], None]
) -> tuple[int, socket.socket]:
    """A new worker: its pid, and our end of the line to it. No thread and no event loop may run here.

    `place` is called in the new process with its own end, and `let_go` before that: it closes what is not its.
    """
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    status = 1
    try:
        ours.close()
        let_go()
        status = main(settings, place(theirs))
    except Exception:
        log.exception("the worker could not run")
    finally:
        logging.shutdown()
        os._exit(status)


def main(settings: Settings, place: Place) -> int:
    """Run a worker in this process until it ends; its exit status."""
    logs.setup(settings.log().level, settings.log().format, str(place.slot))

    async def run() -> int:
        return await Worker(settings, place).run()

    # What was loaded stays for good: the collector need not look at it again, and seldom at the rest, of which the
    # data path makes no cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # The supervisor waits for signals and has them blocked; a worker must hear of the end of a gate's program.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    began = monotonic()
    status = uvloop.run(run())
    log.debug("worker %d ended after %.1f s", place.slot, monotonic() - began)
    return status
