"""`Idempotency-Key`: a change that is asked for again is answered with what came of it first, and not made again.

After draft-ietf-httpapi-idempotency-key-header. A key is the whole fleet's, whoever sends it. What was refused changed
nothing and is not remembered: a retry is judged anew. Everything else is the store's to promise (`store/once.py`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from bgproxy.admin.call import Call
from bgproxy.errors import BadInput, StoreUnavailable
from bgproxy.store.ledger import Outcome
from bgproxy.store.once import BODY_BYTES, Done, Once

log = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

# RFC 8941 §3.3.3 writes a text in quotes; many clients send it bare. What would have to be escaped is not taken.
_KEY = re.compile(r'"([ !#-\[\]-~]{1,255})"|([A-Za-z0-9._:/+=@~-]{1,255})')


async def answered(
    call: Call, ask: Callable[[Once | None], Awaitable[Outcome]], tell: Callable[[Done], Awaitable[dict[str, Any]]]
) -> Mapping[str, Any] | web.StreamResponse:
    """`ask` for the change, unless its key is known, and `tell` what came of it, in the words of the first time."""
    once = _once(call)
    if once is None:
        outcome = await ask(None)
        return {**await tell(Done.of("", outcome.state, changed=outcome.changed)), **_replicas(outcome)}
    found = await call.deps.switch.recall(once)
    outcome = found if found is not None else await ask(once)
    done = outcome.replay or Done.of(once.request, outcome.state, changed=outcome.changed)
    body = done.body
    if not body:
        told = {**await tell(done), **_replicas(outcome)}
        body = await _kept(call, once, done, orjson.dumps(told, default=dict).decode())
    fields = {REPLAYED: "true"} if outcome.replay is not None else {}
    return web.Response(text=body, content_type="application/json", headers=fields)


async def _kept(call: Call, once: Once, done: Done, body: str) -> str:
    """The answer that stands under the key from now on: a twin of this request may have been faster."""
    if len(body) > BODY_BYTES:
        return body
    try:
        kept = await call.deps.store.keep(once.key, replace(done, body=body))
    except StoreUnavailable as error:  # what was done is on record; only its answer may be told in other words later
        log.warning("the answer under an idempotency key is not kept: %s", error)
        return body
    return kept.body or body


def _replicas(outcome: Outcome) -> dict[str, Any]:
    """How many replicas of the store have it, where they were waited for."""
    replicas = outcome.entry.replicas if outcome.entry is not None else None
    return {} if replicas is None else {"replicas": replicas._asdict()}


def _once(call: Call) -> Once | None:
    fields = call.request.headers.getall(HEADER, [])
    if not fields:
        return None
    key = _KEY.fullmatch(fields[0].strip())
    if key is None or len(fields) > 1:
        raise BadInput(
            f'{HEADER} cannot be used: send one, 1 to 255 visible ASCII characters in quotes, such as "4f1b6c9e", '
            "without a quote or backslash among them"
        )
    asked = [call.request.method, call.request.path, call.body]
    return Once(key[1] or key[2], hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest())
