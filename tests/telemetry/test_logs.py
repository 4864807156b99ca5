"""The process's own log: one line per record, either format, and no credential in any."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from bgproxy.errors import ConfigError
from bgproxy.telemetry import logs
from bgproxy.telemetry.logs import JsonFormatter, TextFormatter, redact


def record(text: str, *arguments: object, error: bool = False) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError("inner Bearer abcdefghijklmnopqrstuvwxyz")
        except ValueError:
            info = sys.exc_info()
    made = logging.LogRecord("bgproxy.app", logging.WARNING, "app.py", 1, text, arguments, info)
    made.created = 1_700_000_000.1239
    return made


def test_text_for_people():
    line = TextFormatter("worker-1").format(record("flip to %s", "green"))
    assert line == "2023-11-14T22:13:20.123Z warning worker-1 bgproxy.app: flip to green"


def test_json_for_machines():
    line = JsonFormatter("worker-1").format(record("flip to %s\nand on", "green"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "warning",
        "worker": "worker-1",
        "logger": "bgproxy.app",
        "message": "flip to green\nand on",
    }


@pytest.mark.parametrize("formatter", [TextFormatter("w"), JsonFormatter("w")])
def test_an_exception_is_told_with_its_trace_and_without_secrets(formatter):
    line = formatter.format(record("it broke", error=True))
    assert "Traceback" in line
    assert "ValueError" in line
    assert "abcdefghijklmnop" not in line


def test_bytes_that_are_no_text_do_not_cost_the_line():
    assert json.loads(JsonFormatter("w").format(record("from %s", "\udcff")))["message"] == "from ?"


SECRET = "s3cr3t-s3cr3t-s3cr3t"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}\r\nHost: x",
        f"got headers {{'Authorization': 'Bearer {SECRET}', 'Host': 'x'}}",
        f"got [(b'authorization', b'Bearer {SECRET}')]",
        f"<CIMultiDict('Authorization': 'Token {SECRET}')>",
        f"Cookie: session={SECRET}; a=b",
        f"X-Api-Key: {SECRET}",
        f"sent bearer {SECRET} to nobody",
        f"redis://user:{SECRET}@10.0.0.1:6379/0 is away",
        f"redis://:{SECRET}@10.0.0.1:6379/0 is away",
        f"connect(host=x, password={SECRET}, db=0)",
        f"Token(name='ci', secret='{SECRET}')",
    ],
)
def test_credentials_are_blotted_out(text):
    told = redact(text)
    assert SECRET not in told
    assert "[redacted]" in told


@pytest.mark.parametrize(
    "text",
    [
        "a bearer token is needed",
        "flip to green by deploy: v2 is better",
        "http://127.0.0.1:9101 is down",
        "listening on 127.0.0.1:8080",
        "token ops is not known",
        "mail ops@example.test",
    ],
)
def test_plain_lines_stay_as_they_are(text):
    assert redact(text) == text


def test_a_redacted_line_keeps_what_is_beside_the_secret():
    assert redact(f"redis://u:{SECRET}@db.test:6379/0 is away") == "redis://[redacted]@db.test:6379/0 is away"
    kept = redact(f"{{'Authorization': 'Bearer {SECRET}', 'Host': 'x'}}")
    assert "'Host': 'x'" in kept


@pytest.fixture
def root():
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("form", ["text", "json"])
def test_setting_up_twice_tells_each_line_once_on_stderr(root, capsys, form):
    logs.setup("debug", form, "supervisor")
    logs.setup("INFO", form, "worker-7")
    logging.getLogger("bgproxy.x").info("hello")
    logging.getLogger("bgproxy.x").debug("quiet")
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert re.search(r"worker-7.*hello", told.err)


@pytest.mark.parametrize(
    ("level", "form", "words"), [("loud", "text", "log.level 'loud'"), ("info", "xml", "log.format")]
)
def test_settings_that_are_refused(root, level, form, words):
    with pytest.raises(ConfigError, match=words):
        logs.setup(level, form, "w")
