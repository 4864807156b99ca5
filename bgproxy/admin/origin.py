"""Where a request comes from, as far as a browser tells: keeps other sites' pages off the admin plane.

A page can make its visitor's browser call 127.0.0.1, directly or by pointing its own name there (DNS rebinding). The
first is seen by `Origin` and `Sec-Fetch-Site`, the second by `Host`, which then is the page's name and none of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bgproxy.admin.problems import ForeignRequest

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?")  # RFC 9112 §3.2


class HostList:
    """The names that a caller may know us by, without ports: a forwarded port is still ours."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = LOOPBACK | {name.lower().rstrip(".") for name in names}

    def check(self, fields: Sequence[str], dialled: str) -> None:
        """Raise ForeignRequest unless there is one Host, and it is on the list or the address that was dialled.

        The latter is what a listener on all addresses is known by. A rebound name never looks like an address.
        """
        match = _HOST.fullmatch(fields[0].lower()) if len(fields) == 1 else None
        name = (match["six"] or match["name"]).rstrip(".") if match else ""
        if name not in self._names and (not name or name != dialled):
            raise ForeignRequest(
                "the Host header is none of this proxy's names; add the name to admin.allowed_hosts if it is yours"
            )


def check_site(host: str, origins: Sequence[str], sites: Sequence[str]) -> None:
    """Raise ForeignRequest where a browser says that another site's page sent this (RFC 6454 §7)."""
    if any(site.lower() not in ("same-origin", "none") for site in sites):  # "none": typed in by the user
        raise ForeignRequest("a page of another site may not call this (Sec-Fetch-Site)")
    for origin in origins:
        scheme, _, authority = origin.lower().partition("://")
        if scheme not in ("http", "https") or not authority or authority != host.lower():
            raise ForeignRequest("a page of another site may not call this (Origin)")
