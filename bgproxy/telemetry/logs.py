"""The process's own log: standard logging to stderr, as text for people or one JSON object per line for machines.

What looks like a credential is blotted out of every line, whoever wrote it: a bearer token, a field that carries one,
the password in a URL. Nothing should put one there; this is the second lock.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

from bgproxy.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("text", "json")

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|api-key)(\W{0,3}[:=,]\s*)"
            r"""(b?(["'])(?:(?!\4).)*\4|[^\r\n]+)"""
        ),
        r"\1\2[redacted]",
    ),
    (re.compile(r"(?i)\bbearer\s+[a-z0-9._~+/=-]{12,}"), "Bearer [redacted]"),
    (re.compile(r"(://)[^/\s@'\"]*@"), r"\1[redacted]@"),
    (re.compile(r"(?i)\b(password|secret|token)(\s*[=:]\s*)([\"']?)[^\s&,;)\"']{6,}"), r"\1\2\3[redacted]"),
)


def setup(level: str, format: Literal["text", "json"], worker: str) -> None:  # noqa: A002 - the setting's own name
    """Send every logger of the process to stderr. `worker` tells a host's processes apart. Raises ConfigError."""
    if level.lower() not in LEVELS:
        raise ConfigError(f"log.level {level!r} is not known, use one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ConfigError(f"log.format {format!r} is not known, use one of {', '.join(FORMATS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if format == "json" else TextFormatter(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z info worker-1 bgproxy.app: text`"""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_time(record)} {record.levelname.lower()} {self._worker} {record.name}: {record.getMessage()}"
        trace = _trace(self, record)
        return redact(f"{head}\n{trace}" if trace else head)


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, worker, logger, message and, where there was one, exception."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "worker": self._worker,
            "logger": record.name,
            "message": _utf8(redact(record.getMessage())),
        }
        if trace := _trace(self, record):
            line["exception"] = _utf8(redact(trace))
        return orjson.dumps(line).decode()


def redact(text: str) -> str:
    """The text without what looks like a credential."""
    for pattern, blot in _SECRETS:
        text = pattern.sub(blot, text)
    return text


def _utf8(text: str) -> str:
    """orjson refuses lone surrogates, which a peer's bytes may have left in a message."""
    return text.encode("utf-8", "replace").decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
