"""What the schemas of `shapes.py` and `asked.py` are made of."""

from __future__ import annotations

from typing import Any, Final

from bgproxy.admin.schema import Schema

NUMBER: Final = {"type": "number"}
COUNT: Final = {"type": "integer", "minimum": 0}
TEXT: Final = {"type": "string"}
TEXT_OR_NOTHING: Final = {"type": ["string", "null"]}
SECONDS: Final = {"type": "number", "description": "Unix seconds by the store's clock."}
ANYTHING: Final = {"type": "object", "additionalProperties": True}


def closed(required: list[str], **members: Schema) -> dict[str, Any]:
    """An object with no members but these."""
    return {"type": "object", "additionalProperties": False, "properties": members, "required": required}


def exactly(**members: Schema) -> dict[str, Any]:
    """An object that always has exactly these members."""
    return closed(list(members), **members)


def ref(name: str) -> Schema:
    """Points to the schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}
