"""Every operation of the admin plane, in one table: the router and the OpenAPI document are made from it."""

from __future__ import annotations

from typing import Final

from bgproxy.admin.asked import AUDIT_QUERY, FLIPS_QUERY, FORGET_NODE_QUERY, FORGET_QUERY, SESSIONS_QUERY, VERIFY_QUERY
from bgproxy.admin.audit import audit, verify_audit
from bgproxy.admin.call import Route
from bgproxy.admin.colors import color, colors, retire, stage
from bgproxy.admin.drain import drain, set_deadline
from bgproxy.admin.events import events
from bgproxy.admin.fleet import status
from bgproxy.admin.flips import flip_ledger, flips
from bgproxy.admin.nodes import forget_node, nodes
from bgproxy.admin.pointer import flip, pause, resume, rollback
from bgproxy.admin.probes import livez, metrics, openapi, readyz
from bgproxy.admin.run import abort_run, approve_run, begin_run, run
from bgproxy.admin.sessions import forget_session, move_session, session, session_stats, sessions

_CHANGE = (400, 404, 408, 409, 413, 415, 503)  # what a request that changes something may meet
_ONCE = (*_CHANGE, 422)  # and where it may be asked for under an idempotency key

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/v1/status", status, "viewer", "The fleet at one look.", "Status", errors=(503,)),
    Route("GET", "/v1/colors", colors, "viewer", "All colors and what they hold.", "Colors", errors=(503,)),
    Route("GET", "/v1/colors/{color}", color, "viewer", "One color.", "Color", errors=(404, 503)),
    Route(
        "PUT",
        "/v1/colors/{color}",
        stage,
        "operator",
        "Stage a release on a color that is not active.",
        "Staged",
        body="StageRequest",
        errors=_ONCE,
        once=True,
    ),
    Route(
        "GET",
        "/v1/colors/{color}/drain",
        drain,
        "viewer",
        "What still holds a color that traffic has left.",
        "Drain",
        errors=(404, 503),
    ),
    Route(
        "POST",
        "/v1/colors/{color}/drain",
        set_deadline,
        "operator",
        "Set, move or cancel the deadline that ends what still lives on a color.",
        "DrainChanged",
        body="DrainRequest",
        errors=_CHANGE,
    ),
    Route(
        "POST",
        "/v1/colors/{color}/retire",
        retire,
        "operator",
        "Take down the release on a drained color; what that frees goes on record.",
        "Retiring",
        body="RetireRequest",
        errors=_CHANGE,
    ),
    Route(
        "POST",
        "/v1/flip",
        flip,
        "operator",
        "Make a color the active one, in one step.",
        "Moved",
        body="FlipRequest",
        errors=_ONCE,
        once=True,
    ),
    Route(
        "POST",
        "/v1/rollback",
        rollback,
        "operator",
        "Make the previous color the active one again.",
        "Moved",
        body="RollbackRequest",
        errors=_ONCE,
        once=True,
    ),
    Route(
        "POST",
        "/v1/pause",
        pause,
        "operator",
        "Let every node hold new requests, for a bounded time; those of known sessions go on.",
        "Paused",
        body="PauseRequest",
        errors=_CHANGE,
    ),
    Route(
        "POST",
        "/v1/resume",
        resume,
        "operator",
        "Let new requests go on.",
        "Resumed",
        body="ResumeRequest",
        errors=_CHANGE,
    ),
    Route(
        "GET", "/v1/run", run, "viewer", "The release that is being brought out by a plan.", "Run", errors=(404, 503)
    ),
    Route(
        "POST",
        "/v1/run",
        begin_run,
        "operator",
        "Stage a release, try it by a plan, and make it the active one if it passes; or only validate what waits.",
        "RunChanged",
        body="RunRequest",
        errors=_ONCE,
        once=True,
    ),
    Route(
        "POST",
        "/v1/run/approve",
        approve_run,
        "operator",
        "Say yes to a gate that waits for it.",
        "RunChanged",
        body="ApproveRequest",
        errors=_CHANGE,
    ),
    Route(
        "POST",
        "/v1/run/abort",
        abort_run,
        "operator",
        "End the run with nothing flipped; once it has flipped, by a rollback.",
        "RunChanged",
        body="AbortRequest",
        errors=_CHANGE,
    ),
    Route(
        "GET",
        "/v1/sessions",
        sessions,
        "viewer",
        "Live sessions, a page at a time.",
        "Sessions",
        query=SESSIONS_QUERY,
        errors=(404, 503),
    ),
    Route(
        "GET",
        "/v1/sessions/stats",
        session_stats,
        "viewer",
        "How many sessions live on which release.",
        "SessionStats",
        errors=(503,),
    ),
    Route("GET", "/v1/sessions/{id}", session, "viewer", "One session.", "Session", errors=(404, 503)),
    Route(
        "DELETE",
        "/v1/sessions/{id}",
        forget_session,
        "operator",
        "Forget a session: its next request begins a new one.",
        "Forgotten",
        query=FORGET_QUERY,
        errors=(404, 409, 503),
    ),
    Route(
        "POST",
        "/v1/sessions/{id}/move",
        move_session,
        "operator",
        "Move a session to the release on a color, between two of its turns.",
        "SessionMoved",
        body="MoveRequest",
        errors=_CHANGE,
    ),
    Route(
        "GET",
        "/v1/flips",
        flips,
        "viewer",
        "What became of the sessions of each flip, newest first.",
        "Flips",
        query=FLIPS_QUERY,
        errors=(503,),
    ),
    Route("GET", "/v1/flips/{epoch}", flip_ledger, "viewer", "One flip's ledger.", "Flip", errors=(404, 503)),
    Route("GET", "/v1/audit", audit, "viewer", "Who changed what, and why.", "Audit", query=AUDIT_QUERY, errors=(503,)),
    Route(
        "GET",
        "/v1/audit/verify",
        verify_audit,
        "viewer",
        "Whether the audit is what was once written: its hash chain, walked as a whole.",
        "AuditReport",
        query=VERIFY_QUERY,
        errors=(503,),
    ),
    Route("GET", "/v1/events", events, "viewer", "Changes as they happen (SSE).", "text/event-stream", errors=(503,)),
    Route("GET", "/v1/nodes", nodes, "viewer", "The processes that serve this fleet.", "Nodes"),
    Route(
        "DELETE",
        "/v1/nodes/{node}",
        forget_node,
        "operator",
        "Forget a node that is gone for good: flips and drains wait for it no more.",
        "NodeForgotten",
        query=FORGET_NODE_QUERY,
        errors=(404, 409, 503),
    ),
    Route("GET", "/metrics", metrics, "viewer", "This host's counters (Prometheus).", "text/plain"),
    Route("GET", "/openapi.json", openapi, "viewer", "This document.", "OpenApi"),
    Route("GET", "/livez", livez, None, "Whether the process answers.", "Alive"),
    Route("GET", "/readyz", readyz, None, "Whether this worker should get traffic.", "Ready", errors=(503,)),
)
