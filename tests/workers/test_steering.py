"""New connections pass a worker by that has died, and come to that place again once another serves there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bgproxy import orders
from bgproxy.config import Settings
from bgproxy.config.addresses import Address
from bgproxy.orders import Line
from bgproxy.workers.crew import Crew, Seat
from bgproxy.workers.doors import Door, listen
from bgproxy.workers.steering import _ATTACH, _DETACH, steer

CLIENTS = 60
BLUE = {"colors": {"blue": {"upstreams": ["http://127.0.0.1:1"]}}}


def is_known_here() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return False


pytestmark = pytest.mark.skipif(not is_known_here(), reason="Linux 5.3 or newer")


@pytest.fixture
def opened() -> Iterator[Callable[[int], Door]]:
    with ExitStack() as stack:

        def door(count: int) -> Door:
            sockets: list[socket.socket] = []
            for _ in range(count):
                sock = stack.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(sockets[0].getsockname() if sockets else ("127.0.0.1", 0))
                sock.setblocking(False)
                sockets.append(sock)
            found = Door("listen", Address("127.0.0.1", 0), sockets)
            listen([found])
            return found

        yield door


def taken(door: Door) -> list[int]:
    """How many of some clients came to each socket."""
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection(door.sockets[0].getsockname()))
        return [_accepted(sock) for sock in door.sockets]


def _accepted(sock: socket.socket) -> int:
    for count in range(CLIENTS + 1):
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError("more than there are")


@pytest.mark.parametrize("away", [(), (0,), (3,), (1, 2), (0, 1, 2), (0, 1, 2, 3)])
def test_new_connections_go_to_those_that_are_there(opened: Callable[[int], Door], away: tuple[int, ...]) -> None:
    door = opened(4)
    for gone in ((2, 3), away):  # the last word counts
        steer(door.sockets, [door.sockets[number] for number in gone])
    found = taken(door)
    assert sum(found) == CLIENTS, "nobody is turned away"
    there = set(range(4)) - set(away) or set(range(4))
    assert {number for number, count in enumerate(found) if count} == there


def test_where_the_kernel_cannot_nothing_is_done_and_nothing_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Old(socket.socket):
        def setsockopt(self, *what: object) -> None:  # type: ignore[override]
            asked.append(what[1])
            raise OSError(92, "Protocol not available")

    with Old() as one, Old() as other:
        steer([one, other], [one])
    assert _ATTACH not in asked


def test_a_worker_that_has_died_gets_none_until_another_serves(opened: Callable[[int], Door]) -> None:
    door = opened(3)
    seats = [Seat(slot) for slot in (4, 5, 6)]
    crew = Crew(Settings.load(None, BLUE, {}), [door], seats, Path("/nowhere"))
    crew.steer()
    assert all(taken(door))

    dead = seats[1]
    dead.missing = True
    crew.steer()
    assert [bool(count) for count in taken(door)] == [True, False, True]

    ours, theirs = socket.socketpair()
    dead.line = Line(ours)  # it is started again, and not ready yet
    crew.steer()
    assert taken(door)[1] == 0
    Line(theirs).say(orders.READY)
    crew.hear()
    crew.steer()
    assert all(taken(door))
    dead.close()
    theirs.close()


def test_another_crew_on_the_same_sockets_begins_with_all_of_them(opened: Callable[[int], Door]) -> None:
    door = opened(2)
    for missing in (True, False):
        seats = [Seat(0, missing=missing), Seat(1)]
        Crew(Settings.load(None, BLUE, {}), [door], seats, Path("/nowhere")).steer()
    assert all(taken(door))
