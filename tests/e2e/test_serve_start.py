"""What cannot be served says so at once: one line that names the fault and the remedy, and an exit code of its kind."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ANYWHERE, BGPROXY, PATIENCE, ROOT, Town, environment

REFUSED, USAGE = 1, 2
BLUE = ("--blue", "http://127.0.0.1:1")


def refused(*arguments: str, places: tuple[str, ...] = ANYWHERE) -> tuple[int, str]:
    """Run a serve that must end by itself, soon; its exit status and the one thing that it complained of."""
    done = subprocess.run(
        [*BGPROXY, "serve", *places, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    complaints = [line for line in done.stderr.splitlines() if " info " not in line]
    return done.returncode, "\n".join(complaints)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def test_a_port_in_use_is_named_with_the_remedy(taken):
    code, said = refused(*BLUE, places=("--listen", taken, "--admin", "127.0.0.1:0"))
    assert code == REFUSED
    assert said.count("\n") == 0
    assert f"listen: cannot listen on {taken}: Address already in use: another process listens there" in said


def test_an_admin_port_in_use_is_told_apart(taken):
    code, said = refused(*BLUE, places=("--listen", "127.0.0.1:0", "--admin", taken))
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert f"admin: cannot listen on {taken}" in said


async def test_a_port_of_another_bgproxy_is_in_use_although_both_would_share_it(town: Town):
    other = await town.serve(await town.agent("v1"))
    code, said = refused(*BLUE, places=("--listen", f"127.0.0.1:{other.port}", "--admin", "127.0.0.1:0"))
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert "Address already in use" in said
    assert await other.ask() == (200, "v1")


USAGES = {
    "a flag that does not exist": (("--colour", "blue"), r"No such option: --colour"),
    "workers that share no store": (
        (*BLUE, "--workers", "2"),
        "workers: 2 workers cannot share the store memory://, each would have a pointer of its own; "
        "use --store redis://127.0.0.1:6379/0, or --workers 1",
    ),
    "an upstream that is no URL": (("--blue", "127.0.0.1:9101"), "it must be http://host:port"),
    "an active color that does not exist": ((*BLUE, "--active", "purple"), "is no color of this fleet"),
    "an admin plane open to the world": ((*BLUE, "--admin", "0.0.0.0:0"), "token"),
    "nothing to answer with": ((), "the active color blue has no upstreams"),
}


@pytest.mark.parametrize(("arguments", "complaint"), USAGES.values(), ids=USAGES)
def test_wrong_usage(arguments, complaint):
    code, said = refused(*arguments, places=() if "--listen" in arguments or "--admin" in arguments else ANYWHERE)
    assert code == USAGE
    assert complaint in " ".join(said.replace("│", " ").split())


FILES = {
    "malformed TOML": ('listen = "127.0.0.1:0\n', "line 1"),
    "an unknown key": ("worker = 2\n", "workers"),
}


@pytest.mark.parametrize(("text", "complaint"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text, complaint):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    code, said = refused(*BLUE, "--config", str(path))
    assert (code, said.count("\n")) == (USAGE, 0)
    assert complaint in said
    assert str(path) in said


def test_a_redis_that_refuses_connections():
    """Each of the workers may say so before it is told that another one has; none is started again for it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    code, said = refused(*BLUE, "--store", f"redis://127.0.0.1:{port}/0", "--workers", "2")
    assert code == REFUSED
    assert said.count("\n") < 2, said
    assert f"store redis://127.0.0.1:{port}/0" in said
    assert "refused" in said


def test_a_redis_that_is_no_redis():
    def answer(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        code, said = refused(*BLUE, "--store", f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert "does not speak Redis" in said


def test_a_redis_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        code, said = refused(*BLUE, "--store", f"redis://127.0.0.1:{server.getsockname()[1]}/0")
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert "no answer within 2 s" in said


@pytest.mark.redis
def test_a_wrong_password_is_refused_and_never_told(own_redis):
    own_redis.command("CONFIG", "SET", "requirepass", "right-password")
    code, said = refused(*BLUE, "--store", f"redis://:wrong-password@127.0.0.1:{own_redis.port}/0")
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert "the user or password is refused" in said
    assert "wrong-password" not in said


@pytest.mark.redis
def test_data_of_a_newer_version_are_left_alone(redis_server):
    key = "bgproxy:{newer}:state"
    redis_server.command("HSET", key, "schema", "99", "revision", "1")
    code, said = refused(*BLUE, "--store", redis_server.url, "--fleet", "newer")
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert "was written by a newer bgproxy (schema 99" in said
    assert b"99" in redis_server.command("HGET", key, "schema")


@pytest.mark.redis
def test_data_of_another_fleet_are_left_alone(redis_server, tmp_path):
    red = {"active": "red", "previous": None, "epoch": 4, "actor": "ci", "reason": "", "at": 1.0}
    state = {"schema": 1, "revision": 7, "colors": json.dumps(["red", "black"]), "pointer": json.dumps(red)}
    key = "bgproxy:{foreign}:state"
    redis_server.command("HSET", key, *(str(part) for pair in state.items() for part in pair))
    before = redis_server.command("HGETALL", key)
    code, said = refused(*BLUE, "--store", redis_server.url, "--fleet", "foreign")
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert "another fleet's, with the colors red, black; configured are blue, green" in said
    assert redis_server.command("HGETALL", key) == before
    assert redis_server.command("EXISTS", "bgproxy:{foreign}:nodes", "bgproxy:{foreign}:audit").strip() == b":0"


def test_a_snapshot_that_cannot_be_understood_is_not_written_over(tmp_path):
    path = tmp_path / "state.json"
    path.write_text('{"schema": 1}')
    code, said = refused(*BLUE, "--store", f"memory://{path}")
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert f"{path} cannot be understood" in said
    assert path.read_text() == '{"schema": 1}'


def test_a_snapshot_in_no_directory(tmp_path):
    code, said = refused(*BLUE, "--store", f"memory://{tmp_path}/none/state.json")
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert f"{tmp_path}/none is no directory: make it" in said


def test_an_access_log_that_cannot_be_opened(tmp_path):
    code, said = refused(*BLUE, "--access-log", f"{tmp_path}/none/access.log")
    assert (code, said.count("\n")) == (REFUSED, 0)
    assert "access_log.output" in said
    assert "No such file or directory" in said
