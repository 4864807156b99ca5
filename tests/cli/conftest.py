"""The admin API that the verbs talk to here, and the command line itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fake_admin import FakeAdmin, Served
from typer.testing import CliRunner, Result

from bgproxy.cli.main import app


@pytest.fixture
def served() -> Iterator[Callable[..., FakeAdmin]]:
    """Start a fake admin API, on TCP (a port that may be shared) or on a Unix socket."""
    threads: list[Served] = []

    def serve(unix: Path | None = None, *, shared: bool = False) -> FakeAdmin:
        admin = FakeAdmin()
        thread = Served(admin, unix, shared)
        thread.start()
        assert thread.ready.wait(5)
        threads.append(thread)
        return admin

    yield serve
    for thread in threads:
        thread.stop()


@pytest.fixture
def admin(served) -> FakeAdmin:
    return served()


@pytest.fixture
def run(admin, monkeypatch) -> Callable[..., Result]:
    """Call the command line with the fake admin API as the default one."""
    monkeypatch.setenv("BGPROXY_ADMIN", admin.url)
    monkeypatch.delenv("BGPROXY_TOKEN", raising=False)
    monkeypatch.delenv("BGPROXY_CONFIG", raising=False)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return run


@pytest.fixture
def stranger() -> Iterator[Callable[[bytes], str]]:
    """Something that reads a request of each connection, sends the bytes and hangs up; returns its URL."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(sent: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def talk() -> None:
            with suppress(OSError):  # the listener is closed at the end
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(sent)

        threads.append(threading.Thread(target=talk, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for listener in sockets:
        listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        listener.close()
    for thread in threads:
        thread.join(5)


@pytest.fixture
def unused_tcp_port() -> Iterator[int]:
    """A port that is held but not listened on, so that nothing can answer there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
