"""The access log: what a line says, sampling, batches, overflow, rotation, outputs that are stuck or gone."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy.errors import ConfigError
from bgproxy.telemetry import access as access_module
from bgproxy.telemetry.access import AccessLog, AccessLogOptions

LINE: dict[str, Any] = {
    "at": 1_700_000_000.1239,
    "request_id": "r-1",
    "method": "POST",
    "target": "/chat?token=secret",
    "status": 200,
    "duration": 0.0123456,
    "ttfb": 0.004,
    "bytes_in": 10,
    "bytes_out": 20,
    "client": "10.0.0.1",
    "route": "chat",
    "color": "blue",
    "release": "v1",
    "epoch": 7,
    "upstream": "http://127.0.0.1:9101",
    "retries": 1,
    "end": "complete",
}


def put(log: AccessLog, **changes: Any) -> None:
    log.write(**(LINE | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def opened(path: Path, **options: Any) -> AccessLog:
    """Started, but flushed by the test alone: the interval never passes."""
    log = AccessLog(AccessLogOptions(output=str(path), flush_interval=60.0, **options))
    log.start()
    return log


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_line_says_it_all(path):
    log = opened(path)
    put(log)
    await log.flush()
    assert lines_of(path) == [
        {
            "time": "2023-11-14T22:13:20.123900Z",
            "request_id": "r-1",
            "method": "POST",
            "target": "/chat",
            "status": 200,
            "duration_ms": 12.346,
            "ttfb_ms": 4.0,
            "bytes_in": 10,
            "bytes_out": 20,
            "client": "10.0.0.1",
            "route": "chat",
            "color": "blue",
            "release": "v1",
            "epoch": 7,
            "upstream": "http://127.0.0.1:9101",
            "retries": 1,
            "end": "complete",
        }
    ]
    await log.stop()


@pytest.mark.parametrize(
    ("options", "changes", "member", "value"),
    [
        ({"query": True}, {}, "target", "/chat?token=secret"),
        ({}, {"target": "/a?b?c=d"}, "target", "/a"),
        ({}, {"target": "*"}, "target", "*"),
        ({}, {"ttfb": -1.0}, "ttfb_ms", None),
        ({}, {"target": 'a"b\\c\n\x00'}, "target", 'a"b\\c\n\x00'),
        ({}, {"target": "/é\udcff"}, "target", "/é?"),
        ({}, {"request_id": "\ud800"}, "request_id", "?"),
        ({"query": True}, {"target": "/" + "x" * 5000}, "target", "/" + "x" * (access_module.MAX_TEXT - 1)),
        ({}, {"request_id": "i" * 5000}, "request_id", "i" * access_module.MAX_TEXT),
    ],
)
async def test_members(path, options, changes, member, value):
    log = opened(path, **options)
    put(log, **changes)
    await log.stop()
    (line,) = lines_of(path)
    assert line[member] == value


async def test_what_is_left_is_written_at_the_end(path):
    log = opened(path)
    for number in range(100):
        put(log, request_id=f"r-{number}")
    assert lines_of(path) == []
    await log.stop()
    assert [line["request_id"] for line in lines_of(path)] == [f"r-{number}" for number in range(100)]


async def test_lines_are_written_by_themselves(path):
    log = AccessLog(AccessLogOptions(output=str(path), flush_interval=0.001))
    log.start()
    put(log)
    async with asyncio.timeout(5):
        while not path.read_text():  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(0.001)
    await log.stop()
    assert len(lines_of(path)) == 1


async def test_a_burst_does_not_wait_for_the_interval(path, monkeypatch):
    monkeypatch.setattr(access_module, "MAX_LINES", 40)
    log = opened(path)
    for _ in range(10):
        put(log)
    async with asyncio.timeout(5):
        while len(path.read_text().splitlines()) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await log.stop()


async def test_overflow_drops_and_counts_and_says_so_once(path, monkeypatch, caplog):
    monkeypatch.setattr(access_module, "MAX_LINES", 10)
    log = opened(path)
    for _ in range(25):
        put(log)
    assert log.dropped == 15
    await log.flush()
    for _ in range(12):
        put(log)
    await log.stop()
    assert log.dropped == 17
    assert len(lines_of(path)) == 20
    assert caplog.text.count("dropped") == 1


@pytest.mark.parametrize(("sample", "least", "most"), [(0.1, 850, 1150), (0.5, 4750, 5250), (1.0, 10_000, 10_000)])
async def test_sampling_takes_its_share_and_always_the_same_requests(path, tmp_path, sample, least, most):
    names = [f"{number:032x}" for number in range(10_000)]
    kept = []
    for file in (path, tmp_path / "other.log"):
        log = opened(file, sample=sample)
        for name in names:
            put(log, request_id=name)
        await log.stop()
        kept.append([line["request_id"] for line in lines_of(file)])
    assert kept[0] == kept[1]
    assert least <= len(kept[0]) <= most


@pytest.mark.parametrize("options", [{"output": "off"}, {"output": "x", "sample": 0.0}])
async def test_off_is_off(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = AccessLog(AccessLogOptions(**options))
    assert not log.enabled
    log.start()
    log.reopen()
    await log.flush()
    await log.stop()
    assert list(tmp_path.iterdir()) == []


async def test_after_a_rotation_the_path_is_opened_anew(path):
    log = opened(path)
    put(log, request_id="before")
    await log.flush()
    moved = path.rename(path.with_suffix(".1"))
    put(log, request_id="between")
    await log.flush()
    log.reopen()
    put(log, request_id="after")
    await log.flush()
    await log.stop()
    assert [line["request_id"] for line in lines_of(moved)] == ["before", "between"]
    assert [line["request_id"] for line in lines_of(path)] == ["after"]


async def test_a_path_that_cannot_be_reopened_leaves_the_old_file(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = opened(folder / "access.log")
    moved = folder.rename(tmp_path / "moved")
    log.reopen()
    put(log)
    await log.stop()
    assert len(lines_of(moved / "access.log")) == 1
    assert "cannot be reopened" in caplog.text


async def test_a_file_is_appended_to_and_no_other_user_reads_it(path):
    path.write_text('{"request_id": "old"}\n')
    fresh = path.with_suffix(".new")
    before = os.umask(0)
    try:
        for file in (path, fresh):
            log = opened(file)
            put(log)
            await log.stop()
    finally:
        os.umask(before)
    assert [line["request_id"] for line in lines_of(path)] == ["old", "r-1"]
    assert fresh.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("output", ["/nonexistent/dir/access.log", "/"])
def test_an_output_that_cannot_be_opened_is_named(output):
    log = AccessLog(AccessLogOptions(output=output))
    with pytest.raises(ConfigError, match=rf"access_log.output '{output}' cannot be opened"):
        log.start()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sample": 1.1}, "access_log.sample is 1.1"),
        ({"sample": -0.1}, "access_log.sample"),
        ({"sample": float("nan")}, "access_log.sample"),
        ({"flush_interval": 0.0}, "access_log.flush_interval is 0.0"),
        ({"flush_interval": 61.0}, "access_log.flush_interval"),
        ({"output": ""}, "access_log.output is empty"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        AccessLogOptions(**options)


@pytest.fixture
def stdout_pipe(monkeypatch) -> Iterator[int]:
    """What the log takes for stdout is the writing end of a pipe; this is the reading one."""
    reading, writing = os.pipe()
    real = os.dup
    monkeypatch.setattr(access_module.os, "dup", lambda fd: real(writing) if fd == 1 else real(fd))
    yield reading
    os.close(writing)
    os.close(reading)


async def test_stdout_gets_whole_lines_in_one_piece_each(stdout_pipe, monkeypatch):
    pieces = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        pieces.append(data)
        return real(fd, data)

    monkeypatch.setattr(access_module.os, "write", write)
    log = AccessLog(AccessLogOptions(output="stdout", flush_interval=60.0))
    log.start()
    for number in range(12):  # a pipe holds 16 pieces
        put(log, request_id=f"r-{number}", target="/" + '"' * 900)
    await log.stop()

    assert log.dropped == 0
    assert b"".join(pieces) == os.read(stdout_pipe, 1_000_000)
    assert len(pieces) > 1
    for piece in pieces:
        assert len(piece) <= access_module.PIPE_BUF
        assert piece.endswith(b"\n")


async def test_a_reader_that_is_stuck_loses_lines_and_holds_nobody_up(stdout_pipe, monkeypatch, caplog):
    monkeypatch.setattr(access_module, "STALL_TIMEOUT", 0.05)
    log = AccessLog(AccessLogOptions(output="stdout", flush_interval=60.0))
    log.start()
    for _ in range(1000):
        put(log)  # more than a pipe of 64 KiB holds
    began = time.monotonic()
    await log.flush()
    assert time.monotonic() - began < 2
    assert 0 < log.dropped < 1000
    assert "too slow" in caplog.text
    whole = os.read(stdout_pipe, 1_000_000)
    assert whole.endswith(b"\n")
    assert len(whole.splitlines()) == 1000 - log.dropped
    put(log, request_id="again")
    await log.stop()
    assert b'"again"' in os.read(stdout_pipe, 1_000_000)


async def test_a_full_disk_is_said_once_and_written_to_again_when_it_has_room(path, monkeypatch, caplog):
    log = opened(path)
    real, full = os.write, [True]

    def write(fd: int, data: bytes) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:7])  # and it takes a bit at a time

    monkeypatch.setattr(access_module.os, "write", write)
    for _ in range(3):
        put(log)
        await log.flush()
    assert log.dropped == 3
    assert caplog.text.count("cannot be written") == 1
    full[0] = False
    put(log)
    await log.stop()
    assert len(lines_of(path)) == 1


async def test_the_data_path_formats_nothing_and_lines_are_written_by_another_thread(path, monkeypatch):
    threads = []
    real = access_module._format

    def spied(*arguments: Any) -> bytes:
        threads.append(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(access_module, "_format", spied)
    log = opened(path)
    put(log)
    assert threads == []
    await log.stop()
    assert threads != []
    assert threading.main_thread() not in threads
