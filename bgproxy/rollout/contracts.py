"""What agents expose, read from one upstream: MCP's lists, the A2A card, the OpenAPI document, the list of models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from bgproxy.rollout.gates.a2a import card_of
from bgproxy.rollout.gates.ask import upstream
from bgproxy.rollout.gates.mcp import McpClient
from bgproxy.rollout.gates.tried import Broken, Tried, items_of
from bgproxy.rules.assertion import MISSING
from bgproxy.rules.contract import Contract, Part

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_JSON = ("application/json", "application/problem+json", "*/*")

Reader = Callable[[str, str, Mapping[str, str], float], Awaitable[Contract]]


async def mcp_contract(url: str, path: str, fields: Mapping[str, str], timeout: float) -> Contract:
    """Tools, prompts, resources and resource templates. Raises `Broken` where no MCP server answers."""
    async with upstream(url) as agent:
        client = McpClient(agent, Tried(url), path, fields, timeout)
        parts: dict[str, Part] = {}
        async with client.session():
            if "tools" in client.capabilities:
                for tool in await client.every("tools/list", "tools"):
                    parts[f"tool {tool.get('name')}"] = Part(tool.get("inputSchema"), tool.get("outputSchema"))
            if "prompts" in client.capabilities:
                for prompt in await client.every("prompts/list", "prompts"):
                    parts[f"prompt {prompt.get('name')}"] = Part(_arguments(prompt))
            if "resources" in client.capabilities:
                for resource in await client.every("resources/list", "resources"):
                    parts[f"resource {resource.get('uri')}"] = Part()
                for template in await client.every("resources/templates/list", "resourceTemplates"):
                    parts[f"resource template {template.get('uriTemplate')}"] = Part()
        return Contract(parts)


def _arguments(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's arguments as a schema."""
    arguments = [one for one in items_of(prompt, "arguments") if isinstance(one, Mapping)]
    return {
        "properties": {str(one.get("name")): {} for one in arguments},
        "required": [str(one.get("name")) for one in arguments if one.get("required")],
    }


async def a2a_contract(url: str, path: str, fields: Mapping[str, str], timeout: float) -> Contract:
    """Skills, capabilities, modes and interfaces of the agent card. Raises `Broken` where there is none."""
    async with upstream(url) as agent:
        card = await card_of(agent, Tried(url), path, fields, timeout)
    return Contract({name: Part() for name in _of_card(card)})


def _of_card(card: Mapping[str, Any]) -> Iterator[str]:
    for skill in items_of(card, "skills"):
        yield f"skill {skill.get('id') if isinstance(skill, Mapping) else skill}"
    capabilities = card.get("capabilities")
    for name, value in (capabilities if isinstance(capabilities, Mapping) else {}).items():
        if value is True:
            yield f"capability {name}"
    for kind in ("defaultInputModes", "defaultOutputModes"):
        for mode in items_of(card, kind):
            yield f"{'input' if 'Input' in kind else 'output'} mode {mode}"
    for one in items_of(card, "supportedInterfaces"):
        if isinstance(one, Mapping):
            yield f"interface {one.get('protocolBinding')} {one.get('protocolVersion')}"
    if "supportedInterfaces" not in card:  # before 1.0
        yield f"interface {card.get('preferredTransport', 'JSONRPC')} {card.get('protocolVersion', '0.3')}"


async def openapi_contract(url: str, path: str, fields: Mapping[str, str], timeout: float) -> Contract:
    """The operations of an OpenAPI document (3.x). Raises `Broken` where there is none."""
    document = await _json(url, path, fields, timeout)
    paths = document.get("paths") if isinstance(document, Mapping) else None
    if not isinstance(paths, Mapping) or "openapi" not in document:
        raise Broken(f"{path} is no OpenAPI document")
    parts: dict[str, Part] = {}
    for place, item in paths.items():
        for method in _METHODS:
            operation = item.get(method) if isinstance(item, Mapping) else None
            if isinstance(operation, Mapping):
                common = items_of(item, "parameters")
                parts[f"{method.upper()} {place}"] = Part(_taken(operation, common), _given(operation))
    return Contract(parts, document)


def _taken(operation: Mapping[str, Any], common: list[Any]) -> dict[str, Any]:
    """What an operation takes as one schema: its parameters by place and name, and its body."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for one in [*common, *items_of(operation, "parameters")]:
        if isinstance(one, Mapping) and "name" in one:
            name = f"{one.get('in')} {one['name']}"
            properties[name] = one.get("schema", {})
            required += [name] if one.get("required") else []
    body = operation.get("requestBody")
    if isinstance(body, Mapping):
        properties["body"] = _schema(body)
        required += ["body"] if body.get("required") else []
    return {"properties": properties, "required": required}


def _given(operation: Mapping[str, Any]) -> dict[str, Any]:
    """What an operation gives where all is well, as one schema by status."""
    responses = operation.get("responses")
    found = responses if isinstance(responses, Mapping) else {}
    good = {str(status): _schema(one) for status, one in found.items() if str(status).startswith("2")}
    return {"properties": good, "required": list(good)}


def _schema(holder: Any) -> Any:
    content = holder.get("content") if isinstance(holder, Mapping) else None
    for kind in _JSON:
        media = content.get(kind) if isinstance(content, Mapping) else None
        if isinstance(media, Mapping):
            return media.get("schema", {})
    return {}


async def models_contract(url: str, path: str, fields: Mapping[str, str], timeout: float) -> Contract:
    """The ids of /v1/models. Raises `Broken` where there is no such list."""
    document = await _json(url, path, fields, timeout)
    models = document.get("data") if isinstance(document, Mapping) else None
    if not isinstance(models, list):
        raise Broken(f"{path} is no list of models")
    return Contract({f"model {one.get('id')}": Part() for one in models if isinstance(one, Mapping)})


async def _json(url: str, path: str, fields: Mapping[str, str], timeout: float) -> Any:
    async with upstream(url) as agent:
        answer = await agent.ask("GET", path, fields=fields, timeout=timeout)
    if answer.trouble or answer.status != 200:
        raise Broken(f"{path}: {answer.trouble or f'the status is {answer.status}'}")
    document = answer.json()
    if document is MISSING:
        raise Broken(f"{path} is no JSON")
    return document


READERS: Mapping[str, Reader] = {
    "mcp": mcp_contract,
    "a2a": a2a_contract,
    "openapi": openapi_contract,
    "models": models_contract,
}
