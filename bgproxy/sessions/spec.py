"""What an operator writes, turned into presets: the name of a protocol, or one place where an id stands.

Whatever cannot be understood is refused at the start, with its name and the nearest right one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Final

from bgproxy.errors import ConfigError
from bgproxy.sessions.preset import (
    BROWSER,
    CREDENTIALS,
    NAMED,
    Field,
    Group,
    Member,
    Path,
    Preset,
    Query,
    cookie_pattern,
)
from bgproxy.sessions.presets import PROTOCOLS

OWN_COOKIE: Final = b"bgproxy_session"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_PARAMETER = re.compile(r"[A-Za-z0-9_.~\-\[\]]{1,128}")
_TEMPLATE = re.compile(r"(?:/(?:\{[A-Za-z_][A-Za-z0-9_]*\}|[A-Za-z0-9_.~!$&'()+,;=:@%\-]+))+")
_POINTER = re.compile(r"(?:/(?:[^/~]|~[01])+)+")
_REST = ("/…", "/...", "/*")


def preset_named(text: str) -> Preset:
    """A preset by what is written in `sessions`: a protocol's name, or `header:NAME`, `cookie:NAME` and the like.

    Raises `ConfigError` for everything else; its text has the nearest right one.
    """
    known = PROTOCOLS.get(text) or _OWN.get(text)
    if known is not None:
        return known
    kind, colon, value = text.partition(":")
    make = _PLACES.get(kind)
    if make is not None and colon:
        return make(text, value)
    names = [*PROTOCOLS, *_OWN, *(f"{kind}:" for kind in _PLACES)]
    if kind in _PLACES:
        raise ConfigError(f"sessions: {text!r} says {kind} of what? Write {_EXAMPLES[kind]}")
    close = get_close_matches(kind + colon if colon else text, names, 1, 0.5)
    hint = f"did you mean {_EXAMPLES.get(close[0].rstrip(':'), close[0])}? " if close else ""
    places = ", ".join(_EXAMPLES.values())
    raise ConfigError(
        f"sessions: {text!r} is no preset; {hint}There are {', '.join((*PROTOCOLS, *_OWN))}, and places: {places}"
    )


def _header(text: str, value: str) -> Preset:
    if _TOKEN.fullmatch(value) is None:
        raise _wrong(text, "is not the name of a header field")
    field = Field(value.lower().encode(), f"header:{value.lower()}", NAMED)
    return Preset(text, protocol=False, fields=(field,), learn_fields=(field,))


def _cookie(text: str, value: str) -> Preset:
    if _TOKEN.fullmatch(value) is None:
        raise _wrong(text, "is not the name of a cookie")
    pattern = cookie_pattern(value.encode())
    sent = Field(b"cookie", f"cookie:{value}", BROWSER, form="cookie", cookie=pattern)
    set_by_agent = Field(b"set-cookie", f"cookie:{value}", BROWSER, form="cookie", cookie=pattern)
    return Preset(text, protocol=False, fields=(sent,), learn_fields=(set_by_agent,))


def _query(text: str, value: str) -> Preset:
    if _PARAMETER.fullmatch(value) is None:
        raise _wrong(text, "is not the name of a query parameter")
    return Preset(text, protocol=False, queries=(Query(value.encode(), f"query:{value}", NAMED),))


def _path(text: str, value: str) -> Preset:
    pattern, hint = path_pattern(text, value)
    return Preset(text, protocol=False, hints=(hint,), paths=(Path(pattern, text, NAMED),))


def path_pattern(text: str, template: str) -> tuple[re.Pattern[bytes], bytes]:
    """The pattern of a template like `/agents/{id}/…`, and what is in every path that it matches.

    A template stands for whole segments from the path's beginning on; `{name}` is one segment. What follows is free.
    """
    for rest in _REST:
        template = template.removesuffix(rest)
    if _TEMPLATE.fullmatch(template) is None:
        raise _wrong(text, "is not a path of whole segments")
    if "{" not in template:
        raise _wrong(text, "has no {id} in it")
    segments = ["([^/]+)" if s.startswith("{") else re.escape(s) for s in template[1:].split("/")]
    hint = template[: template.index("{")]
    return re.compile(rf"\A/{'/'.join(segments)}(?=/|\Z)".encode()), hint.encode()


def _json(text: str, value: str) -> Preset:
    member = Member(pointer(text, value), text, NAMED)
    return Preset(text, protocol=False, groups=(Group((member,)),))


def pointer(text: str, value: str) -> tuple[str, ...]:
    """The member names of a JSON pointer (RFC 6901)."""
    if _POINTER.fullmatch(value) is None or value.count("/") > 32:
        raise _wrong(text, "is not a JSON pointer to a member (RFC 6901)")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in value[1:].split("/"))


def _wrong(text: str, problem: str) -> ConfigError:
    kind = text.partition(":")[0]
    return ConfigError(f"sessions: {text!r} {problem}; write it like {_EXAMPLES[kind]}")


_PLACES: Final[dict[str, Callable[[str, str], Preset]]] = {
    "header": _header,
    "cookie": _cookie,
    "query": _query,
    "path": _path,
    "json": _json,
}
_EXAMPLES: Final = {
    "header": "header:X-Session-Id",
    "cookie": "cookie:NAME",
    "query": "query:session",
    "path": "path:/agents/{id}/…",
    "json": "json:/session/id",
}
_OWN: Final = {
    "cookie": Preset(
        "cookie",
        protocol=False,
        own_cookie=OWN_COOKIE,
        fields=(Field(b"cookie", "cookie", BROWSER, form="cookie", cookie=cookie_pattern(OWN_COOKIE)),),
    ),
    "credentials": Preset(
        "credentials",
        protocol=False,
        fields=(Field(b"authorization", "credentials", CREDENTIALS, form="credentials"),),
    ),
}
