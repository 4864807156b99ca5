"""The access log: one JSON line per finished exchange, written in batches by a thread.

The data path appends a tuple and goes on: it formats nothing and never waits. Where the reader of the log is too slow,
lines are dropped and counted. What is held is bounded: `MAX_LINES` tuples whose texts are cut to `MAX_TEXT`, twice
while a batch is being written. A batch goes out as whole lines of at most `PIPE_BUF` bytes per write, so the
lines of several workers on one pipe never mix. The query of a target is left out unless asked for: it may hold secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import stat
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from bgproxy import tasks
from bgproxy.errors import ConfigError

log = logging.getLogger(__name__)

MAX_LINES = 20_000  # a second's worth at more requests than one process answers
MAX_TEXT = 1_024  # of a target or a request id; a line then fits PIPE_BUF
PIPE_BUF = 4_096  # what Linux writes to a pipe in one piece (pipe(7))
STALL_TIMEOUT = 1.0  # a pipe whose reader takes nothing for so long loses the batch
COMPLAIN_INTERVAL = 60.0  # between two warnings about dropped lines

_FIELDS = (
    "time",
    "request_id",
    "method",
    "target",
    "status",
    "duration_ms",
    "ttfb_ms",
    "bytes_in",
    "bytes_out",
    "client",
    "route",
    "color",
    "release",
    "epoch",
    "upstream",
    "retries",
    "end",
)
_JSON = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_Line = tuple[float, str, str, str, int, float, float, int, int, str, str, str, str, int, str, int, str]


@dataclass(frozen=True, slots=True)
class AccessLogOptions:
    """Where lines go and which; times in seconds."""

    output: str = "off"  # "off", "stdout" or a file's path
    sample: float = 1.0  # 0 to 1, by a hash of the request id: one request is on record in every proxy, or in none
    flush_interval: float = 0.5
    query: bool = False  # whether the target keeps its query

    def __post_init__(self) -> None:
        if not self.output:
            raise ConfigError('access_log.output is empty: write "off", "stdout" or a path')
        if not 0.0 <= self.sample <= 1.0:
            raise ConfigError(f"access_log.sample is {self.sample}, it must be between 0 and 1")
        if not 0.0 < self.flush_interval <= 60.0:
            raise ConfigError(
                f"access_log.flush_interval is {self.flush_interval}, it must be above 0 and at most 60 s"
            )


class AccessLog:
    """Usable from one event loop. `start` before the first line, `stop` after the last."""

    def __init__(self, options: AccessLogOptions) -> None:
        self.enabled = options.output != "off" and options.sample > 0.0
        self.dropped = 0
        self._options = options
        self._limit = round(options.sample * 2**32)
        self._lines: list[_Line] = []
        self._sink = _Sink(options.output)
        self._wake = asyncio.Event()
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()
        self._complained_at = float("-inf")
        self._complained_of = 0

    def __repr__(self) -> str:
        return f"<AccessLog {self._options.output} {len(self._lines)} waiting {self.dropped} dropped>"

    def write(
        self,
        at: float,
        request_id: str,
        method: str,
        target: str,
        status: int,
        duration: float,
        ttfb: float,
        bytes_in: int,
        bytes_out: int,
        client: str,
        route: str,
        color: str,
        release: str,
        epoch: int,
        upstream: str,
        retries: int,
        end: str,
    ) -> None:
        """Take one line: `at` in unix seconds, durations in seconds (`ttfb` below 0: there was no first byte)."""
        if self._limit < 2**32 and zlib.crc32(request_id.encode("utf-8", "replace")) >= self._limit:
            return
        lines = self._lines
        if len(lines) >= MAX_LINES:
            self.dropped += 1
            return
        lines.append(
            (
                at,
                request_id[:MAX_TEXT],
                method[:MAX_TEXT],
                target[:MAX_TEXT],
                status,
                duration,
                ttfb,
                bytes_in,
                bytes_out,
                client,
                route,
                color,
                release,
                epoch,
                upstream,
                retries,
                end,
            )
        )
        if len(lines) == MAX_LINES // 4:
            self._wake.set()

    def start(self) -> None:
        """Open the output and begin to flush. Raises ConfigError where the file cannot be opened."""
        if self.enabled:
            self._sink.open()
            self._thread = ThreadPoolExecutor(1, "access-log")
            self._task = tasks.spawn(self._run(), "access log")

    async def stop(self) -> None:
        """Write what is left and close. A reader that is stuck holds this up by `STALL_TIMEOUT` at most."""
        await tasks.stop(self._task)
        if self._thread is not None:
            await self.flush()
            self._thread.shutdown(wait=False)
            self._thread = None
            self._sink.close()

    def reopen(self) -> None:
        """Take the file at the path anew before the next batch: the old one was moved away (logrotate)."""
        self._sink.stale = True
        self._wake.set()

    async def flush(self) -> None:
        """Write the lines taken so far; one batch at a time."""
        async with self._flushing:
            lines, self._lines = self._lines, []
            if self._thread is not None and (lines or self._sink.stale):
                loop = asyncio.get_running_loop()
                self.dropped += await loop.run_in_executor(self._thread, self._write_out, lines)
        self._complain()

    def _write_out(self, lines: list[_Line]) -> int:
        return self._sink.write([_format(line, self._options.query) for line in lines])

    async def _run(self) -> None:
        while True:
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.flush_interval):
                    await self._wake.wait()
            self._wake.clear()
            await self.flush()

    def _complain(self) -> None:
        now = time.monotonic()
        if self.dropped > self._complained_of and now >= self._complained_at + COMPLAIN_INTERVAL:
            log.warning("the access log dropped %d lines: its output is too slow", self.dropped - self._complained_of)
            self._complained_at = now
            self._complained_of = self.dropped


def _format(line: _Line, query: bool) -> bytes:
    at, request_id, method, target, status, duration, ttfb, *rest = line
    values = (
        datetime.fromtimestamp(at, UTC),
        request_id,
        method,
        target if query else target.partition("?")[0],
        status,
        round(duration * 1000, 3),
        round(ttfb * 1000, 3) if ttfb >= 0 else None,
        *rest,
    )
    try:
        return orjson.dumps(dict(zip(_FIELDS, values, strict=True)), option=_JSON)
    except orjson.JSONEncodeError:  # text that is no UTF-8: a client may send any byte above 0x7f
        return orjson.dumps(dict(zip(_FIELDS, map(_clean, values), strict=True)), option=_JSON)


def _clean(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


class _Sink:
    """The output, used by the writing thread only, but for `open`, `close` and the flag `stale`."""

    def __init__(self, output: str) -> None:
        self.stale = False
        self._output = output
        self._fd = -1
        self._whole = False
        self._broken = False

    def open(self) -> None:
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"access_log.output {self._output!r} cannot be opened: {error.strerror}") from error

    def _open(self) -> None:
        if self._output == "stdout":
            fd = os.dup(1)
        else:
            fd = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY, 0o640)
        self.close()
        self._fd = fd
        self._whole = stat.S_ISREG(os.fstat(fd).st_mode)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, lines: list[bytes]) -> int:
        """Write whole lines; the number of those that were lost."""
        if self.stale:
            self.stale = False
            try:
                self._open()
            except OSError as error:  # the old file still takes lines: better than none
                log.error("access_log.output %r cannot be reopened: %s", self._output, error.strerror)
        done = 0
        try:
            for count, chunk in _chunks(lines, 1 << 20 if self._whole else PIPE_BUF):
                if not self._writable():
                    break
                _write_all(self._fd, chunk)
                done += count
            self._broken = False
        except OSError as error:
            if not self._broken:
                log.error("the access log cannot be written to %r: %s", self._output, error.strerror)
            self._broken = True
        return len(lines) - done

    def _writable(self) -> bool:
        """A blocking pipe that polls writable takes PIPE_BUF bytes without blocking; a file always does."""
        if self._whole:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(STALL_TIMEOUT * 1000))


def _write_all(fd: int, chunk: bytes) -> None:
    """A disk that fills up may take a part only; the rest raises at the next try."""
    while chunk:
        chunk = chunk[os.write(fd, chunk) :]


def _chunks(lines: list[bytes], size: int) -> list[tuple[int, bytes]]:
    """Whole lines joined up to `size` bytes, with their number; a longer line stands alone."""
    chunks: list[tuple[int, bytes]] = []
    held: list[bytes] = []
    length = 0
    for line in lines:
        if held and length + len(line) > size:
            chunks.append((len(held), b"".join(held)))
            held, length = [], 0
        held.append(line)
        length += len(line)
    if held:
        chunks.append((len(held), b"".join(held)))
    return chunks
