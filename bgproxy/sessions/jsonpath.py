"""The wanted members of a JSON document, by their paths, as a tree; and the patterns of what stands between them.

A pattern runs in C: most of a document, whatever nobody asked for, costs one call. The patterns go a few levels deep,
which is how deep most documents are; a walk does the rest (`jsonscan`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT: Final = rb'[^"{}\[\]]++|%b' % _STRING


def tree(levels: int) -> bytes:
    """What stands between two brackets, with so many levels of brackets within."""
    inner = rb"(?:%b)*+" % _FLAT
    for _ in range(levels):
        inner = rb"(?:%b|[{\[]%b[}\]])*+" % (_FLAT, inner)
    return inner


# Of a number or a word the end must be seen: its next byte is one that cannot belong to it.
_VALUE: Final = rb'(?:%b|[{\[]%b[}\]]|[^\s,:{}\[\]"][^\s,{}\[\]"]*+(?=[\s,}\]]))' % (_STRING, tree(3))

_PLAIN_MEMBER: Final = rb'(?:"([^"\\]*+)"\s*+:\s*+(?:"([^"\\]*+)"|(?=\S)))?'
_BETWEEN: Final = re.compile(rb"[\s,]*+")


class Node:
    """One step of the wanted paths. `slot`: where the value goes if this is a path's end, else -1."""

    __slots__ = ("below", "children", "limit", "next", "slot")

    def __init__(self) -> None:
        self.children: dict[bytes, Node] = {}
        self.slot = -1
        self.limit = 0  # bytes of a string, escapes included; a longer one is none
        self.below = 0  # the slots of this node and below, as bits
        # Members that nobody wants, one after the other, and then the name of one that matters, if it is there whole:
        # with its text, if that is plain, or else up to the first byte of its value.
        self.next: re.Pattern[bytes] = _BETWEEN

    def finish(self) -> int:
        """Work out what follows from the children. Returns `below`."""
        self.below = 1 << self.slot if self.slot >= 0 else 0
        for child in self.children.values():
            self.below |= child.finish()
        if self.children:
            names = b"|".join(re.escape(name) for name in sorted(self.children))
            other = rb'"(?!(?:%b)")[^"\\]*+"' % names
            self.next = re.compile(rb"(?:[\s,]*+%b\s*+:\s*+%b)*+[\s,]*+%b" % (other, _VALUE, _PLAIN_MEMBER), re.DOTALL)
        return self.below


def compile_paths(paths: Sequence[tuple[str, ...]], limits: Sequence[int]) -> Node:
    """The tree of these paths; a path's slot is its place among them. `limits`: bytes of each one's string."""
    root = Node()
    for slot, path in enumerate(paths):
        node = root
        for name in path:
            node = node.children.setdefault(name.encode("utf-8", "surrogatepass"), Node())
        node.slot = slot
        node.limit = limits[slot]
    root.finish()
    return root
