"""What passes between processes: whole messages with their descriptors, however many; state over an exec; requests."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy.config import Settings
from bgproxy.config.addresses import Address
from bgproxy.errors import ConfigError
from bgproxy.orders import READY, Line
from bgproxy.workers import RESUME, TRIAL, notify, passing, resume
from bgproxy.workers.crew import Crew, Seat
from bgproxy.workers.doors import Door
from bgproxy.workers.passing import Passing, doors_document, doors_from, files_of
from bgproxy.workers.requests import NAME, Requests


@pytest.fixture
def ends() -> Iterator[tuple[Passing, Passing]]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in pair:
        sock.setblocking(False)
    ends = Passing(pair[0]), Passing(pair[1])
    yield ends
    for end in ends:
        end.close()


# Messages


@pytest.mark.parametrize("count", [0, 1, 200, 201, 650])
def test_a_message_comes_whole_with_all_of_its_descriptors_in_order(ends, count):
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    marks = [os.memfd_create(str(number)) for number in range(3)] if count else []
    ends[0].send({"say": "ready"}, [*files, *marks])
    document, came = ends[1].receive()
    assert document["say"] == "ready"
    assert len(came) == count + len(marks)
    assert [Path(f"/proc/self/fd/{file}").readlink().name.split(":")[-1] for file in came[count:]] == [
        f"{number} (deleted)" for number in range(len(marks))
    ]
    assert not any(os.get_inheritable(file) for file in came), "or every process that is started from here had them"
    for file in (*files, *marks, *came):
        os.close(file)
    assert ends[1].receive() is None


def test_what_was_said_before_the_end_is_heard_although_not_all_was_read_there(ends):
    """Else the reason of a process that fails early would be lost: the kernel tells a reset first."""
    ends[0].send({"say": "begin"})
    ends[1].send({"say": "failed", "why": "no"})
    ends[1].close()
    document, _ = ends[0].receive()
    assert document["why"] == "no"
    with pytest.raises(EOFError):
        ends[0].receive()


def test_words_between_supervisor_and_worker_are_heard_likewise():
    ours, theirs = map(Line, socket.socketpair())
    ours.say("reload")
    theirs.say(READY, "two  words\nand a line")
    theirs.say("x" * 9_000)
    theirs.close()
    assert ours.hear() == [(READY, "two words and a line"), ("x" * 3_999, "")]
    assert ours.hear() is None
    ours.say("to nobody")
    ours.close()


@pytest.mark.parametrize("text", [b"no json", b"[]", b'{"format": 99, "files": 0}'])
def test_another_language_is_told_from_ours(text):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.send(text)
        with pytest.raises(ValueError):
            Passing(ours).receive()
    ours.close()


def test_doors_go_along_with_their_sockets():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        doors = [
            Door("listen", Address("127.0.0.1", 0), [one]),
            Door("listen", Address(path="/x"), []),
            Door("admin", Address("::1", 9900), [two]),
        ]
        copies = [os.dup(file) for file in files_of(doors)]
        found = doors_from(json.loads(json.dumps(doors_document(doors))), copies)
        assert [(door.key, door.address) for door in found] == [(door.key, door.address) for door in doors]
        names = [[sock.getsockname() for sock in door.sockets] for door in found]
        assert names == [[one.getsockname()], [], [two.getsockname()]]
        for door in found:
            door.close()


@pytest.mark.parametrize("told", ["x", "987654"])
def test_a_variable_that_somebody_else_has_set_is_named(monkeypatch, told):
    monkeypatch.setenv(TRIAL, told)
    with pytest.raises(ConfigError, match=f"{TRIAL}: bgproxy sets this for its own processes; unset it"):
        passing.variable(TRIAL)
    assert TRIAL not in os.environ
    monkeypatch.setenv(RESUME, told)
    with pytest.raises(ConfigError, match=RESUME):
        resume.told()


# Over an exec


def test_what_a_supervisor_knows_goes_along_over_an_exec(monkeypatch, tmp_path):
    """The exec is this test; what would be closed by it must be inherited until then, and by nobody after it."""
    settings = Settings.load(None, {"colors": {"blue": {"upstreams": ["http://127.0.0.1:1"]}}}, {})
    lines = [socket.socketpair() for _ in range(2)]
    door = Door("listen", Address("127.0.0.1", 0), [socket.create_server(("127.0.0.1", 0))])
    seats = [Seat(2, 77, Line(lines[0][0]), born=5.0, served=True), Seat(3)]
    left = [Seat(0, 66, Line(lines[1][0]), served=True, until=99.5)]
    requests = Requests.at(tmp_path)
    program: dict[str, Any] = {}

    def execute(path: str, words: list[str], environment: dict[str, str]) -> None:
        told = int(environment[RESUME])
        document = json.loads(os.pread(told, 100_000, 0))
        kept = [told, *resume._files(document)]
        program.update(words=words, inherited=all(map(os.get_inheritable, kept)), kept=len(kept))
        program["files"] = {file: os.dup(file) for file in kept}
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "execvpe", execute)
    pickled = passing.written(pickle.dumps(settings), "settings")
    known = resume.Known(Crew(settings, [door], seats, tmp_path), left, requests, ours=True, reload=True)
    with pytest.raises(FileNotFoundError):
        resume.exchange(["bgproxy"], known, pickled)
    assert (program["words"], program["inherited"], program["kept"]) == (["bgproxy"], True, 6)
    assert not os.get_inheritable(door.sockets[0].fileno()), "it goes on as it was"
    told = told_again(program["files"], monkeypatch)
    crew, finishing = told.crew, told.finishing
    assert crew.settings.releases() == settings.releases()
    assert (crew.runtime_dir, told.ours, told.reload) == (tmp_path, True, True)
    assert [(seat.slot, seat.pid, seat.born, seat.served) for seat in crew.seats] == [
        (2, 77, 5.0, True),
        (3, 0, 0.0, False),
    ]
    assert [(seat.slot, seat.pid, seat.until) for seat in finishing] == [(0, 66, 99.5)]
    crew.seats[0].say("end")
    assert lines[0][1].recv(10) == b"end\n"
    assert crew.doors[0].sockets[0].getsockname() == door.sockets[0].getsockname()
    for one in (*crew.doors, *crew.seats, *finishing, told.requests, door, *seats, *left, requests):
        one.close()
    for pair in lines:
        pair[1].close()


def told_again(files: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`resume.told` in the new program, whose descriptors are copies here."""
    first = next(iter(files))
    document = json.loads(os.pread(files[first], 100_000, 0))
    document["settings"] = files[document["settings"]]
    document["requests"] = files[document["requests"]]
    document["sockets"] = [files[file] for file in document["sockets"]]
    for seat in (*document["seats"], *document["finishing"]):
        seat["line"] = files.get(seat["line"])
    os.close(files[first])
    monkeypatch.setenv(RESUME, str(passing.written(json.dumps(document).encode(), "supervisor")))
    return resume.told()


