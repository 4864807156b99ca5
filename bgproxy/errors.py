"""The error tree: each failure that can be seen has a name, an HTTP status and someone at fault.

Foreign exceptions are mapped to these once, at the border where they appear (the store, a socket, a file).
A problem is told as `application/problem+json` (RFC 9457); its `type` is stable and made from `code`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Fault = Literal["client", "agent", "us"]

TYPE_PREFIX = "urn:bgproxy:problem:"


class BgproxyError(Exception):
    """Whatever bgproxy raises on purpose. Its text names what is wrong and the remedy."""


class ConfigError(BgproxyError):
    """A setting that cannot be used: the text names the key, the value's problem and the remedy."""


class Problem(BgproxyError):
    """A failure with an answer: `status` (HTTP), `code` (stable, for programs), `detail` (for people), `fault`."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    fault: ClassVar[Fault] = "us"

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


class BadInput(Problem):
    """What the caller sent cannot be understood."""

    status = 400
    code = "bad_input"
    title = "Bad input"
    fault = "client"


class Unauthorized(Problem):
    """No token, or one that is not known."""

    status = 401
    code = "unauthorized"
    title = "A token is needed"
    fault = "client"


class Forbidden(Problem):
    """A known caller whose role does not reach, or a request from where none may come."""

    status = 403
    code = "forbidden"
    title = "Not allowed"
    fault = "client"


class UnknownColor(Problem):
    """A color that this fleet does not have."""

    status = 404
    code = "unknown_color"
    title = "Unknown color"
    fault = "client"


class UnknownSession(Problem):
    """An id that leads to no live session."""

    status = 404
    code = "unknown_session"
    title = "Unknown session"
    fault = "client"


class UnknownFlip(Problem):
    """An epoch of which no ledger is kept."""

    status = 404
    code = "unknown_flip"
    title = "Unknown flip"
    fault = "client"


class UnknownNode(Problem):
    """An id under which no node is registered."""

    status = 404
    code = "unknown_node"
    title = "Unknown node"
    fault = "client"


class NoRun(Problem):
    """No release has been brought out by a plan."""

    status = 404
    code = "no_run"
    title = "No release was brought out by a plan"
    fault = "client"


class Refused(Problem):
    """A rule says no; the detail says which and what would help."""

    status = 409
    code = "refused"
    title = "Refused by a rule"
    fault = "client"


class StaleEpoch(Refused):
    """The caller's `if_epoch` is not the epoch that stands; the answer carries the one that does."""

    code = "stale_epoch"
    title = "The pointer has moved meanwhile"


class NotReady(Refused):
    """The target cannot take the traffic now; `force` overrides and is on record."""

    code = "not_ready"
    title = "The color cannot take the traffic"


class CannotJoin(Problem):
    """Nodes that serve this fleet speak another schema or protocol than this one: beside them it would do harm."""

    status = 503
    code = "cannot_join"
    title = "The fleet's nodes speak otherwise"


class FlipOpen(Refused):
    """Another flip is under way; the answer tells which."""

    code = "flip_open"
    title = "A flip is under way"


class FlipAbandoned(Refused):
    """A flip that was begun was given up, as not every node held new admissions in time; the answer names those."""

    code = "flip_abandoned"
    title = "The flip was given up"


class Split(Refused):
    """The store and this node hold different pointers of one epoch; both are told. A forced flip decides."""

    code = "split"
    title = "There are two pointers of one epoch"


class KeyReused(Problem):
    """An idempotency key that was used for another request before."""

    status = 422
    code = "key_reused"
    title = "The idempotency key was used for another request"
    fault = "client"


class StoreUnavailable(Problem):
    """The store did not answer in time, or the line to it broke. Nothing was half-done."""

    status = 503
    code = "store_unavailable"
    title = "The store is away"


class NotRedis(StoreUnavailable):
    """Something answers at the store's address, but it does not speak Redis."""

    code = "not_redis"
    title = "The store is no Redis"


class StoreAuth(StoreUnavailable):
    """The store refuses the user or password."""

    code = "store_auth"
    title = "The store refuses the credentials"


class SchemaTooNew(StoreUnavailable):
    """The store's data were written by a newer bgproxy."""

    code = "schema_too_new"
    title = "The store's data are newer than this bgproxy"


class StoreBroken(StoreUnavailable):
    """The store's data cannot be understood; they are left untouched."""

    code = "store_broken"
    title = "The store's data cannot be understood"


class StoreForeign(StoreUnavailable):
    """The store's data are another fleet's; they are left untouched."""

    code = "store_foreign"
    title = "The store's data are another fleet's"


def problem_json(error: Problem) -> dict[str, Any]:
    """The members of the problem document (RFC 9457 §3.1), extension members last."""
    return {
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        **error.extra,
    }
