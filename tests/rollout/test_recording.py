"""What is kept of sessions: all of one or none of it, redacted, sealed, and bounded."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgproxy.errors import ConfigError
from bgproxy.rollout import recording as module
from bgproxy.rollout.options import RecordingOptions
from bgproxy.rollout.recording import Recorder, records_of, redaction_of
from bgproxy.rollout.records import Broken, Records, Seal
from bgproxy.telemetry.taken import Taken
from tests.rollout.exchanges import TAKEN

KEY = base64.b64encode(b"k" * 32).decode()
ONE, TWO = b"\x01" * 16, b"\x02" * 16


def records(directory: Path, **options: Any) -> Records:
    found = records_of(RecordingOptions(str(directory), key=KEY, **options))
    found.prepare()
    return found


def turn(at: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"at": at, **more}


# The files


def test_a_session_is_read_in_the_order_of_its_turns(tmp_path: Path) -> None:
    one, other = records(tmp_path), records(tmp_path)  # as two workers
    one.append("ab" * 16, [turn(1.0, n=1), turn(3.0, n=3)])
    other.append("ab" * 16, [turn(2.0, n=2)])
    assert [found["n"] for found in other.read("ab" * 16)] == [1, 2, 3]
    assert one.sessions() == ["ab" * 16]
    (file,) = tmp_path.iterdir()
    assert b'"n"' not in file.read_bytes(), "nothing is in the clear"
    assert (file.stat().st_mode & 0o777, tmp_path.stat().st_mode & 0o077) == (0o600, tmp_path.stat().st_mode & 0o077)


def edit(data: bytes) -> bytes:
    return data[:40] + (b"A" if data[40:41] != b"A" else b"B") + data[41:]


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (edit, "was edited"),
        (lambda data: b"".join(lines(data)[1:]), "was edited"),  # its beginning is gone
        (lambda data: lines(data)[0] + lines(data)[2], "was edited"),
        (lambda data: lines(data)[1] + lines(data)[0] + lines(data)[2], "was edited"),
        (lambda data: data[:-5], "its last line is not whole"),
        (lambda data: b"", "its last line is not whole"),
        (lambda data: data + b"nonsense\n", "was edited"),
        (lambda data: data + b"\xff\xff\n", "was edited"),
    ],
)
def test_a_session_that_was_touched_is_not_used(tmp_path: Path, harm: Any, why: str) -> None:
    kept = records(tmp_path)
    kept.append("ab" * 16, [turn(n=1), turn(n=2), turn(n=3)])
    (file,) = tmp_path.iterdir()
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(Broken, match=why):
        kept.read("ab" * 16)


def test_a_line_of_another_session_or_key_is_not_taken(tmp_path: Path) -> None:
    kept = records(tmp_path)
    kept.append("ab" * 16, [turn()])
    (tmp_path / ("ab" * 16 + ".session")).rename(tmp_path / ("cd" * 16 + ".session"))
    with pytest.raises(Broken, match="was edited"):
        kept.read("cd" * 16)
    with pytest.raises(Broken, match="cannot be read"):
        kept.read("ab" * 16)
    kept.append("ab" * 16, [turn()])
    other = Records(tmp_path, Seal(base64.urlsafe_b64encode(b"\xff" * 32).decode()), kept._bounds)
    with pytest.raises(Broken, match="another key"):
        other.read("ab" * 16)


def test_what_is_old_or_too_much_goes(tmp_path: Path) -> None:
    kept = records(tmp_path, max_sessions=3, max_age=1_000.0, max_bytes=100_000)
    names = [f"{number:032x}" for number in range(6)]
    for number, name in enumerate(names):
        kept.append(name, [turn()])
        stat = (tmp_path / f"{name}.session").stat()
        at = stat.st_mtime - 100 * number if number < 5 else stat.st_mtime - 2_000
        os.utime(tmp_path / f"{name}.session", (at, at))
    (tmp_path / "notes.txt").write_text("not ours")
    kept.sweep()
    assert kept.sessions() == names[:3]
    big = "ef" * 16
    kept.append(big, [turn(text="x" * 74_500)])
    assert kept.sweep() <= 100_000
    assert kept.sessions() == [big, *names[:2]]
    kept.append("fe" * 16, [turn(text="x" * 20_000)])
    kept.sweep()
    assert kept.sessions() == ["fe" * 16, *names[:2]], "the older one of what is too much"
    assert (tmp_path / "notes.txt").exists()


def test_a_session_that_is_too_long_is_forgotten(tmp_path: Path) -> None:
    kept = records(tmp_path, max_turns=2)
    kept.append("ab" * 16, [turn(), turn()])
    assert kept.knows("ab" * 16)
    kept.append("ab" * 16, [turn()])
    assert not kept.knows("ab" * 16)


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(b"k" * 31).decode(), "=" * 44, "ü" * 44])
def test_a_key_that_is_none(key: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand -base64 32"):
        Seal(key)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        records(tmp_path / "file")


# What is kept

TURN = replace(
    TAKEN,
    method="POST",
    target="/chat?api_key=1",
    request_head=b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAuthorization: Bearer x\r\n",
    body=b'{"password": "p", "text": "hello"}',
    answer_head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=b\r\n",
    answer=b'{"id": "r1"}',
    at=5.0,
    preset="mcp",
    pin=ONE,
)
LATER = replace(TURN, at=6.0, session_ids=(b"s-1",))


async def recorded(tmp_path: Path, *taken: Taken, share: float = 1.0, **options: Any) -> Records:
    kept = records(tmp_path, **options)
    recorder = Recorder(kept, redaction_of(RecordingOptions(**options)), share)
    for one in taken:
        recorder.take(one)
    await recorder.stop()
    return kept


async def test_a_turn_is_redacted(tmp_path: Path) -> None:
    kept = await recorded(tmp_path, TURN, LATER)
    first, second = kept.read(ONE.hex())
    assert (first["at"], second["at"], first["ids"], second["ids"]) == (5.0, 6.0, [], ["s-1"])
    assert (first["method"], first["target"], first["host"]) == ("POST", "/chat?api_key=[redacted]", "a")
    assert json.loads(base64.b64decode(first["body"])) == {"password": "[redacted]", "text": "hello"}
    assert json.loads(base64.b64decode(first["answer"])) == {"id": "r1"}
    assert dict(map(tuple, first["fields"]))["Authorization"] == "[redacted]"
    assert dict(map(tuple, first["answer_fields"]))["Set-Cookie"] == "[redacted]"


@pytest.mark.parametrize(
    ("taken", "names"),
    [
        ([LATER], []),  # its beginning was not seen
        ([replace(LATER, preset="header:X-Session")], [ONE.hex()]),  # which its client names from the first turn on
        ([TURN, replace(LATER, complete=False)], []),  # a turn of it is lost
        ([TURN, replace(LATER, complete=False, method="GET")], [ONE.hex()]),  # which changes nothing
        ([replace(TURN, body=b"{", pin=ONE), replace(TURN, pin=TWO)], [TWO.hex()]),  # cannot be redacted
        ([replace(TURN, pin=b"", session_ids=(b"s",))], []),
    ],
)
async def test_whole_sessions_only(tmp_path: Path, taken: list[Taken], names: list[str]) -> None:
    assert (await recorded(tmp_path, *taken)).sessions() == names


async def test_a_session_that_loses_a_turn_later_is_forgotten(tmp_path: Path) -> None:
    kept = await recorded(tmp_path, TURN)
    assert kept.knows(ONE.hex())
    await recorded(tmp_path, replace(LATER, complete=False))
    assert not kept.knows(ONE.hex())
    await recorded(tmp_path, LATER)
    assert not kept.knows(ONE.hex()), "it is not taken up again in its middle"


async def test_a_turn_waits_for_the_one_before_it_which_another_worker_writes(tmp_path: Path) -> None:
    kept = records(tmp_path)
    here, there = (Recorder(kept, redaction_of(RecordingOptions()), 1.0) for _ in range(2))
    here.take(LATER)
    await here._write()
    assert not kept.knows(ONE.hex())
    there.take(TURN)
    await there._write()
    await here.stop()
    assert [turn["at"] for turn in kept.read(ONE.hex())] == [5.0, 6.0]


async def test_a_turn_that_was_lost_counts_where_another_worker_begins_the_session_after_that(tmp_path: Path) -> None:
    kept = records(tmp_path)
    here, there = (Recorder(kept, redaction_of(RecordingOptions()), 1.0) for _ in range(2))
    here.take(replace(LATER, complete=False))
    await here._write()
    there.take(TURN)
    await there._write()
    await here.stop()
    assert not kept.knows(ONE.hex())


async def test_a_session_that_began_before_is_not_asked_for_again_and_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    kept = records(tmp_path)
    recorder = Recorder(kept, redaction_of(RecordingOptions()), 1.0)
    recorder.take(LATER)
    await recorder._write()
    assert recorder._waiting == []
    monkeypatch.setattr(kept, "knows", None)  # would fail
    recorder.take(LATER)
    await recorder.stop()


async def test_a_question_of_no_session_stands_for_itself(tmp_path: Path) -> None:
    kept = await recorded(tmp_path, replace(TURN, pin=b""), replace(TURN, pin=b""))
    assert [len(kept.read(name)) for name in kept.sessions()] == [1, 1]


async def test_a_share_of_sessions_is_drawn_by_the_session(tmp_path: Path) -> None:
    many = [replace(TURN, pin=os.urandom(16)) for _ in range(200)]
    kept = await recorded(tmp_path, *many, share=0.5)
    found = set(kept.sessions())
    assert 60 < len(found) < 140
    again = await recorded(tmp_path / "other", *many, share=0.5)
    assert set(again.sessions()) == found


async def test_an_answer_that_was_cut_is_kept_without_its_body(tmp_path: Path) -> None:
    kept = await recorded(tmp_path, replace(TURN, whole=False))
    assert kept.read(ONE.hex())[0]["answer"] is None


async def test_a_disk_that_fails_is_said_once_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = records(tmp_path / "here")
    recorder = Recorder(kept, redaction_of(RecordingOptions()), 1.0)
    (tmp_path / "here").rmdir()
    for _ in range(3):
        recorder.take(TURN)
        await recorder._write()
    assert caplog.text.count("sessions cannot be recorded, tried again in 30 s") == 1
    (tmp_path / "here").mkdir()
    recorder._silent_until = 0.0
    recorder.take(LATER)
    await recorder.stop()
    assert kept.sessions() == [], "turns of it are lost"


async def test_what_a_disk_that_fails_for_long_has_lost_is_remembered_in_bounded_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SPOILED", 20)
    kept = records(tmp_path / "here")
    kept.append(TURN.pin.hex(), [turn()])
    recorder = Recorder(kept, redaction_of(RecordingOptions()), 1.0)
    (tmp_path / "here").rename(tmp_path / "away")
    for number in range(100):
        recorder.take(replace(TURN, pin=TURN.pin if not number else number.to_bytes(16, "big")))
        await recorder._write()
        assert len(recorder._spoiled) <= 20
    (tmp_path / "away").rename(tmp_path / "here")
    recorder._silent_until = 0.0
    assert kept.sessions() == [TURN.pin.hex()]
    await recorder._write()
    assert kept.sessions() == [], "a turn of it was lost, as of any that began before"
    recorder._spoiled = {}
    recorder.take(replace(TURN, pin=b"n" * 16))
    await recorder.stop()
    assert kept.sessions() == [(b"n" * 16).hex()], "what begins from then on is kept"


async def test_what_comes_faster_than_it_is_written_is_dropped_with_its_session(tmp_path: Path) -> None:
    kept = records(tmp_path)
    recorder = Recorder(kept, redaction_of(RecordingOptions()), 1.0)
    recorder.take(TURN)
    recorder._bytes = 2**40
    recorder.take(LATER)
    assert recorder.dropped == 1
    await recorder.stop()
    assert kept.sessions() == []
