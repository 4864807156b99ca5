"""The supervisor: N worker processes on the same addresses, the dead ones started again, signals turned into orders.

It opens every socket itself and keeps them open until it is told to end: connections that wait in the kernel's queue of
a worker that died are served by the one that takes its place. It runs no event loop and no thread, so that forking is
safe at any time.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from bgproxy import app
from bgproxy.config import Settings
from bgproxy.config.addresses import Address, parse_address
from bgproxy.errors import ConfigError
from bgproxy.proxy.upstream import keep_alive
from bgproxy.telemetry import logs

log = logging.getLogger(__name__)

BACKLOG = 4096  # the kernel cuts it down to net.core.somaxconn
QUICK_DEATH = 1.0  # seconds: a worker that lives less was not well from the start
LONGEST_PAUSE = 5.0  # seconds before such a one is started again
KILL_AFTER = 5.0  # seconds beyond the grace after which a worker that hangs is killed

_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD))


@dataclass(slots=True)
class Seat:
    """One worker's place: its sockets stay when the worker changes."""

    slot: int
    listening: list[socket.socket]
    admin: list[socket.socket]
    pid: int = 0
    line: socket.socket | None = None
    born: float = 0.0
    served: bool = False  # a worker in this place was once ready
    deaths: int = 0  # quick ones in a row
    start_at: float = 0.0


def run(settings: Settings) -> int:
    """Serve until a signal ends it; the exit status of `bgproxy serve`."""
    logs.setup(settings.log().level, settings.log().format, "supervisor")
    try:
        seats = _seats(settings)
        runtime_dir, ours = _runtime_dir(settings.runtime_dir)
    except ConfigError as error:
        log.error("%s", error)
        return 1
    try:
        return Supervisor(settings, seats, runtime_dir).run()
    finally:
        _remove_socket_files(settings)
        if ours:
            shutil.rmtree(runtime_dir, ignore_errors=True)


