"""The OpenAPI 3.1 document, made from the routes table and the schemas: it cannot say what is not there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from bgproxy.admin.asked import IDEMPOTENCY_KEY, IN_PATH, REQUESTS
from bgproxy.admin.call import Route
from bgproxy.admin.parts import ref
from bgproxy.admin.shapes import ANSWERS

_ALWAYS = (400, 403, 500)
_WITH_TOKEN = (401, 429)


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "bgproxy admin API", "version": version},
        "paths": paths,
        "components": {
            "schemas": {**ANSWERS, **REQUESTS},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed where tokens are configured. The role that an operation asks for: `x-role`.",
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": {"200": _success(route), **_failures(route)},
        "security": [{"token": []}] if route.role else [],
    }
    if route.role:
        operation["x-role"] = route.role
    if route.body:
        schema = REQUESTS[route.body]
        operation["requestBody"] = {
            "required": bool(schema["required"]),
            "content": {"application/json": {"schema": ref(route.body)}},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": IN_PATH[name]}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    in_query = [
        {"name": name, "in": "query", "required": name in route.query["required"], "schema": schema}
        for name, schema in route.query["properties"].items()
    ]
    key = {"name": "Idempotency-Key", "in": "header", "required": False, "schema": IDEMPOTENCY_KEY}
    return [*in_path, *in_query, *([key] if route.once else [])]


def _success(route: Route) -> dict[str, Any]:
    content = (
        {route.answer: {"schema": {"type": "string"}}}
        if "/" in route.answer
        else {"application/json": {"schema": ref(route.answer)}}
    )
    return {"description": route.summary, "content": content}


def _failures(route: Route) -> dict[str, Any]:
    statuses = {*_ALWAYS, *route.errors, *(_WITH_TOKEN if route.role else ())}
    content = {"application/problem+json": {"schema": ref("Problem")}}
    return {str(status): {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}
