"""What every request passes, in this order: Host, Origin, token, role. And every failure's way out, as a problem.

`/livez` and `/readyz` need no token and no known Host: a load balancer's probe has neither, and they tell little.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from bgproxy.admin.auth import Failures, Keyring, demand, identify, peer_name
from bgproxy.admin.call import ACTOR, Route
from bgproxy.admin.options import AdminOptions, split_address
from bgproxy.admin.origin import HostList, check_site
from bgproxy.admin.problems import UNFORESEEN, BadRequest, NotFound, Unexpected, WrongMethod, respond
from bgproxy.errors import Problem, Unauthorized

log = logging.getLogger(__name__)

ON_UNIX = "unix"  # actors where there are no tokens
ON_LOOPBACK = "admin@loopback"


@web.middleware
async def tell_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever is raised into problem+json; what nobody foresaw becomes a 500 that says nothing."""
    try:
        return await handler(request)
    except Problem as error:
        return respond(error)
    except web.HTTPMethodNotAllowed as error:
        allowed = sorted(error.allowed_methods)
        return respond(WrongMethod(f"{request.path} takes {', '.join(allowed)}, not {request.method}", allowed=allowed))
    except web.HTTPNotFound:
        return respond(NotFound(f"there is no {request.path[:200]}; /openapi.json lists what there is"))
    except web.HTTPException as error:
        return respond(BadRequest(f"the request cannot be taken: {error.reason}"))
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return respond(Unexpected(UNFORESEEN))


class Guard:
    """Lets a request through, with its actor noted on it, or raises the reason why not."""

    def __init__(self, options: AdminOptions, routes: Mapping[tuple[str, str], Route]) -> None:
        self._routes = routes
        self._keyring = Keyring(options.tokens)
        self._failures = Failures(options.failure_rate)
        listen = split_address(options.listen)
        self._hosts = HostList((*options.allowed_hosts, *(listen[:1] if listen else ())))

    def check(self, request: web.Request) -> None:
        """Raises ForeignRequest, Unauthorized, TooManyFailures or Forbidden."""
        route = self._route(request)
        unix, peer, dialled = _ends(request)
        if route is None or route.role is not None:
            if not unix:
                self._hosts.check(request.headers.getall("Host", []), dialled)
            request[ACTOR] = self._actor(request, route, unix, peer)
        check_site(
            request.headers.get("Host", ""),
            request.headers.getall("Origin", []),
            request.headers.getall("Sec-Fetch-Site", []),
        )

    def _actor(self, request: web.Request, route: Route | None, unix: bool, peer: str) -> str:
        if not self._keyring:
            return ON_UNIX if unix else ON_LOOPBACK
        fields = request.headers.getall("Authorization", [])
        try:
            name, role = identify(self._keyring, self._failures, fields, peer, time.monotonic())
        except Unauthorized:
            if fields:
                log.warning("admin: a token that is not known, from %s", peer)
            raise
        demand(route.role if route and route.role else "viewer", name, role, f"{request.method} {request.path}")
        return name

    def _route(self, request: web.Request) -> Route | None:
        """The table's entry; None for what is not in it, which a caller without a token shall not find out."""
        resource = request.match_info.route.resource
        method = "GET" if request.method == "HEAD" else request.method
        return self._routes.get((method, resource.canonical)) if resource else None

    def middleware(self) -> Middleware:
        """As aiohttp wants it."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.check(request)
            return await handler(request)

        return guarded


def _ends(request: web.Request) -> tuple[bool, str, str]:
    """Whether the caller came by a Unix socket, what it is counted by, and the address that it dialled."""
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport else None
    if not isinstance(peer, tuple):
        return True, peer_name(None), ""
    here = transport.get_extra_info("sockname") if transport else None
    dialled = _plain(here[0]) if isinstance(here, tuple) else ""
    return False, peer_name(peer[0]), dialled


def _plain(address: str) -> str:
    """An address as a Host header has it: without a zone, IPv4 without its IPv6 clothes."""
    return address.partition("%")[0].removeprefix("::ffff:").lower()
