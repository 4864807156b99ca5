"""What several verbs put into a request to the admin API: its path, the release that is asked for, the terms."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import typer


def path_of(kind: str, name: str) -> str:
    """Where one color, session or node stands; `name` may be whatever somebody typed."""
    return f"/v1/{kind}/{quote(name, safe='')}"


def why(reason: str) -> dict[str, Any]:
    """The reason, where one is given: without it the member is left out."""
    return {"reason": reason} if reason else {}


def terms(reason: str, if_epoch: int | None, force: bool) -> dict[str, Any]:
    """Why it is asked for, and under which conditions."""
    asked = why(reason)
    asked |= {"if_epoch": if_epoch} if if_epoch is not None else {}
    return asked | ({"force": True} if force else {})


def made_of(
    label: str, upstreams: list[str] | None, of_routes: list[str] | None, metadata: list[str] | None
) -> dict[str, Any]:
    """A release, as its options tell it. Raises BadParameter for one that is not NAME=VALUE."""
    routes: dict[str, list[str]] = {}
    for name, url in pairs(of_routes, "--route-upstream"):
        routes.setdefault(name, []).append(url)
    facts = dict(pairs(metadata, "--metadata"))
    asked: dict[str, Any] = {"release": label, "upstreams": upstreams or []}
    asked |= {"routes": routes} if routes else {}
    return asked | ({"metadata": facts} if facts else {})


def pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    """NAME=VALUE texts taken apart. Raises BadParameter for a text without a name or a `=`."""
    found: list[tuple[str, str]] = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f'"{text}" is not NAME=VALUE', param_hint=option)
        found.append((name, value))
    return found
