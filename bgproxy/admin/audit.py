"""`/v1/audit`: who changed what, and why; page by page, and whether the whole of it is what was once written."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bgproxy.admin.call import Call
from bgproxy.errors import BadInput
from bgproxy.store.document import entry_document
from bgproxy.store.trail import verify


async def audit(call: Call) -> dict[str, Any]:
    """A page of the record, newest first, with `after` oldest first; `next` is the same word for the page behind it."""
    limit, before, after = call.query["limit"], call.query.get("before"), call.query.get("after")
    if before is not None and after is not None:
        raise BadInput("before and after: give one of them; before goes back in time, after goes on from an entry")
    if after is None:
        entries = [entry_document(entry) for entry in await call.deps.ledger.audit(limit=limit, before=before)]
    else:
        entries = await call.deps.store.trail(limit=limit, after=after)
    return {"entries": entries, "next": entries[-1]["id"] if len(entries) == limit else None}


async def verify_audit(call: Call) -> dict[str, Any]:
    """Walk the whole chain."""
    report = asdict(await verify(call.deps.store, call.query.get("head", "")))
    return {"intact": report["fault"] is None, **report}
