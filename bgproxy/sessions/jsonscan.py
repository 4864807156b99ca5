"""Members of a JSON document found by their paths, while its bytes come in, without building its values.

What nobody asked for is skipped by patterns that run in C: most of a document costs one call. The depth of what is
skipped is a counter, and of what is walked into, the length of the longest path; so neither needs a limit.

A member that comes twice counts by its last value, as in all common parsers, as far as the document was read: reading
stops where the one who asked has enough. Escapes are decoded, in names too. A document that is not JSON is read as far
as it looks like one, and never raises. It does not know what its members mean.
"""

from __future__ import annotations

import json
import re
from typing import Final, Protocol

from bgproxy.sessions.jsonpath import Node, tree

_SPACE: Final = re.compile(rb"\s*+")
_BETWEEN: Final = re.compile(rb"[\s,]*+")
_TEXT: Final = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_NUMBER: Final = re.compile(rb"-?+\d{1,64}+(?=[\s,}\]])")
_SCALAR: Final = re.compile(rb"[^\s,}\]]*+")
_IN_TEXT: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_IN_TREE: Final = re.compile(tree(3), re.DOTALL)
_OPENING: Final = re.compile(rb'[^"\]}]*+')
_CLOSING: Final = re.compile(rb"[\s,\]}]*+")

# What the bytes that come next belong to.
_AT_START: Final = 0
_AT_NAME: Final = 1  # in an object that is walked
_AT_TEXT: Final = 2  # a string that is wanted
_IN_BRACKETS: Final = 3
_IN_STRING: Final = 4  # one that is not wanted
_IN_SCALAR: Final = 5
_AT_ELEMENT: Final = 6  # in an array that is walked
_AT_NUMBER: Final = 7
_IN_NAME: Final = 8  # one that is too long to be wanted
_AT_COLON: Final = 9
_AT_VALUE: Final = 10
_OVER: Final = 11

_BACKSLASH: Final = 92
_LONGEST_NAME: Final = 4_096  # bytes
_LONGEST_NUMBER: Final = 65
# In place of a count of elements.
_OBJECT: Final = -1
_BATCH: Final = -2


class Taker(Protocol):
    """Who asks for the members."""

    def enough(self, found: int, values: list[bytes]) -> bool:
        """One more member is there. `found`: the slots that have a value, as bits. True: stop reading."""

    def document(self, found: int, values: list[bytes]) -> bool:
        """A document in which something was found is over, or an element of a batch. True: stop reading."""


