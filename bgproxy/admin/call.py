"""One entry of the routes table, and what a handler is given: everything checked already.

A handler takes a `Call` and returns what is to be JSON, or a response of its own. It raises `Problem`s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from bgproxy.admin.asked import NOTHING, REQUESTS
from bgproxy.admin.options import Role
from bgproxy.admin.problems import BodyTooLarge, BodyTooSlow, NotJson
from bgproxy.admin.schema import Schema, check, query_values
from bgproxy.admin.seams import AdminDeps
from bgproxy.errors import BadInput

BODY_TIMEOUT = 10.0  # s for a whole body: it is small, and its sender waits for the answer

DEPS = web.AppKey("deps", AdminDeps)
ACTOR = web.RequestKey("actor", str)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    deps: AdminDeps
    request: web.Request
    color: str  # of the path; empty where it has none
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    actor: str  # what goes on the audit record


Handler = Callable[[Call], Awaitable[Mapping[str, Any] | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `errors`: statuses beside those that every operation may answer."""

    method: str
    path: str
    handler: Handler
    role: Role | None  # None: open to all
    summary: str
    answer: str  # the name of a schema in shapes.ANSWERS, or a content type for what is no JSON
    body: str = ""  # the name of a schema in shapes.REQUESTS
    query: Schema = field(default_factory=lambda: NOTHING)
    errors: tuple[int, ...] = ()
    once: bool = False  # whether it heeds an Idempotency-Key


def endpoint(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route's handler as aiohttp wants it: reads and checks what came in, writes what goes out."""

    async def answer(request: web.Request) -> web.StreamResponse:
        deps = request.app[DEPS]
        query = _query(request, route.query)
        body = await _body(request, REQUESTS[route.body], deps.options.max_body_bytes) if route.body else {}
        color = request.match_info.get("color", "")
        result = await route.handler(Call(deps, request, color, query, body, request.get(ACTOR, "")))
        if isinstance(result, web.StreamResponse):
            return result
        return web.Response(body=orjson.dumps(result, default=dict), content_type="application/json")

    return answer


def _query(request: web.Request, schema: Schema) -> dict[str, Any]:
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise BadInput(f"the query has {name[:64]!r} more than once")
    return query_values(request.query, schema)


async def _body(request: web.Request, schema: Schema, limit: int) -> dict[str, Any]:
    """The body as JSON, checked; an empty one counts as `{}`."""
    if request.content_length is not None and request.content_length > limit:
        raise BodyTooLarge(f"the body has {request.content_length} bytes, at most {limit} are taken")
    # Of what a page of another site can send without being asked first (a form), nothing has this type.
    if request.body_exists and (
        request.content_type != "application/json"
        or (request.charset or "utf-8").lower() != "utf-8"
        or "Content-Encoding" in request.headers
    ):
        raise NotJson("send the body as plain UTF-8 JSON with `Content-Type: application/json`")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            data = await request.read()
    except TimeoutError:
        raise BodyTooSlow(f"the body was not complete after {BODY_TIMEOUT:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(f"the body is larger than the {limit} bytes that are taken") from None
    try:
        value = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is no JSON: {error}") from None
    check(value, schema)
    return dict(value)
