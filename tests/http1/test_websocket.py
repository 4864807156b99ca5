"""Where WebSocket frames end, for frames made by the `websockets` package and split anywhere."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from bgproxy.http1.websocket import FrameTracker, close_frame

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536]  # on both sides of each way to write a length (RFC 6455 §5.2)


def frame(size: int, *, mask: bool, opcode: Opcode = Opcode.BINARY, fin: bool = True) -> bytes:
    return Frame(opcode, b"\x81" * size, fin=fin).serialize(mask=mask)


def boundaries(data: bytes, cuts: list[int]) -> list[int]:
    """Which of the cuts the tracker calls a boundary."""
    tracker = FrameTracker()
    found = []
    for start, end in itertools.pairwise([0, *cuts]):
        tracker.feed(data[start:end])
        if tracker.at_boundary:
            found.append(end)
    return found


@pytest.mark.parametrize("mask", [False, True], ids=["of a server", "of a client"])
@pytest.mark.parametrize("size", SIZES)
def test_one_frame_byte_by_byte(size: int, mask: bool) -> None:
    data = frame(size, mask=mask)
    assert boundaries(data, list(range(1, len(data) + 1))) == [len(data)]


@pytest.mark.parametrize("mask", [False, True], ids=["of a server", "of a client"])
def test_many_frames_at_once(mask: bool) -> None:
    data = b"".join(frame(size, mask=mask) for size in SIZES)
    assert boundaries(data, [len(data)]) == [len(data)]
    assert boundaries(data, [len(data) - 1, len(data)]) == [len(data)]


def test_nothing_yet_is_a_boundary() -> None:
    tracker = FrameTracker()
    tracker.feed(b"")
    assert tracker.at_boundary


def test_the_longest_frame_has_only_begun_with_its_head() -> None:
    assert boundaries(b"\x82\x7f\x01" + bytes(7), [10]) == []


def test_every_kind_of_frame() -> None:
    data = b"".join(frame(3, mask=True, opcode=opcode) for opcode in Opcode) + frame(3, mask=False, fin=False)
    ends = [*range(9, 9 * len(Opcode) + 1, 9), 9 * len(Opcode) + 5]
    assert boundaries(data, list(range(1, len(data) + 1))) == ends


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 125, 126, 300, 65_536]), st.booleans()), max_size=6), st.randoms())
def test_frames_split_anywhere(shapes: list[tuple[int, bool]], dice: random.Random) -> None:
    frames = [frame(size, mask=mask) for size, mask in shapes]
    data = b"".join(frames)
    ends = set(itertools.accumulate(map(len, frames)))
    near = {end + step for end in ends for step in range(-3, 15) if 0 < end + step <= len(data)}
    cuts = sorted([*dice.sample(sorted(near), dice.randint(0, len(near))), len(data)])
    assert set(boundaries(data, cuts)) - {0} == ends & set(cuts)


@pytest.mark.parametrize("mask", [b"", b"\x01\x02\x03\xff"], ids=["to a client", "to a server"])
@pytest.mark.parametrize("reason", ["", "the proxy is shutting down", "ä" * 200])
def test_a_close_frame_is_understood(mask: bytes, reason: str) -> None:
    data = close_frame(1001, reason, mask)
    assert boundaries(data, [len(data)]) == [len(data)]
    parsed = parse(data, mask=bool(mask))
    assert parsed.opcode is Opcode.CLOSE
    close = Close.parse(parsed.data)
    assert close.code == 1001
    assert reason.startswith(close.reason)
    assert bool(close.reason) == bool(reason)


def parse(data: bytes, *, mask: bool) -> Frame:
    """The frame as `websockets` reads it; a bad one raises its ProtocolError."""
    rest = memoryview(data)

    def read_exact(size: int):  # type: ignore[no-untyped-def]
        nonlocal rest
        yield from ()
        taken, rest = rest[:size], rest[size:]
        return bytes(taken)

    parsing = Frame.parse(read_exact, mask=mask)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert not rest
    found: Frame = done.value.value
    found.check()
    return found
