"""`/livez`, `/readyz`, `/metrics` and `/openapi.json`: what machines ask."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from bgproxy.admin.call import Call
from bgproxy.admin.problems import NotServing
from bgproxy.admin.view import look
from bgproxy.telemetry.exposition import Facts, expose

OPENAPI = web.AppKey("openapi", dict[str, Any])


async def livez(_call: Call) -> dict[str, Any]:
    """Answering at all is the answer."""
    return {"alive": True}


async def readyz(call: Call) -> dict[str, Any]:
    """Whether this worker should get traffic. It should while the store is away and a pointer is known, unless that may
    be too old to admit by (`fenced`)."""
    ready, facts = call.deps.ready()
    if not ready:
        raise NotServing("this worker should get no traffic now", ready=False, **facts)
    return {"ready": True, **facts}


async def metrics(call: Call) -> web.Response:
    """The counters of all workers of this host, for Prometheus."""
    view = await look(call.deps)
    facts = Facts(
        state=call.deps.mirror.state,
        store_up=view.store["state"] == "up",
        store_alarm=view.store["alarm"] is not None,
        pointer_age=view.store["age"],
        fenced=view.store["fenced"],
        silent=len(view.silent),
        workers=view.workers,
        version=call.deps.version,
        sessions={key: count.live for key, count in (view.sessions or {}).items()},
        flip=view.flip.document() if view.flip is not None else {},
        now=view.now,
    )
    # In a thread: with many routes this takes long enough to be felt by the requests that share the loop.
    accept = call.request.headers.get("Accept", "")
    body, content_type = await asyncio.to_thread(expose, view.metrics, facts, accept)
    return web.Response(body=body, headers={"Content-Type": content_type})


async def openapi(call: Call) -> dict[str, Any]:
    """What this API is, for tools."""
    return call.request.app[OPENAPI]
