"""What a session is known by: a key, which values may be one, and what of it the store gets to see.

An id that is over-long, empty, or not of visible ASCII characters is no key. It is passed on like everything else,
and ignored. Nothing here knows a protocol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

MAX_ID: Final = 512  # bytes
MAX_KEYS: Final = 8  # of one message

_ID: Final = re.compile(rb"[\x21-\x7e]{1,512}")
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class Key(NamedTuple):
    """One id of a session. `space` says what kind of id it is, so that equal ids of two protocols are two keys."""

    space: str
    value: bytes
    rank: int  # lower is more specific, and wins


def is_id(value: bytes) -> bool:
    """Whether a value can be an id: 1 to `MAX_ID` visible ASCII characters."""
    return _ID.fullmatch(value) is not None


def joined_id(parts: Sequence[bytes]) -> bytes:
    """One id of several parts, `MAX_ID` bytes at most; b"" where a part can be none. No part has a space in it."""
    for part in parts:
        if _ID.fullmatch(part) is None:
            return b""
    if len(parts) == 1:
        return parts[0]
    value = b" ".join(parts)
    return value if len(value) <= MAX_ID else b""


def unquoted(value: bytes) -> bytes:
    """A piece of a path or query without its percent encoding (RFC 3986 §2.1); what is no encoding stays."""
    if 37 not in value:  # %
        return value
    return _PERCENT.sub(lambda match: bytes((int(match[1], 16),)), value)


def add_key(keys: list[Key], key: Key) -> bool:
    """Put a key into its place, the most specific first. False: it was there, or `MAX_KEYS` go before it."""
    if key in keys:
        return False
    at = len(keys)
    while at and keys[at - 1].rank > key.rank:
        at -= 1
    keys.insert(at, key)
    if len(keys) > MAX_KEYS:
        del keys[MAX_KEYS]
    return at < MAX_KEYS


def digest(key: Key, scope: bytes) -> bytes:
    """The 16 bytes that stand for a key in the store. Neither the id nor the scope can be read from them.

    `scope` keeps apart what must not meet: the caller makes it of the route and the hash of the credentials.
    """
    # Neither a space nor an id has a NUL in it, so no two different triples look alike.
    return blake2b(b"%b\0%b\0%b" % (key.space.encode(), key.value, scope), digest_size=16).digest()


def credentials_hash(value: bytes) -> bytes:
    """16 bytes for an Authorization field's value. The scheme's case does not matter (RFC 9110 §11.1)."""
    scheme, _, rest = value.strip(b" \t").partition(b" ")
    return blake2b(b"%b %b" % (scheme.lower(), rest.strip(b" \t")), digest_size=16, person=b"credentials").digest()
