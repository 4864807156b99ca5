"""What is opened, what is kept open, and what is said where that cannot be."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy.config import Settings
from bgproxy.errors import ConfigError
from bgproxy.workers.doors import Door, listen, open_doors, remove_paths, sockets_given

ANYWHERE = "127.0.0.1:0"


def settings(listen: str | list[str] = ANYWHERE, admin: str = ANYWHERE, workers: int = 1) -> Settings:
    flags: dict[str, Any] = {
        "listen": [listen] if isinstance(listen, str) else listen,
        "admin": {"listen": admin},
        "workers": workers,
        "store": "redis://127.0.0.1:1/0",
    }
    return Settings.load(None, flags, {})


@pytest.fixture
def opened() -> Iterator[Callable[..., list[Door]]]:
    """`open_doors`, whose sockets are closed at the end."""
    doors: list[Door] = []

    def open_them(settings: Settings, *more: Any) -> list[Door]:
        doors.extend(found := open_doors(settings, *more))
        return found

    yield open_them
    for door in doors:
        door.close()


def is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def names(sockets: list[socket.socket]) -> set[Any]:
    return {sock.getsockname() for sock in sockets}


def test_every_worker_gets_a_socket_of_its_own_on_one_port(opened):
    door, _ = opened(settings(workers=3))
    assert len(names(door.sockets)) == 1
    assert [door.share(place, 3) for place in range(3)] == [[sock] for sock in door.sockets]
    assert all(map(is_listening, door.sockets))
    with pytest.raises(ConfigError, match=r"listen: cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
        open_doors(settings(door.name))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_cannot_be_had_is_named_with_a_remedy(host):
    with pytest.raises(ConfigError, match=f"listen: cannot listen on {host}:1: .+: .+"):
        open_doors(settings(f"{host}:1"))


def test_a_socket_file_of_a_dead_process_is_replaced_and_a_living_one_s_never(opened, directory):
    asked = settings(f"unix:{directory}/x.sock")
    first, _ = opened(asked)
    with pytest.raises(ConfigError, match="Address already in use: another process listens there"):
        open_doors(asked)
    first.close()
    opened(asked)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{directory}/x.sock")


def test_who_may_write_to_the_admin_socket_may_flip_so_that_is_its_owner_alone(opened, directory):
    doors = opened(settings(f"unix:{directory}/c.sock", f"unix:{directory}/a.sock", workers=2))
    assert [door.share(0, 2) for door in doors] == [door.share(1, 2) for door in doors], "all accept on the one socket"
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == {
        "c.sock": 0o666,
        "a.sock": 0o600,
    }
    remove_paths(doors)
    remove_paths(doors)
    assert not [*directory.iterdir()]


def test_a_file_that_is_no_socket_is_never_removed(directory):
    path = directory / "precious"
    path.write_text("x")
    with pytest.raises(ConfigError, match="listen: cannot listen on unix:"):
        open_doors(settings(f"unix:{path}"))
    assert path.read_text() == "x"


# At an upgrade


def test_what_stands_is_kept_and_what_is_new_does_not_listen_before_it_is_time(opened, directory):
    """Port 0 is the port that was had; more workers get more sockets on it."""
    before = opened(settings([ANYWHERE, f"unix:{directory}/c.sock"], workers=2))
    standing = [sock.fileno() for door in before for sock in door.sockets]
    after = opened(settings([ANYWHERE, f"unix:{directory}/c.sock", "127.0.0.2:0"], workers=3), before)
    port, path, new, admin = after
    assert [sock.fileno() for door in (port, path, admin) for sock in door.sockets if is_listening(sock)] == standing
    assert [len(door.sockets) for door in after] == [3, 1, 3, 3]
    assert len(names(port.sockets)) == 1
    assert not any(map(is_listening, new.sockets))
    listen(after)
    assert all(is_listening(sock) for door in after for sock in door.sockets)


def test_fewer_workers_have_several_sockets_each(opened):
    """None may be closed: who waits in its queue would be reset."""
    before = opened(settings(workers=3))
    (door, _) = opened(settings(workers=2), before)
    assert [len(door.share(place, 2)) for place in (0, 1)] == [2, 1]
    assert {*door.share(0, 2), *door.share(1, 2)} == {*before[0].sockets}


def test_what_is_not_asked_for_any_more_is_let_go_of(opened):
    before = opened(settings([ANYWHERE, "127.0.0.2:0"]))
    opened(settings(ANYWHERE), before)
    assert [door.sockets[0].fileno() < 0 for door in before] == [False, True, False]


def test_of_two_addresses_that_are_alike_each_stays_what_it_was(opened):
    before = opened(settings([ANYWHERE, ANYWHERE]))
    after = opened(settings([ANYWHERE, ANYWHERE]), before)
    assert [door.name for door in after] == [door.name for door in before]
    assert [door.key for door in after] == ["listen", "listen", "admin"]


def test_a_new_address_that_cannot_be_had_is_named_and_nothing_that_stands_is_touched(opened):
    before = opened(settings())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="Address already in use"):
        open_doors(settings([ANYWHERE, f"127.0.0.1:{taken.getsockname()[1]}"]), before)
    assert all(is_listening(sock) for door in before for sock in door.sockets)


def test_the_path_of_a_socket_is_told_as_it_is_configured(opened, directory):
    (door, _) = opened(settings(f"unix:{directory}/c.sock"))
    assert door.name == f"unix:{Path(directory) / 'c.sock'}"
    assert os.fspath(directory) in str(door.address)


# From systemd


@pytest.fixture
def handed(directory) -> Iterator[tuple[dict[str, str], int, list[socket.socket]]]:
    """A port and a path, opened by somebody else for this process: the variables, and where the descriptors begin."""
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as path:
        path.bind(f"{directory}/a.sock")
        path.listen()
        first = 200
        for number, sock in enumerate((port, path), first):
            os.dup2(sock.fileno(), number, inheritable=True)
        variables = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "c:a", "HOME": "/"}
        yield variables, first, [port, path]


def test_what_systemd_has_opened_is_served_and_stays_its_own(opened, handed, directory):
    """Its one socket of a port is all workers'; its file is not ours to remove."""
    variables, first, (port, _) = handed
    given = sockets_given(variables, first)
    assert variables == {"HOME": "/"}
    assert not any(sock.get_inheritable() for sock in given)
    where = "{}:{}".format(*port.getsockname())
    doors = opened(settings([where, ANYWHERE], f"unix:{directory}/a.sock", workers=3), None, given)
    assert [(door.key, door.given, len(door.sockets)) for door in doors] == [
        ("listen", True, 1),
        ("listen", False, 3),
        ("admin", True, 1),
    ]
    assert [doors[0].share(place, 3) for place in range(3)] == [doors[0].sockets] * 3
    remove_paths(doors)
    assert (directory / "a.sock").exists()
    again = opened(settings([where], f"unix:{directory}/a.sock", workers=2), doors)
    assert [(door.given, len(door.sockets)) for door in again] == [(True, 1), (True, 1)]
    with socket.create_connection(port.getsockname()) as client:
        accepted, name = again[0].sockets[0].accept()
        assert name == client.getsockname()
        accepted.close()


def test_a_port_that_systemd_lets_others_share_has_a_socket_for_each_worker(opened):
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as port:
        where = "{}:{}".format(*port.getsockname())
        (door, _) = opened(settings(where, workers=3), None, [port.dup()])
        assert len(names(door.sockets)) == 1
        assert len(door.sockets) == 3


def test_what_systemd_has_opened_for_nothing_is_named(opened, handed):
    variables, first, (port, _) = handed
    given = sockets_given(variables, first)
    with pytest.raises(
        ConfigError, match=rf"systemd has opened 127\.0\.0\.1:{port.getsockname()[1]}, which is none of"
    ):
        opened(settings(), None, given)
    for sock in given:
        sock.close()


@pytest.mark.parametrize("other", [{"LISTEN_PID": "1"}, {"LISTEN_FDS": "x"}, {"LISTEN_FDS": ""}])
def test_what_was_opened_for_another_process_is_left_alone(other):
    variables = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())} | other
    assert sockets_given(variables) == []
    assert variables == {}