class Scanner:
    """Reads one document. An array at the top is a batch: each of its elements is read as a document."""

    __slots__ = (
        "_count",
        "_depth",
        "_found",
        "_node",
        "_pending",
        "_stack",
        "_state",
        "_taker",
        "_values",
        "_want",
        "over_long",
    )

    def __init__(self, root: Node, slots: int, taker: Taker) -> None:
        self.over_long = 0  # wanted strings that were longer than their limit
        self._taker = taker
        self._found = 0
        self._values = [b""] * slots
        self._node = root  # of the object or array that is walked
        self._count = _OBJECT  # of elements, in an array
        self._stack: list[tuple[Node, int]] = []  # those around it, with their counts
        self._want: Node | None = root  # of the value that comes next
        self._depth = 0  # of brackets, in what is skipped
        self._state = _AT_START
        self._pending = b""  # the beginning of a token

    def feed(self, data: bytes) -> bool:
        """The next bytes. True: the rest does not matter."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        at = 0
        while at >= 0:
            state = self._state
            if state == _AT_NAME:
                at = self._name(data, at)
            elif state == _AT_TEXT:
                at = self._text(data, at)
            elif state == _OVER:
                return True
            else:
                at = self._step(state, data, at)
        return False

    def end(self) -> None:
        """There are no more bytes."""
        if self._state != _OVER:
            self._finish()

    # Each of these reads one token, or many that are skipped, from `at` on. They return where the next one begins; -1
    # where more bytes are needed.

    def _step(self, state: int, data: bytes, at: int) -> int:
        if state == _IN_BRACKETS:
            return self._brackets(data, at)
        if state in (_IN_STRING, _IN_NAME):
            return self._string(data, at)
        if state == _IN_SCALAR:
            at = _end(_SCALAR.match(data, at))
            return -1 if at == len(data) else self._after(at)
        if state == _AT_ELEMENT:
            return self._element(data, at)
        if state == _AT_NUMBER:
            return self._number(data, at)
        at = _end(_SPACE.match(data, at))
        if at == len(data):
            return -1
        if state == _AT_VALUE:
            return self._value(data, at, self._want)
        if state == _AT_COLON:
            self._state = _AT_VALUE
            return at + 1 if data[at] == 58 else self._finish()
        return self._start(data[at], at)

    def _start(self, first: int, at: int) -> int:
        if first == 123:  # {
            self._state = _AT_NAME
        elif first == 91:  # [
            self._state = _AT_ELEMENT
            self._count = _BATCH
        else:
            return self._finish()
        return at + 1

    def _name(self, data: bytes, at: int) -> int:
        node = self._node
        while True:
            match = node.next.match(data, at)
            assert match is not None
            at = match.end()
            kind = match.lastindex
            if kind is None:
                return self._odd_name(data, at)
            child = node.children.get(match[1])
            if kind == 1:
                return self._value(data, at, child)
            if child is not None:
                self._found &= ~child.below
                if child.slot >= 0:
                    self._want = child
                    if len(match[2]) > child.limit:
                        self.over_long += 1
                    elif self._take(match[2]):
                        return at

    def _odd_name(self, data: bytes, at: int) -> int:
        """No name: the object's end, or one with escapes, or that is not whole, or something else."""
        if at == len(data):
            return -1
        if data[at] == 125:  # }
            return self._close(at + 1)
        if data[at] != 34:
            return self._finish()
        match = _TEXT.match(data, at)
        if match is None:
            if len(data) - at <= _LONGEST_NAME:
                self._pending = data[at:]
                return -1
            self._state = _IN_NAME
            return at + 1
        name = match[1]
        self._want = self._node.children.get(name if _BACKSLASH not in name else decoded(name))
        self._state = _AT_COLON
        return match.end()

    def _element(self, data: bytes, at: int) -> int:
        at = _end(_BETWEEN.match(data, at))
        if at == len(data):
            return -1
        if data[at] == 93:  # ]
            return self._close(at + 1)
        if self._count == _BATCH:
            return self._value(data, at, self._node)
        child = self._node.children.get(b"%d" % self._count)
        self._count += 1
        return self._value(data, at, child)

    def _value(self, data: bytes, at: int, want: Node | None) -> int:
        """A value begins at `at`."""
        first = data[at]
        if want is not None:
            self._found &= ~want.below
            if want.slot >= 0:
                self._want = want
                if first == 34:
                    self._state = _AT_TEXT
                    return at
                if first == 45 or 48 <= first <= 57:  # - or a digit
                    self._state = _AT_NUMBER
                    return at
            if want.children and (first == 123 or first == 91):
                self._stack.append((self._node, self._count))
                self._node = want
                self._count = _OBJECT if first == 123 else 0
                self._state = _AT_NAME if first == 123 else _AT_ELEMENT
                return at + 1
        if first == 34:
            self._state = _IN_STRING
            return at + 1
        if first == 123 or first == 91:
            self._state = _IN_BRACKETS
            self._depth = 1
            return at + 1
        if first == 125 or first == 93 or first == 58:
            return self._finish()
        self._state = _IN_SCALAR
        return at

    def _text(self, data: bytes, at: int) -> int:
        assert self._want is not None
        limit = self._want.limit
        match = _TEXT.match(data, at)
        if match is None:
            if len(data) - at <= limit + 1:
                self._pending = data[at:]
                return -1
            self.over_long += 1
            self._state = _IN_STRING
            return at + 1
        text = match[1]
        if len(text) > limit:
            self.over_long += 1
            return self._after(match.end())
        self._take(text if _BACKSLASH not in text else decoded(text))
        return self._after(match.end())

    def _number(self, data: bytes, at: int) -> int:
        match = _NUMBER.match(data, at)
        if match is not None:
            self._take(match[0])
            return self._after(match.end())
        if _end(_SCALAR.match(data, at)) == len(data) and len(data) - at <= _LONGEST_NUMBER:
            self._pending = data[at:]
            return -1
        self._state = _IN_SCALAR
        return at

    def _string(self, data: bytes, at: int) -> int:
        at = _end(_IN_TEXT.match(data, at))
        if at == len(data) or data[at] != 34:
            self._pending = data[at:]  # nothing, or a backslash
            return -1
        if self._state == _IN_NAME:
            self._want = None
            self._state = _AT_COLON
            return at + 1
        return self._after(at + 1)

    def _brackets(self, data: bytes, at: int) -> int:
        at = _end(_IN_TREE.match(data, at))
        if at == len(data):
            return -1
        byte = data[at]
        if byte == 34:
            self._state = _IN_STRING
        elif byte == 123 or byte == 91:
            end = _end(_OPENING.match(data, at))
            self._depth += data.count(b"[", at, end) + data.count(b"{", at, end)
            return end
        else:
            end = _end(_CLOSING.match(data, at))
            closed = data.count(b"]", at, end) + data.count(b"}", at, end)
            if closed < self._depth:
                self._depth -= closed
                return end
            while True:  # the last of them is among these
                if data[at] == 125 or data[at] == 93:
                    self._depth -= 1
                    if self._depth == 0:
                        return self._after(at + 1)
                at += 1
        return at + 1

    def _take(self, value: bytes) -> bool:
        """A value that is wanted. True: that is enough."""
        assert self._want is not None
        slot = self._want.slot
        self._values[slot] = value
        self._found |= 1 << slot
        if self._taker.enough(self._found, self._values):
            self._finish()
            return True
        return False

    def _after(self, at: int) -> int:
        """A value is over."""
        if self._state == _OVER:
            return at
        if self._depth:
            self._state = _IN_BRACKETS
        elif self._count == _OBJECT:
            self._state = _AT_NAME
        else:
            self._state = _AT_ELEMENT
        return at

    def _close(self, at: int) -> int:
        """The object or array that is walked is over."""
        if not self._stack:
            return self._finish()
        self._node, self._count = self._stack.pop()
        if self._count == _BATCH and self._found:
            enough = self._taker.document(self._found, self._values)
            self._found = 0
            if enough:
                return self._finish()
        return self._after(at)

    def _finish(self) -> int:
        """The document is over, or there is enough of it, or it is none."""
        self._state = _OVER
        self._pending = b""
        if self._found:
            self._taker.document(self._found, self._values)
        return 0


def decoded(raw: bytes) -> bytes:
    """The text of a JSON string with escapes in it, in UTF-8; b"" where they are wrong."""
    try:
        text = json.loads(f'"{raw.decode()}"', strict=False)
    except ValueError:
        return b""
    assert isinstance(text, str)
    return text.encode("utf-8", "surrogatepass")


def _end(match: re.Match[bytes] | None) -> int:
    """Where a pattern has stopped that matches everywhere, if only nothing."""
    assert match is not None
    return match.end()
