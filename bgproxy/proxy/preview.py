"""Who reaches a color on purpose that the pointer does not lead to: by a listener of its own, a token, or a list.

The fields that ask for it are taken off every request (`http1/parser.py`), whether they are honoured or not. A session
that begins so has a pin like any other; a request of one that has a pin already goes where that leads.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from bgproxy.errors import NotReady, UnknownColor
from bgproxy.http1.fields import values
from bgproxy.http1.head import Malformed, RequestHead
from bgproxy.rules.canary import LISTED
from bgproxy.rules.plan import Match
from bgproxy.rules.preview import preview_color

if TYPE_CHECKING:
    from bgproxy.proxy.plane import DataPlane


def wished(plane: DataPlane, request: RequestHead, listener: bool) -> str:
    """The color that a request may begin on by its token, or as it has come in by the preview's listener.

    `LISTED`: a canary's list names it; empty: the color that the pointer leads to, or none is known yet.

    Raises Malformed, whose code names the answer, where it is not let in, or that color cannot be reached now.
    """
    options = plane.options.preview
    is_known = _is_known(options.tokens, request.preview_token)
    if request.preview_token and not is_known:
        plane.counted["preview_wrong_token"] += 1
    if not is_known:
        if not listener:
            return LISTED if any(_has(request, match) for match in plane.listed) else ""
        if options.needs_token:
            raise Malformed("preview_forbidden", "this address takes requests with a preview token only")
    if plane.state is None:
        return ""
    named = request.preview_color.decode("latin-1") if is_known else ""
    try:
        color = preview_color(plane.state, named or options.color)
    except (NotReady, UnknownColor) as error:
        raise Malformed("no_preview", error.detail) from None
    plane.counted["preview"] += 1
    return color


def _has(request: RequestHead, match: Match) -> bool:
    """Whether the request has one of the values in that field, or in that cookie (RFC 6265 §4.2.1)."""
    head = request.fields + b"\r\n"
    name = match.header or "cookie"
    found = values(head, head.lower(), name.lower().encode())
    if match.cookie:
        pairs = [pair.strip(b" \t").partition(b"=") for value in found for pair in value.split(b";")]
        found = [value.strip(b'"') for cookie, _, value in pairs if cookie == match.cookie.encode()]
    wanted = {value.encode() for value in match.values}
    return any(value in wanted for value in found)


def _is_known(tokens: tuple[bytes, ...], said: bytes) -> bool:
    """Whether it is one of the tokens. Looks at all of them, by digests, so that its time tells nothing."""
    if not said or not tokens:
        return False
    digest, found = hashlib.sha256(said).digest(), False
    for token in tokens:
        found = hmac.compare_digest(token, digest) or found
    return found
