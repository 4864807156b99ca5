"""The admin API that the verbs talk to here, and the command line itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_admin import FakeAdmin, Served
from typer.testing import CliRunner, Result

from bgproxy.cli.main import app


@pytest.fixture
def served() -> Iterator[Callable[..., FakeAdmin]]:
    """Start a fake admin API, on TCP or on a Unix socket."""
    threads: list[Served] = []

    def serve(unix: Path | None = None) -> FakeAdmin:
        admin = FakeAdmin()
        thread = Served(admin, unix)
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
    """Something that takes one connection, reads a request, sends the bytes and hangs up; returns its URL."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(sent: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(sent)

        threads.append(threading.Thread(target=talk, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for listener in sockets:
        listener.close()
    for thread in threads:
        thread.join(5)


@pytest.fixture
def unused_tcp_port() -> Iterator[int]:
    """A port that is held but not listened on, so that nothing can answer there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
