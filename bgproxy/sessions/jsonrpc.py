"""What an error must echo of a JSON-RPC request: its id, read from what is known of the body.

Looked at only where a request is answered in its agent's place, which is rare: so a body is kept as it came, and parsed
then. Where its end is not there, the id is found if it stands before the parameters, as most clients write it.
"""

from __future__ import annotations

import json
import re
from typing import Final

NULL: Final = b"null"
"""The id of an error whose request's could not be found out (JSON-RPC 2.0 §5)."""

# Whole or nothing: a text without escapes, or a number that may be followed by more of the document.
_LEADING: Final = re.compile(
    rb'\s*+\{\s*+(?:"(?:jsonrpc|method)"\s*+:\s*+"[^"\\]*+"\s*+,\s*+)*+'
    rb'"id"\s*+:\s*+("[\x20\x21\x23-\x5b\x5d-\x7e]*+"|-?+(?:0|[1-9][0-9]{0,63}+))\s*+[,}]'
)


def request_id(body: bytes) -> bytes | None:
    """The id in JSON, `NULL` where there is none to be found; None where this is no JSON-RPC. Never raises.

    `body`: the request's, or its beginning.
    """
    if b'"jsonrpc"' not in body:
        return None
    try:
        document = json.loads(body)
        found = document.get("id") if isinstance(document, dict) else None  # a batch has many
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            return NULL
        return json.dumps(found, allow_nan=False).encode()
    except (ValueError, RecursionError):  # the rest has not come, or was not kept
        match = _LEADING.match(body)
        return match[1] if match is not None else NULL
