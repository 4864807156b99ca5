"""What a preset is made of: where one protocol puts its ids, as data.

A preset is a table of places. In a request: fields, query parameters, pieces of the path, members of a JSON body. In
an answer: fields, the path in a Location, members of a JSON body or of an event, an event's own id. The code that
reads messages knows these places and no protocol; a new protocol is a new table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

# Ranks: how specific a key is. What an operator names, and what a protocol calls a session, goes before everything:
# a request that carries such a key has no other id to learn.
NAMED: Final = 1
SESSION: Final = 5
TASK: Final = 10
CONTEXT: Final = 20
CHAIN: Final = 30
LOOSE: Final = 60
BROWSER: Final = 70
CREDENTIALS: Final = 90

Form = Literal["whole", "cookie", "encoded", "credentials"]

Ending = Literal["problem", "not_found", "jsonrpc"]
"""How a request is answered whose session an operator has ended. problem: 410. not_found: 404, as that protocol's
servers answer for a session that they do not know. jsonrpc: an error object, where the request is JSON-RPC."""


def cookie_pattern(name: bytes) -> re.Pattern[bytes]:
    """What finds a cookie's value among `name=value` pairs, quotes off (RFC 6265 §4.2.1)."""
    return re.compile(rb'(?:\A|;)[ \t]*+%b[ \t]*+=[ \t]*+"?+([^;" \t]*+)' % re.escape(name))


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a head that carries an id. As a learner: one of the answer's head, with Set-Cookie for a cookie."""

    name: bytes  # in lower case
    space: str
    rank: int
    form: Form = "whole"  # encoded: the value may be `=?base64?…?=`
    cookie: re.Pattern[bytes] | None = None  # where the form is cookie: finds its value (`cookie_pattern`)
    needs: tuple[tuple[bytes, re.Pattern[bytes]], ...] = ()  # other fields that must be there, and match as a whole


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter that carries an id."""

    name: bytes
    space: str
    rank: int
    path: re.Pattern[bytes] | None = None  # found somewhere in the path, or the parameter does not count


@dataclass(frozen=True, slots=True)
class Path:
    """A pattern of paths. Its groups, if it has any, are the id (several are one id of several parts).

    `place` names what is found there, for those rules that hold in such a place only.
    """

    pattern: re.Pattern[bytes]
    hint: bytes = b""  # what is in every path that matches, from a `/` on: it is looked for first
    space: str = ""
    rank: int = 0
    place: str = ""
    ends: bool = False  # DELETE of this path ends the session


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a JSON document, by its path, whose text (or whole number) is an id."""

    at: tuple[str, ...]
    space: str
    rank: int
    opaque: bool = False  # longer than an id may be: its hash is the key


@dataclass(frozen=True, slots=True)
class Group:
    """Members that are read together: when all are there, a document has said what it has to say."""

    members: tuple[Member, ...]
    joined: bool = False  # one id of several parts
    guard: tuple[str, ...] = ()  # the path of a member that must be one of `among`
    among: frozenset[bytes] = frozenset()
    place: str = ""  # holds only where a Path of this place was found


@dataclass(frozen=True, slots=True)
class EventLink:
    """An event whose data is an address, one query parameter of which is the id. The session is the stream."""

    event: bytes
    parameters: tuple[bytes, ...]
    space: str
    rank: int


@dataclass(frozen=True, slots=True)
class Preset:
    """One protocol, or one place that an operator named."""

    name: str
    # A message speaks one protocol: once one has spoken, the others are not asked. What an operator names always is.
    protocol: bool = True
    sticky_host: bool = True  # its agents hold their sessions in memory
    connection: bool = False  # a WebSocket is a session
    gone: int = 0  # the status that says of a request with a key: this session is over
    delete_ends: bool = False  # a DELETE with a key in a field ends the session
    get_listens: bool = False  # a GET with a key opens an ear for what the agent may say some day: that is no turn
    own_cookie: bytes = b""  # the name of a cookie that the proxy itself is to set where the client has none
    ending: Ending = "problem"
    # JSON-RPC's error codes for an id that is not known, by space: for these it is jsonrpc, whatever `ending` says.
    unknown: tuple[tuple[str, int], ...] = ()
    fields: tuple[Field, ...] = ()
    queries: tuple[Query, ...] = ()
    paths: tuple[Path, ...] = ()
    groups: tuple[Group, ...] = ()
    learn_fields: tuple[Field, ...] = ()
    learn_locations: tuple[Path, ...] = ()  # in Location and Content-Location
    learn_groups: tuple[Group, ...] = ()
    learn_links: tuple[EventLink, ...] = ()
    learn_event_ids: tuple[tuple[str, int], ...] = ()  # space and rank
