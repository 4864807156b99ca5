"""The listening sockets of a proxy, by the address that each of them is for; those too that systemd has opened for it.

Promises that an address is had by one proxy at a time, that one which cannot be had is named with a remedy, and that
sockets which are open already stay open: whoever waits in the kernel's queue of one would see its end as a reset.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bgproxy.config import Settings
from bgproxy.config.addresses import Address, parse_address
from bgproxy.errors import ConfigError
from bgproxy.proxy.upstream import keep_alive

BACKLOG = 4096  # the kernel cuts it down to net.core.somaxconn

_REMEDIES = {
    errno.EADDRINUSE: "another process listens there; stop it or choose another address",
    errno.EACCES: "this user may not; choose a port above 1023 or another directory",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


@dataclass(frozen=True, slots=True)
class Door:
    """The sockets of one address. Of a port each worker has its own, of a path all have the same one."""

    key: str  # listen, admin or preview
    address: Address  # as it is configured: port 0 stays 0
    sockets: list[socket.socket]
    given: bool = False  # opened by systemd, which keeps it open: clients wait there while this proxy is away

    @property
    def name(self) -> str:
        """Where it is found, for people."""
        where = self.sockets[0].getsockname()
        if isinstance(where, str):
            return f"unix:{where}"
        return f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"

    def share(self, place: int, of: int) -> list[socket.socket]:
        """The sockets of one of so many workers. Where there are more than workers, some have several."""
        return self.sockets[place::of] if _may_be_several(self.address, self.sockets) else self.sockets

    def close(self) -> None:
        """Let go of the sockets; who else has them keeps them."""
        for sock in self.sockets:
            sock.close()


def open_doors(
    settings: Settings, standing: Sequence[Door] | None = None, given: Sequence[socket.socket] = ()
) -> list[Door]:
    """Every socket that the settings ask for. Raises ConfigError naming the address that cannot be had.

    Of `standing`, what is asked for is kept and the rest let go of; what is new beside that is bound only, see
    `listen`. `given`: what systemd has opened, all of which must be asked for.
    """
    asked = [("listen", address) for address in settings.listen]
    asked.append(("admin", parse_address(settings.admin().listen)))
    if settings.preview().listen:
        asked.append(("preview", parse_address(settings.preview().listen)))
    left = [*(standing or ()), *_doors_given(asked, given)]
    doors = []
    for key, address in asked:
        same = next((door for door in left if (door.key, door.address) == (key, address)), None)
        if same is not None:
            left.remove(same)
        try:
            door = _open(key, address, settings.workers, same)
            if standing is None:
                listen([door])
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "choose another address")
            why = f"cannot listen on {address}: {error.strerror or error}"
            raise ConfigError(f"{key}: {why}: {remedy}") from None
        doors.append(door)
    for door in left:
        door.close()
    return doors


def listen(doors: Sequence[Door]) -> None:
    """Let clients in. For a socket that listens already nothing changes."""
    for door in doors:
        for sock in door.sockets:
            sock.listen(BACKLOG)


def remove_paths(doors: Sequence[Door]) -> None:
    """Take away the files of Unix sockets, so that nobody looks for us there."""
    for door in doors:
        if door.address.path and not door.given:
            Path(door.address.path).unlink(missing_ok=True)


def sockets_given(environ: MutableMapping[str, str], first: int = 3) -> list[socket.socket]:
    """The sockets that systemd has opened for this very process, see sd_listen_fds(3); its variables are taken away, as
    they are for no child of ours. `first`: the number of the first descriptor."""
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    sockets = [socket.socket(fileno=number) for number in range(first, first + int(count))]
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets


def _doors_given(asked: Sequence[tuple[str, Address]], given: Sequence[socket.socket]) -> list[Door]:
    """A door for each of these sockets, under the address that asks for it. Raises ConfigError where none does."""
    doors = []
    for sock in given:
        name = sock.getsockname()
        where = Address(path=name) if isinstance(name, str) else Address(name[0], name[1])
        found = next(((key, address) for key, address in asked if address == where), None)
        if found is None:
            raise ConfigError(
                f"listen: systemd has opened {where}, which is none of `listen`, `admin.listen` and "
                "`preview.listen`: write the same address in both, a number and not a name"
            )
        if not where.path:
            keep_alive(sock)
        doors.append(Door(*found, [sock], given=True))
    return doors


def _may_be_several(address: Address, sockets: Sequence[socket.socket]) -> bool:
    """Whether each worker may have a socket of its own; one that systemd has opened may be the only one of its port."""
    return not address.path and all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in sockets)


def _open(key: str, address: Address, count: int, same: Door | None) -> Door:
    standing = same.sockets if same is not None else []
    if address.path:
        # Who may write to the admin socket may flip: that is this user, whatever the umask says.
        sockets = standing or [_bind_path(Path(address.path), 0o600 if key == "admin" else 0o666)]
    elif _may_be_several(address, standing):
        sockets = standing + _bind_port(address, count - len(standing), standing)
    else:
        sockets = standing
    return Door(key, address, sockets, same is not None and same.given)


def _bind_port(address: Address, count: int, standing: Sequence[socket.socket]) -> list[socket.socket]:
    """So many sockets more on one port, beside those that stand there."""
    if standing:
        family, where = standing[0].family, standing[0].getsockname()
    else:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        # SO_REUSEPORT would let us in beside another server that has it set: only without it a port in use is noticed.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            where = (where[0], probe.getsockname()[1], *where[2:])
    sockets = []
    for _ in range(count):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keep_alive(sock)  # accepted sockets inherit it
        sock.bind(where)
        sockets.append(sock)
    return sockets


def _bind_path(path: Path, mode: int) -> socket.socket:
    """A file that a dead process left is replaced, a living one's never."""
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
    return sock