# Requests of operators


@pytest.fixture
def asked(directory) -> Iterator[tuple[Requests, Callable[[], socket.socket]]]:
    requests = Requests.at(directory)
    callers: list[socket.socket] = []

    def caller() -> socket.socket:
        callers.append(sock := socket.socket(socket.AF_UNIX))
        sock.settimeout(2)
        sock.connect(f"{directory}/{NAME}")
        return sock

    yield requests, caller
    for sock in callers:
        sock.close()
    requests.close()


def test_a_request_is_read_as_it_comes_and_answered_in_one_line(asked):
    requests, caller = asked
    assert requests.next() is None
    one = caller()
    one.send(b'{"verb": "up')
    assert requests.next() is None
    one.send(b'grade"}\n')
    request, what = requests.next()
    assert what == {"verb": "upgrade"}
    request.answer(done=False, why="busy")
    assert json.loads(one.recv(1000)) == {"done": False, "why": "busy"}
    assert one.recv(10) == b""


@pytest.mark.parametrize("said", [b"nonsense\n", b"[]\n", b"x" * 9_000, None])
def test_who_asks_for_nothing_that_is_understood_holds_nobody_up(asked, said):
    requests, caller = asked
    bad, good = caller(), caller()
    bad.close() if said is None else bad.send(said)
    good.send(b"{}\n")
    assert requests.next()[1] == {}
    assert requests.next() is None
    if said is not None:
        assert bad.recv(10) == b""


def test_a_directory_where_no_socket_can_be_is_told_of_and_stops_nothing(tmp_path, caplog):
    requests = Requests.at(tmp_path / "none")
    assert requests.next() is None
    requests.close()
    assert "SIGUSR2 does" in caplog.text


# systemd


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_that_listens_is_told(directory, monkeypatch, abstract):
    name = f"{directory}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(2)
        manager.bind(f"\0{name}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify.notify(notify.READY, "STATUS=well")
        assert manager.recv(100) == b"READY=1\nSTATUS=well"
        notify.notify(*notify.reloading())
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


@pytest.mark.parametrize("where", ["", "/no/such/socket", "nonsense"])
def test_without_one_nothing_is_told_and_nothing_fails(monkeypatch, where):
    monkeypatch.setenv("NOTIFY_SOCKET", where)
    notify.notify(notify.READY)


# How it was started


MODULE = ["-m", "bgproxy", "serve"]


@pytest.mark.parametrize(
    ("argv", "orig", "program", "words"),
    [
        (["{dir}/bgproxy", "serve"], ["py", "{dir}/bgproxy", "serve"], "", ["{dir}/bgproxy", "serve"]),
        (["{dir}/plain", "serve"], ["py", "{dir}/plain", "serve"], "", [sys.executable, "{dir}/plain", "serve"]),
        (
            ["{dir}/__main__.py", "serve"],
            ["py", "-m", "bgproxy", "serve"],
            "",
            [sys.executable, "-m", "bgproxy", "serve"],
        ),
        (["{dir}/bgproxy", "serve", "-c", "x"], [], "/new/bin/bgproxy", ["/new/bin/bgproxy", "serve", "-c", "x"]),
        (["x", "serve"], [], "/new/bin/python3.12", ["/new/bin/python3.12", *MODULE]),
    ],
)
def test_it_is_started_anew_as_it_was_started(tmp_path, monkeypatch, argv, orig, program, words):
    from bgproxy.workers.upgrade import command

    for name, mode in (("bgproxy", 0o755), ("plain", 0o644), ("__main__.py", 0o755)):
        (tmp_path / name).touch(mode)
    monkeypatch.setattr(sys, "argv", [word.format(dir=tmp_path) for word in argv])
    monkeypatch.setattr(sys, "orig_argv", [word.format(dir=tmp_path) for word in orig])
    assert command(program) == [word.format(dir=tmp_path) for word in words]
