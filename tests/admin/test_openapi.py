"""The document is complete: every route is in it, every reference leads somewhere, nothing else is served."""

from __future__ import annotations

import re
from typing import Any

import pytest
from aiohttp import web

from bgproxy.admin.app import build
from bgproxy.admin.asked import REQUESTS
from bgproxy.admin.openapi import document
from bgproxy.admin.probes import OPENAPI
from bgproxy.admin.routes import ROUTES
from bgproxy.admin.shapes import ANSWERS

DOCUMENT = document(ROUTES, "1.2.3")
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def refs(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(refs, node.values())) if node else own
    return set().union(*map(refs, node)) if isinstance(node, list) and node else set()


def test_it_says_what_it_is():
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"] == {"title": "bgproxy admin API", "version": "1.2.3"}


async def test_what_is_served_and_what_is_documented_are_one(plane):
    app = build(plane.deps())
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if isinstance(route, web.AbstractRoute) and route.resource and route.method != "HEAD"
    }
    assert served == {(method, path) for method, path, _ in OPERATIONS}
    assert len(OPERATIONS) == len(ROUTES)
    assert app[OPENAPI]["info"]["version"] == "9.9.9"


def test_the_operations_are_all_there():
    wanted = {
        ("GET", "/v1/status"),
        ("GET", "/v1/colors"),
        ("GET", "/v1/colors/{color}"),
        ("PUT", "/v1/colors/{color}"),
        ("POST", "/v1/flip"),
        ("POST", "/v1/rollback"),
        ("POST", "/v1/pause"),
        ("POST", "/v1/resume"),
        ("GET", "/v1/colors/{color}/drain"),
        ("POST", "/v1/colors/{color}/drain"),
        ("POST", "/v1/colors/{color}/retire"),
        ("GET", "/v1/run"),
        ("POST", "/v1/run"),
        ("POST", "/v1/run/approve"),
        ("POST", "/v1/run/abort"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/stats"),
        ("GET", "/v1/sessions/{id}"),
        ("DELETE", "/v1/sessions/{id}"),
        ("POST", "/v1/sessions/{id}/move"),
        ("GET", "/v1/flips"),
        ("GET", "/v1/flips/{epoch}"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/audit/verify"),
        ("GET", "/v1/events"),
        ("GET", "/v1/nodes"),
        ("DELETE", "/v1/nodes/{node}"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    }
    assert {(method, path) for method, path, _ in OPERATIONS} == wanted


def test_every_reference_leads_to_a_schema_and_every_schema_is_referred_to():
    known = {f"#/components/schemas/{name}" for name in ANSWERS | REQUESTS}
    assert refs(DOCUMENT) == known


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_each_operation_is_whole(method, path, operation):
    assert operation["summary"].endswith(".")
    in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", path))
    assert ("requestBody" in operation) == (method in ("POST", "PUT"))
    public = path in ("/livez", "/readyz")
    assert operation["security"] == ([] if public else [{"token": []}])
    assert ("401" in operation["responses"]) == (not public)
    if method != "GET":
        assert operation["x-role"] == "operator"
        assert {"400", "403", "409", "503"} <= set(operation["responses"])
        assert ({"413", "415"} <= set(operation["responses"])) == ("requestBody" in operation)
    for status, answer in operation["responses"].items():
        types = list(answer["content"])
        assert types == ["application/problem+json"] if status != "200" else len(types) == 1


def test_operation_ids_are_their_own():
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


async def test_it_is_served(client):
    answer = await client.get("/openapi.json")
    assert answer.content_type == "application/json"
    assert await answer.json() == document(ROUTES, "9.9.9")
