"""WebSocket frames, as far as a tunnel must know them: where one ends, and how a connection is closed (RFC 6455 §5).

The tunnel passes bytes on unseen. Only at an operator's deadline does it say something of its own, and then between
two frames: this file tells where that is.
"""

from __future__ import annotations


class FrameTracker:
    """Follows one direction's frame heads. `at_boundary`: the last byte seen was the last of a frame."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # a frame head that is not whole yet: up to 13 bytes
        self._left = 0  # payload to come of the open frame

    @property
    def at_boundary(self) -> bool:
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """See the bytes that pass."""
        at, size = 0, len(data)
        if self._head:
            data = self._head + data
            size = len(data)
            self._head = b""
        while at < size:
            if self._left:
                taken = min(self._left, size - at)
                self._left -= taken
                at += taken
                continue
            length = _head_length(data, at)
            if at + length > size:
                self._head = data[at:]
                return
            self._left = _payload_length(data, at)
            at += length


def _head_length(data: bytes, at: int) -> int:
    """How long a frame's head is; of one byte nothing more is known than that two are needed."""
    if len(data) - at < 2:
        return 2
    second = data[at + 1]
    length = 6 if second & 0x80 else 2  # the mask's 4 bytes with it
    if second & 0x7F < 126:
        return length
    return length + (2 if second & 0x7F == 126 else 8)


def _payload_length(data: bytes, at: int) -> int:
    length = data[at + 1] & 0x7F
    if length == 126:
        return int.from_bytes(data[at + 2 : at + 4], "big")
    if length == 127:
        return int.from_bytes(data[at + 2 : at + 10], "big")
    return length


def close_frame(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A close frame (RFC 6455 §5.5.1); `mask` (4 bytes) for the direction to a server."""
    # What is cut off must not cut a letter in two: the reason is UTF-8, or the other side fails the connection.
    payload = code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()
    if not mask:
        return bytes((0x88, len(payload))) + payload
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes((0x88, 0x80 | len(payload))) + mask + masked
