"""What an operator writes, turned into presets: the name of a protocol, or one place where an id stands.

Whatever cannot be understood is refused at the start, with its name and the nearest right one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from bgproxy.errors import ConfigError
from bgproxy.sessions.preset import (
    BROWSER,
    CREDENTIALS,
    NAMED,
    Ending,
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
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}")  # a kind of id, too: built-in ones may have dots and colons
_KEYS = frozenset(("name", "request", "answer", "sticky_host", "ended_by", "ending"))
_ENDINGS: Final[dict[str, Ending]] = {"problem": "problem", "not_found": "not_found", "jsonrpc": "jsonrpc"}
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
    hint = f"did you mean {_EXAMPLES.get(close[0].rstrip(':'), close[0])}? There" if close else "there"
    places = ", ".join(_EXAMPLES[kind] for kind in _PLACES)
    raise ConfigError(
        f"sessions: {text!r} is no preset; {hint} are {', '.join((*PROTOCOLS, *_OWN))}, and places: {places}"
    )


def preset_from(document: Mapping[str, object]) -> Preset:
    """A preset of an operator's own, from a table like

    `{name = "acme", request = ["path:/agents/{id}/…", "json:/session/id"], answer = ["header:X-Acme", "json:/id"]}`

    `request` and `answer` list places; all of them hold one kind of id. In an answer these are `header:`, `cookie:`,
    `location:` (a path like `path:`, in Location or Content-Location), `json:` (in a body or the data of an event) and
    `event-id`. `sticky_host = false` says that the agents keep no sessions in memory. `ended_by` is the status of an
    answer that says of a request with an id that its session is over. `ending` is how the proxy answers where an
    operator's deadline has ended the session: "problem" (410), "not_found" (404) or "jsonrpc" (an error object).

    Raises `ConfigError`, which names the bad part.
    """
    name = document.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigError(f"session: name {name!r} is none; give 1 to 64 letters, digits, `-` or `_`")
    if name in PROTOCOLS or name in _OWN or name in _PLACES:
        raise ConfigError(f"session {name!r}: the name is taken by a preset that is built in; choose another")
    unknown = sorted(set(document) - _KEYS)
    if unknown:
        close = get_close_matches(unknown[0], _KEYS, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(_KEYS))}"
        raise ConfigError(f"session {name!r}: {unknown[0]!r} is no key of it; {hint}")
    sticky_host = document.get("sticky_host", True)
    if not isinstance(sticky_host, bool):
        raise ConfigError(f"session {name!r}: sticky_host {sticky_host!r} is neither true nor false")
    gone = document.get("ended_by", 0)
    if not isinstance(gone, int) or isinstance(gone, bool) or (gone and not 400 <= gone < 500):
        raise ConfigError(f"session {name!r}: ended_by {gone!r} is no status from 400 to 499")
    said = document.get("ending", "problem")
    ending = _ENDINGS.get(said) if isinstance(said, str) else None
    if ending is None:
        raise ConfigError(f"session {name!r}: ending {said!r} is none; write {', '.join(_ENDINGS)}")
    asked = [_renamed(name, preset_named(text)) for text in _texts(name, document, "request", _PLACES)]
    told = [_renamed(name, _answer_place(text)) for text in _texts(name, document, "answer", _ANSWER_PLACES)]
    if not asked:
        raise ConfigError(f"session {name!r}: request is empty; name at least one place where the id stands")
    return Preset(
        name,
        protocol=False,
        sticky_host=sticky_host,
        gone=gone,
        ending=ending,
        fields=tuple(field for preset in asked for field in preset.fields),
        queries=tuple(query for preset in asked for query in preset.queries),
        paths=tuple(path for preset in asked for path in preset.paths),
        groups=tuple(group for preset in asked for group in preset.groups),
        learn_fields=tuple(field for preset in told for field in preset.learn_fields),
        learn_locations=tuple(path for preset in told for path in preset.learn_locations),
        learn_groups=tuple(group for preset in told for group in preset.learn_groups),
        learn_event_ids=tuple((name, rank) for preset in told for _, rank in preset.learn_event_ids),
    )


def _texts(name: str, document: Mapping[str, object], key: str, kinds: Collection[str]) -> list[str]:
    """The places that a list of them names."""
    listed = document.get(key, [])
    if not isinstance(listed, list | tuple):
        raise ConfigError(f'session {name!r}: {key} is no list; write {key} = ["header:X-Session-Id"]')
    for text in listed:
        kind = text.partition(":")[0] if isinstance(text, str) else ""
        if kind not in kinds:
            raise ConfigError(f"session {name!r}: {key} has {text!r}; it may have {', '.join(sorted(kinds))}")
        if text in _OWN:
            raise ConfigError(
                f"session {name!r}: {key} has {text!r}, which is a preset by itself: list it beside {name!r} where the "
                f"presets are, or write {_EXAMPLES[kind]}"
            )
    return [text for text in listed if isinstance(text, str)]


def _answer_place(text: str) -> Preset:
    """The preset that learns an id from one place of an answer."""
    kind, _, value = text.partition(":")
    if kind == "event-id":
        return Preset(text, learn_event_ids=(("", NAMED),))
    if kind == "location":
        pattern, _ = path_pattern(text, value)
        return Preset(text, learn_locations=(Path(pattern, b"", text, NAMED),))
    made = preset_named(text)
    return replace(made, learn_groups=made.groups)


def _renamed(name: str, preset: Preset) -> Preset:
    """The same places, for ids of the kind `name`."""
    return replace(
        preset,
        fields=tuple(replace(field, space=name) for field in preset.fields),
        queries=tuple(replace(query, space=name) for query in preset.queries),
        paths=tuple(replace(path, space=name) for path in preset.paths),
        groups=tuple(_group_of(name, group) for group in preset.groups),
        learn_fields=tuple(replace(field, space=name) for field in preset.learn_fields),
        learn_locations=tuple(replace(path, space=name) for path in preset.learn_locations),
        learn_groups=tuple(_group_of(name, group) for group in preset.learn_groups),
    )


def _group_of(name: str, group: Group) -> Group:
    return replace(group, members=tuple(replace(member, space=name) for member in group.members))


def _header(text: str, value: str) -> Preset:
    if _TOKEN.fullmatch(value) is None:
        raise _wrong(text, "is not the name of a header field")
    if value.lower() == "authorization":
        raise ConfigError(
            f"sessions: {text!r} would take a secret for an id; write credentials, the preset that goes by its hash"
        )
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
    return Preset(text, protocol=False, paths=(Path(pattern, hint, text, NAMED),))


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
_ANSWER_PLACES: Final = frozenset(("header", "cookie", "location", "json", "event-id"))
_EXAMPLES: Final = {
    "location": "location:/agents/{id}/…",
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
