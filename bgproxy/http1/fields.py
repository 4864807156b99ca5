"""Which fields go on and which end here: hop-by-hop fields (RFC 9110 §7.6.1), and what is told about the client.

Heads are cut as bytes, line by line: a head that passed the grammar has a line feed only at line ends, so
`\\nname:` finds a field and nothing else.
"""

from __future__ import annotations

# They end at this hop whether the Connection field names them or not.
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings"))

# What a peer says about the client, believed only from trusted proxies.
IDENTITY = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"forwarded"))

# A Connection field names its own hop's fields; it cannot name these away (a known way to strip identity at a proxy).
NOT_NAMED_AWAY = IDENTITY | {
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"authorization",
    b"proxy-authorization",
    b"cookie",
    b"set-cookie",
    b"content-type",
    b"content-encoding",
    b"cache-control",
    b"via",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
    b"mcp-session-id",
    b"expect",
    b"close",
}

# Never in trailers: framing, routing, authentication, identity (RFC 9110 §6.5.1).
NOT_IN_TRAILERS = (
    NOT_NAMED_AWAY
    | HOP_BY_HOP
    | {
        b"trailer",
        b"max-forwards",
        b"range",
        b"if-match",
        b"www-authenticate",
        b"proxy-authenticate",
        b"location",
        b"date",
        b"age",
        b"expires",
        b"pragma",
        b"vary",
        b"retry-after",
        b"warning",
        b"content-range",
    }
)


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated field value, white space off, empty ones left out (RFC 9110 §5.6.1)."""
    return [token for part in value.split(b",") if (token := part.strip(b" \t"))]


def named_away(connection: list[bytes]) -> set[bytes]:
    """The further fields which a Connection field (its tokens in lower case) ends at this hop."""
    return {token for token in connection if token not in NOT_NAMED_AWAY}


def cut(head: bytes, low: bytes, names: set[bytes]) -> tuple[bytes, bytes]:
    """The head without the fields of these names; `low` is the head in lower case, and comes back cut alike."""
    for name in names:
        needle = b"\n%b:" % name
        while (start := low.find(needle)) >= 0:
            end = low.index(b"\n", start + 1)
            head = head[:start] + head[end:]
            low = low[:start] + low[end:]
    return head, low


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
