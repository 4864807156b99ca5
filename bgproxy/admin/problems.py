"""The failures that only the admin plane knows, and how any failure is told to its caller (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import orjson
from aiohttp import web

from bgproxy.errors import BadInput, Problem, Unauthorized, problem_json

STORE_RETRY_AFTER = 1  # s; the mirror finds a store that is back within its longest back-off, 2 s


class NotFound(Problem):
    """A path that the admin plane does not have."""

    status = 404
    code = "not_found"
    title = "Not found"
    fault = "client"


class WrongMethod(Problem):
    """A path that exists, asked with a method that it does not have; `allowed` names those that it has."""

    status = 405
    code = "wrong_method"
    title = "This path does not take this method"
    fault = "client"


class ForeignRequest(Problem):
    """A request that a browser was led to send: a Host that is not ours, or an Origin that is another site."""

    status = 403
    code = "foreign_request"
    title = "Requests from there are not taken"
    fault = "client"


class TooManyFailures(Problem):
    """A peer that sent too many wrong tokens; `retry_after` in seconds."""

    status = 429
    code = "too_many_failures"
    title = "Too many wrong tokens"
    fault = "client"


class BodyTooLarge(Problem):
    """A request body above `max_body_bytes`."""

    status = 413
    code = "body_too_large"
    title = "The body is too large"
    fault = "client"


class BodyTooSlow(Problem):
    """A request body that did not arrive in time."""

    status = 408
    code = "body_too_slow"
    title = "The body did not arrive in time"
    fault = "client"


class NotJson(Problem):
    """A request body that does not say it is JSON, or is compressed."""

    status = 415
    code = "not_json"
    title = "Only JSON is taken"
    fault = "client"


class BadRequest(BadInput):
    """What the HTTP library refused, under its own status."""

    code = "bad_request"
    title = "Bad request"


class NotServing(Problem):
    """This worker should get no traffic now; the facts beside say why."""

    status = 503
    code = "not_serving"
    title = "Not ready"


class TooManyWatchers(Problem):
    """As many event streams are open as one worker keeps."""

    status = 503
    code = "too_many_watchers"
    title = "Too many event streams"


UNFORESEEN: Final = "something went wrong inside the proxy; its log says what"


class Unexpected(Problem):
    """A fault of ours. The answer says nothing of it, the log everything."""

    code = "internal"
    title = "Internal error"


COMMON_FIELDS: Final[Mapping[str, str]] = {
    "Server": "bgproxy",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
"""On every answer of the admin plane."""


def respond(error: Problem) -> web.Response:
    """The failure as `application/problem+json`, with the fields that its status asks for."""
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="bgproxy"'  # RFC 9110 §11.6.1: a 401 must name a challenge
    if isinstance(error, WrongMethod):
        headers["Allow"] = ", ".join(error.extra["allowed"])  # RFC 9110 §15.5.6
    if error.status in (429, 503):
        headers["Retry-After"] = str(math.ceil(error.extra.get("retry_after", STORE_RETRY_AFTER)))
    return web.Response(
        status=error.status,
        body=orjson.dumps(problem_json(error), default=str),
        content_type="application/problem+json",
        headers=headers,
    )
