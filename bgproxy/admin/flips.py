"""`/v1/flips`: the ledger of each flip: what became of the sessions that it left, and how many exchanges were cut."""

from __future__ import annotations

import re
from typing import Any

from bgproxy.admin.call import Call
from bgproxy.errors import BadInput, UnknownFlip
from bgproxy.store.flips import KEPT_FLIPS

_EPOCH = re.compile(r"[0-9]{1,15}")


async def flips(call: Call) -> dict[str, Any]:
    """The newest ledgers, newest first."""
    newest = call.deps.state().pointer.epoch
    found = await call.deps.store.flips(range(newest, max(0, newest - call.query["limit"]), -1))
    return {"flips": [record.document() for record in found]}


async def flip_ledger(call: Call) -> dict[str, Any]:
    """One flip's ledger."""
    text = call.request.match_info["epoch"]
    if not _EPOCH.fullmatch(text):
        raise BadInput(f"epoch {text[:64]!r} is none: it is a whole number, as /v1/flips shows them")
    found = await call.deps.store.flips([int(text)])
    if not found:
        raise UnknownFlip(
            f"there is no ledger of epoch {int(text)}: the pointer has not come so far, it was the fleet's first, "
            f"or it is forgotten; the newest {KEPT_FLIPS} are kept"
        )
    return found[0].document()
