"""Which fields go on and which end here: hop-by-hop fields (RFC 9110 §7.6.1), and what is told about the client.

Heads are cut as bytes, line by line: a head that passed the grammar has a line feed only at line ends, so
`\\nname:` finds a field and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from mypy_extensions import i64

from bgproxy.http1.scan import COMPILED

# They end at this hop whether the Connection field names them or not.
HOP_BY_HOP: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings"))

# What a peer says about the client, believed only from trusted proxies: these, and every X-Forwarded-*.
_IDENTITY: Final = frozenset((b"x-real-ip", b"forwarded"))

# A Connection field names its own hop's fields; it cannot name these away (a known way to strip identity at a proxy).
NOT_NAMED_AWAY: Final = _IDENTITY | {
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"authorization",
    b"proxy-authorization",
    b"x-api-key",
    b"api-key",
    b"cookie",
    b"set-cookie",
    b"content-type",
    b"content-encoding",
    b"cache-control",
    b"date",
    b"via",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
    b"mcp-session-id",
    b"expect",
}

# Never in trailers: framing, routing, authentication, identity (RFC 9110 §6.5.1).
NOT_IN_TRAILERS: Final = (
    NOT_NAMED_AWAY
    | HOP_BY_HOP
    | {
        b"trailer",
        b"max-forwards",
        b"range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"www-authenticate",
        b"authentication-info",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"location",
        b"age",
        b"expires",
        b"pragma",
        b"vary",
        b"retry-after",
        b"warning",
        b"content-range",
    }
)

_LONGEST_ID: Final = 128
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,%d}" % _LONGEST_ID)
_FEW: Final = 4  # names up to which a search for each is cheaper than a look at every line


def is_identity(name: bytes) -> bool:
    """Whether a field (its name in lower case) tells who the client is; only a trusted proxy's word counts."""
    return name in _IDENTITY or name.startswith(b"x-forwarded-")


def is_ours(name: bytes) -> bool:
    """Whether this proxy takes a field (its name in lower case) off, or writes it itself."""
    return name in HOP_BY_HOP or name == b"x-request-id" or name.startswith(b"x-bgproxy-") or is_identity(name)


def is_request_id(value: bytes) -> bool:
    """Whether an X-Request-Id is one that may be kept: 1 to 128 visible ASCII characters."""
    if not COMPILED:
        return _REQUEST_ID.fullmatch(value) is not None
    at: i64 = 0
    size: i64 = len(value)
    if size == 0 or size > _LONGEST_ID:
        return False
    while at < size:
        byte: i64 = value[at]
        if byte < 33 or byte > 126:
            return False
        at += 1
    return True


def may_trail(name: bytes) -> bool:
    """Whether a field (its name in lower case) may go on in a trailer section."""
    return not (name in NOT_IN_TRAILERS or b"_" in name or is_ours(name))


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated field value, white space off, empty ones left out (RFC 9110 §5.6.1)."""
    return [token for part in value.split(b",") if (token := part.strip(b" \t"))]


def named_away(connection: list[bytes]) -> set[bytes]:
    """The further fields which a Connection field (its tokens in lower case) ends at this hop.

    A token with a colon is no name, and would find a field by the beginning of its value.
    """
    return {token for token in connection if not (b":" in token or token in NOT_NAMED_AWAY or is_identity(token))}


def cut(head: bytes, low: bytes, names: Collection[bytes]) -> bytes:
    """The head without the fields of these names; `low` is the head in lower case. Linear, whatever the names."""
    if len(names) > _FEW:
        line, *lines = head.split(b"\r\n")
        return b"\r\n".join([line, *[line for line in lines if line.partition(b":")[0].lower() not in names]])
    spans = []
    for name in names:
        needle = b"\n%b:" % name
        start = low.find(needle)
        while start >= 0:
            end = low.index(b"\n", start + 1)
            spans.append((start, end))
            start = low.find(needle, end)
    spans.sort()
    kept = []
    at = 0
    for start, end in spans:
        kept.append(head[at:start])
        at = end
    kept.append(head[at:])
    return b"".join(kept)


def values(head: bytes, low: bytes, name: bytes) -> list[bytes]:
    """Every value of one field, white space off, in order, in the sender's own letters."""
    needle = b"\n%b:" % name
    found = []
    at = low.find(needle)
    while at >= 0:
        end = low.index(b"\r", at + 1)
        found.append(head[at + len(needle) : end].strip(b" \t"))
        at = low.find(needle, end)
    return found


def names_with_underscore(head: bytes) -> set[bytes]:
    """The names, in lower case, of the fields that have a `_` in theirs: some agents cannot tell it from a `-`."""
    names = (line.partition(b":")[0] for line in head.split(b"\r\n")[1:])
    return {name.lower() for name in names if b"_" in name}