class Supervisor:
    """Keeps every seat taken until told to end."""

    def __init__(self, settings: Settings, seats: list[Seat], runtime_dir: Path) -> None:
        self._settings = settings
        self._seats = seats
        self._runtime_dir = runtime_dir
        self._ending = False
        self._deadline = float("inf")
        self._status = 0

    def run(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for seat in self._seats:
            self._start(seat)
        addresses = ", ".join(dict.fromkeys(_name(sock) for seat in self._seats for sock in seat.listening))
        admin = ", ".join(dict.fromkeys(_name(sock) for seat in self._seats for sock in seat.admin))
        log.info("listening on %s, admin on %s, %d worker(s)", addresses, admin, len(self._seats))
        while not self._ending or any(seat.pid for seat in self._seats):
            caught = signal.sigtimedwait(_SIGNALS, 0.2)
            if caught is not None and caught.si_signo != signal.SIGCHLD:
                self._heed(caught.si_signo)
            self._bury()
            if not self._ending:
                self._fill()
            elif monotonic() > self._deadline:
                self._kill()
        return self._status

    def _hear(self) -> None:
        """Note which workers have said that they serve."""
        for seat in self._seats:
            if seat.line is not None and not seat.served:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    seat.served = seat.line.recv(1) == app.READY

    def _heed(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif not self._ending:
            self._end()
            log.info("ending: what is in flight has %g s", self._settings.grace_timeout)
        else:
            log.info("told once more to end: what is still in flight is cut short")
            self._deadline = min(self._deadline, monotonic() + KILL_AFTER)
            self._order(app.HURRY)

    def _reload(self) -> None:
        try:
            self._settings = self._settings.taking(self._settings.reread())
        except ConfigError as error:
            log.error("the configuration was not reloaded, the old one stays: %s", error)
        self._order(app.RELOAD)

    def _end(self, status: int = 0) -> None:
        """Our copies of the sockets go first: with them open the kernel would go on accepting for nobody."""
        self._ending, self._status = True, status
        self._deadline = monotonic() + self._settings.grace_timeout + KILL_AFTER
        for seat in self._seats:
            for sock in (*seat.listening, *seat.admin):
                sock.close()
        self._order(app.END)

    def _order(self, order: bytes) -> None:
        for seat in self._seats:
            if seat.line is not None:
                with contextlib.suppress(OSError):
                    seat.line.send(order)

    def _kill(self) -> None:
        for seat in self._seats:
            if seat.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seat.pid, signal.SIGKILL)

    def _bury(self) -> None:
        for seat in self._seats:
            if not seat.pid:
                continue
            pid, status = os.waitpid(seat.pid, os.WNOHANG)
            if pid:
                self._ended(seat, os.waitstatus_to_exitcode(status))

    def _ended(self, seat: Seat, code: int) -> None:
        lived = monotonic() - seat.born
        self._hear()
        seat.pid = 0
        if seat.line is not None:
            seat.line.close()
            seat.line = None
        if code not in (0, app.FATAL):  # else it has left the fleet by itself
            self._order(app.BURY)
        if self._ending:
            self._status = self._status or (0 if code == 0 else 1)
            return
        if code == app.FATAL and not any(other.served for other in self._seats):
            # The worker has said why; the others would meet the same. Once one has served, traffic is worth a try.
            self._end(status=1)
            return
        seat.deaths = seat.deaths + 1 if lived < QUICK_DEATH or code == app.FATAL else 0
        pause = min(LONGEST_PAUSE, 0.1 * 2**seat.deaths) if seat.deaths else 0.0
        seat.start_at = monotonic() + pause
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        log.error("worker %d ended %s and is started again in %.1f s", seat.slot, how, pause)

    def _fill(self) -> None:
        for seat in self._seats:
            if not seat.pid and monotonic() >= seat.start_at:
                self._start(seat)

    def _start(self, seat: Seat) -> None:
        with contextlib.suppress(OSError):  # a cleaner of temporary files may have taken it away
            self._runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            theirs.close()
            seat.pid, seat.line, seat.born = pid, ours, monotonic()
            return
        status = 1
        try:
            ours.close()
            self._leave_others(seat)
            place = app.Place(seat.slot, seat.listening, seat.admin, self._runtime_dir, theirs, seat.served)
            status = app.main(self._settings, place)
        except Exception:
            log.exception("worker %d could not run", seat.slot)
        finally:
            logging.shutdown()
            os._exit(status)

    def _leave_others(self, seat: Seat) -> None:
        """In the new process: let go of what belongs to the other seats, or their ends would never be seen."""
        for other in self._seats:
            if other.line is not None:
                other.line.close()
            if other is not seat:
                for sock in (*other.listening, *other.admin):
                    if sock not in seat.listening and sock not in seat.admin:
                        sock.close()


def _seats(settings: Settings) -> list[Seat]:
    """Every socket of every worker, bound and listening. Raises ConfigError naming the address that cannot be had."""
    seats = [Seat(slot, [], []) for slot in range(settings.workers)]
    for key, address in [("listen", a) for a in settings.listen] + [("admin", parse_address(settings.admin().listen))]:
        for seat, sock in zip(seats, _bind(key, address, settings.workers), strict=True):
            (seat.admin if key == "admin" else seat.listening).append(sock)
    return seats


def _bind(key: str, address: Address, count: int) -> list[socket.socket]:
    try:
        if address.path:
            # Who may write to the admin socket may flip: that is this user, whatever the umask says.
            return [_bind_path(Path(address.path), 0o600 if key == "admin" else 0o666)] * count
        return _bind_port(address, count)
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "another process listens there; stop it or choose another address",
            errno.EACCES: "this user may not; choose a port above 1023 or another directory",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0, "choose another address")
        raise ConfigError(f"{key}: cannot listen on {address}: {error.strerror or error}: {remedy}") from None


def _bind_port(address: Address, count: int) -> list[socket.socket]:
    family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    # SO_REUSEPORT would let us in beside another server that has it set: only without it a port in use is noticed.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        port = probe.getsockname()[1]
    sockets = []
    for _ in range(count):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keep_alive(sock)  # accepted sockets inherit it
        sock.bind((where[0], port, *where[2:]))
        sock.listen(BACKLOG)
        sockets.append(sock)
    return sockets


def _bind_path(path: Path, mode: int) -> socket.socket:
    """One socket for all workers. A file that a dead process left is replaced, a living one's never."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(os.fspath(path))
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    return sock


def _remove_socket_files(settings: Settings) -> None:
    for address in (*settings.listen, parse_address(settings.admin().listen)):
        if address.path:
            Path(address.path).unlink(missing_ok=True)


def _runtime_dir(configured: str) -> tuple[Path, bool]:
    """The private directory for the workers' own sockets and last words, and whether it is ours to remove."""
    if not configured:
        return Path(tempfile.mkdtemp(prefix="bgproxy-")), True
    path = Path(configured)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (*path.glob("worker-*.sock"), *path.glob(app.HANDOVER)):
            left.unlink()
    except OSError as error:
        raise ConfigError(f"runtime_dir: cannot use {configured}: {error.strerror}: choose another directory") from None
    return path, False


def _name(sock: socket.socket) -> str:
    where = sock.getsockname()
    if isinstance(where, str):
        return f"unix:{where}"
    return f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
