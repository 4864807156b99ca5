"""The supervisor: N worker processes on the same addresses, the dead ones started again, signals turned into orders.

It opens every socket itself and keeps them open until it is told to end: connections that wait in the kernel's queue of
a worker that died are served by the one that takes its place. It runs no event loop and no thread, so that forking is
safe at any time.

At an upgrade a new process starts new workers on the same sockets. Once they are ready they become this process's own,
those before them finish what they hold, and this process goes on with the new program: its pid stays as it was.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from bgproxy import __version__, app, orders
from bgproxy.config import Settings
from bgproxy.errors import ConfigError
from bgproxy.store import handover
from bgproxy.telemetry import logs
from bgproxy.workers import notify, resume
from bgproxy.workers.crew import Crew, Seat, empty_seats, how_it_ended
from bgproxy.workers.doors import listen, open_doors, remove_paths, sockets_given
from bgproxy.workers.passing import doors_document, files_of
from bgproxy.workers.requests import Request, Requests
from bgproxy.workers.trial import identity
from bgproxy.workers.upgrade import Successor, Upgrade, command

log = logging.getLogger(__name__)

QUICK_DEATH = 1.0  # seconds: a worker that lives less was not well from the start
LONGEST_PAUSE = 5.0  # seconds before such a one is started again
KILL_AFTER = 5.0  # seconds beyond the grace after which a worker that hangs is killed
LONGEST_DIRECTORY = 90  # bytes: a Unix socket's path has 107 at most, and /worker-1024.sock is in it
PAUSE, SHORT_PAUSE = 0.2, 0.02  # seconds between two looks; the short one while an upgrade is under way

_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD))


def run(settings: Settings) -> int:
    """Serve until a signal ends it; the exit status of `bgproxy serve`."""
    logs.setup(settings.log().level, settings.log().format, "supervisor")
    try:
        doors = open_doors(settings, given=sockets_given(os.environ))
        runtime_dir, ours = _runtime_dir(settings.runtime_dir)
    except ConfigError as error:
        log.error("%s", error)
        return 1
    crew = Crew(settings, doors, empty_seats(settings.workers), runtime_dir)
    return Supervisor(crew, Requests.at(runtime_dir), ours=ours).run()


class Supervisor:
    """Keeps every seat taken until told to end."""

    def __init__(
        self, crew: Crew, requests: Requests, finishing: list[Seat] | None = None, *, ours: bool = False
    ) -> None:
        """`finishing`: workers of before an upgrade; `ours`: whether the runtime directory is to be removed."""
        self.crew = crew
        self.finishing = finishing or []
        self.requests = requests
        self.ours = ours
        self._upgrade: Upgrade | None = None
        self._asked: Request | None = None  # who waits for its end
        self._ending = self._is_ready = False
        self._is_reloaded = False  # while an upgrade is under way: the new one may have read what was there before
        self._deadline = float("inf")
        self._status = 0

    def run(self) -> int:
        """Until a signal ends it; the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for seat in self.crew.seats:
                if not seat.pid:
                    self._start(seat)
            addresses, admin = (
                ", ".join(door.name for door in self.crew.doors if door.key == key) for key in ("listen", "admin")
            )
            log.info("listening on %s, admin on %s, %d worker(s)", addresses, admin, len(self.crew.seats))
            if previews := ", ".join(door.name for door in self.crew.doors if door.key == "preview"):
                log.info("previews on %s", previews)
            while not self._ending or any(seat.pid for seat in (*self.crew.seats, *self.finishing)):
                self._turn()
            return self._status
        finally:
            self.requests.close()
            remove_paths(self.crew.doors)
            if self.ours:
                shutil.rmtree(self.crew.runtime_dir, ignore_errors=True)

    def _turn(self) -> None:
        caught = signal.sigtimedwait(_SIGNALS, SHORT_PAUSE if self._upgrade is not None else PAUSE)
        self.crew.hear()
        self._bury()
        if caught is not None and caught.si_signo != signal.SIGCHLD:
            self._heed(caught.si_signo)
        if self._ending:
            if monotonic() > self._deadline:
                self._kill()
            return
        self.crew.steer()
        self._fill()
        self._tell_when_ready()
        if (asked := self.requests.next()) is not None:
            self._answer(*asked)
        self._look_at_upgrade()
        for seat in self.finishing:
            if monotonic() > seat.until:
                seat.kill()

    def _heed(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR2:
            if why := self._begin_upgrade():
                log.error("no upgrade: %s", why)
        elif not self._ending:
            self._end()
            log.info("ending: what is in flight has %g s", self.crew.settings.grace_timeout)
        else:
            log.info("told once more to end: what is still in flight is cut short")
            self._deadline = min(self._deadline, monotonic() + KILL_AFTER)
            self._order(orders.HURRY)

    def _reload(self) -> None:
        notify.notify(*notify.reloading())
        try:
            self.crew.settings = self.crew.settings.taking(self.crew.settings.reread())
        except ConfigError as error:
            log.error("the configuration was not reloaded, the old one stays: %s", error)
        self._order(orders.RELOAD)
        notify.notify(notify.READY)
        self._is_reloaded = True

    def _end(self, status: int = 0) -> None:
        """Our copies of the sockets go first: with them open the kernel would go on accepting for nobody."""
        notify.notify(notify.STOPPING)
        self._ending, self._status = True, status
        self._deadline = monotonic() + self.crew.settings.grace_timeout + KILL_AFTER
        if self._upgrade is not None:
            self._upgrade_failed("the proxy was told to end")
        for door in self.crew.doors:
            door.close()
        self._order(orders.END)

    def _order(self, word: str) -> None:
        self.crew.say(word)
        for seat in self.finishing:
            seat.say(word)

    def _kill(self) -> None:
        for seat in (*self.crew.seats, *self.finishing):
            seat.kill()

    # The dead

    def _bury(self) -> None:
        """All children that have ended, those too that an upgrade which failed has left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            if self._upgrade is not None and self._upgrade.pid == pid:
                self._upgrade.code = code
            for seat in (*self.crew.seats, *self.finishing):
                if seat.pid == pid:
                    self._ended(seat, code)

    def _ended(self, seat: Seat, code: int) -> None:
        lived = monotonic() - seat.born
        self.crew.hear()
        seat.pid = 0
        seat.close()
        if code not in (0, app.FATAL):  # else it has left the fleet by itself
            self._order(orders.BURY)
        if self._ending:
            self._status = self._status or (0 if code == 0 else 1)
            return
        if seat in self.finishing:
            self._finished(seat, code)
            return
        if code == app.FATAL and not any(other.served for other in self.crew.seats):
            # The worker has said why; the others would meet the same. Once one has served, traffic is worth a try.
            self._end(status=1)
            return
        seat.missing = True
        seat.deaths = seat.deaths + 1 if lived < QUICK_DEATH or code == app.FATAL else 0
        pause = min(LONGEST_PAUSE, 0.1 * 2**seat.deaths) if seat.deaths else 0.0
        seat.start_at = monotonic() + pause
        log.error("worker %d %s and is started again in %.1f s", seat.slot, how_it_ended(code), pause)

    def _finished(self, seat: Seat, code: int) -> None:
        self.finishing.remove(seat)
        if code == 0:
            log.info("worker %d, from before an upgrade, has finished", seat.slot)
            return
        log.error("worker %d, from before an upgrade, %s: what it held is cut", seat.slot, how_it_ended(code))

    def _fill(self) -> None:
        for seat in self.crew.seats:
            if not seat.pid and monotonic() >= seat.start_at:
                self._start(seat)

    def _start(self, seat: Seat) -> None:
        others = (*self.finishing, self.requests, self._upgrade, self._asked)
        self.crew.start(seat, [other for other in others if other is not None])

    def _tell_when_ready(self) -> None:
        if not self._is_ready and all(seat.served for seat in self.crew.seats):
            self._is_ready = True
            notify.notify(notify.READY, f"STATUS=bgproxy {__version__}, {len(self.crew.seats)} worker(s)")

    # The upgrade

    def _answer(self, request: Request, asked: dict[str, Any]) -> None:
        if asked.get("verb") != "upgrade":
            request.answer(done=False, why="this proxy knows no such request")
        elif why := self._begin_upgrade(str(asked.get("program") or "")):
            request.answer(done=False, why=why)
        else:
            self._asked = request

    def _begin_upgrade(self, program: str = "") -> str:
        """Start the new process; why that cannot be, or nothing."""
        if self._ending:
            return "this proxy was told to end"
        if self._upgrade is not None:
            return "an upgrade is under way already"
        if not all(seat.served for seat in self.crew.seats):
            return "this proxy has not started yet; try again once all of its workers serve"
        settings, doors = self.crew.settings, self.crew.doors
        begin = {
            "say": "begin",
            "version": __version__,
            "slots": [seat.slot for seat in (*self.crew.seats, *self.finishing)],
            "runtime_dir": os.fspath(self.crew.runtime_dir),
            "fleet": settings.fleet,
            "store": identity(settings),
            "doors": doors_document(doors),
        }
        words = command(program)
        try:
            self._upgrade = Upgrade(words, begin, files_of(doors), settings.upgrade().start_timeout)
        except OSError as error:
            return f"{words[0]} cannot be started: {error.strerror or error}"
        self._is_reloaded = False
        log.info("upgrade: process %d starts new workers, these go on until they are ready", self._upgrade.pid)
        return ""

    def _look_at_upgrade(self) -> None:
        found = self._upgrade.look() if self._upgrade is not None else None
        if isinstance(found, Successor):
            try:
                listen(found.doors)
            except OSError as error:
                found.close()
                self._upgrade_failed(f"a new address cannot be listened on: {error.strerror}")
                return
            self._succeed(found)
        elif found is not None:
            self._upgrade_failed(found)

    def _upgrade_failed(self, why: str) -> None:
        log.error("the upgrade failed, everything goes on as it was: %s", why)
        self._upgrade_over(done=False, why=f"the upgrade failed, everything goes on as it was: {why}")

    def _upgrade_over(self, **what: object) -> None:
        assert self._upgrade is not None
        self._upgrade.abandon()
        self._upgrade = None
        if self._asked is not None:
            self._asked.answer(**what)
            self._asked = None

    def _succeed(self, new: Successor) -> None:
        """The new workers accept from here on, and those before them finish. Then this program is exchanged too."""
        assert self._upgrade is not None
        self._upgrade.take()
        words, before = self._upgrade.words, self.crew
        self.crew = Crew(before.settings, new.doors, new.seats, before.runtime_dir)
        self.crew.say(orders.ACCEPT)
        before.say(orders.FINISH)
        timeout = before.settings.upgrade().finish_timeout
        for seat in before.seats:
            if seat.pid:
                seat.until = monotonic() + timeout + KILL_AFTER if timeout else seat.until
                self.finishing.append(seat)
        for door in before.doors:
            door.close()
        kept = {door.address.path for door in new.doors}
        remove_paths([door for door in before.doors if door.address.path not in kept])
        log.info("upgraded from %s to %s: %d worker(s) finish", __version__, new.version, len(self.finishing))
        self._upgrade_over(done=True, version=new.version, before=__version__, finishing=len(self.finishing))
        try:
            known = resume.Known(self.crew, self.finishing, self.requests, self.ours, self._is_reloaded)
            resume.exchange(words, known, new.settings)
        except OSError as error:
            log.error("%s cannot be run: %s; the supervisor goes on with its old program", words[0], error.strerror)


def go_on() -> int:
    """Supervise what another program did in this process before; the exit status."""
    known = resume.told()
    log_section = known.crew.settings.log()
    logs.setup(log_section.level, log_section.format, "supervisor")
    supervisor = Supervisor(known.crew, known.requests, known.finishing, ours=known.ours)
    if known.reload:
        supervisor._reload()
    return supervisor.run()


def _runtime_dir(configured: str) -> tuple[Path, bool]:
    """The private directory for the workers' own sockets and last words, and whether it is ours to remove."""
    if not configured:
        _must_be_short(Path(tempfile.gettempdir()) / "bgproxy-12345678")
        return Path(tempfile.mkdtemp(prefix="bgproxy-")), True
    path = Path(configured)
    _must_be_short(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (*path.glob("worker-*.sock"), *path.glob("hold-*.sock"), *handover.slots(path / app.HANDOVER)):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"runtime_dir: cannot use {configured}: {error.strerror}: choose another directory") from None
    return path, False


def _must_be_short(path: Path) -> None:
    if (length := len(os.fsencode(path))) > LONGEST_DIRECTORY:
        raise ConfigError(
            f"runtime_dir: {path} is too long for the sockets in it ({length} bytes, at most {LONGEST_DIRECTORY}): "
            "choose a directory with a shorter path"
        )
