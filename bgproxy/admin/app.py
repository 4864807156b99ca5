"""The admin plane as one aiohttp application: the table becomes a router, the guard stands before it."""

from __future__ import annotations

from aiohttp import web

from bgproxy.admin.call import DEPS, endpoint
from bgproxy.admin.events import WATCHERS, Watchers
from bgproxy.admin.guard import Guard, tell_problems
from bgproxy.admin.openapi import document
from bgproxy.admin.probes import OPENAPI
from bgproxy.admin.problems import COMMON_FIELDS
from bgproxy.admin.routes import ROUTES
from bgproxy.admin.seams import AdminDeps, Peers, Switch

__all__ = ["AdminDeps", "Peers", "Switch", "build"]


def build(deps: AdminDeps) -> web.Application:
    """The application, not started. Raises ConfigError for settings that must not be started."""
    deps.options.check()
    guard = Guard(deps.options, {(route.method, route.path): route for route in ROUTES})
    app = web.Application(
        middlewares=[tell_problems, guard.middleware()],
        client_max_size=deps.options.max_body_bytes,
    )
    watchers = Watchers(deps.mirror)
    app[DEPS] = deps
    app[WATCHERS] = watchers
    app[OPENAPI] = document(ROUTES, deps.version)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, endpoint(route))
        if route.method == "GET" and route.answer != "text/event-stream":
            app.router.add_route("HEAD", route.path, endpoint(route))
    app.on_response_prepare.append(_common_fields)
    app.on_shutdown.append(watchers.close)
    return app


async def _common_fields(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(COMMON_FIELDS)
