"""A call to somebody else's address: only to one that the configuration allows, signed, repeated, in bounded time.

Signed as Standard Webhooks has it (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp`, and
`webhook-signature: v1,BASE64`, HMAC-SHA256 of "ID.TIMESTAMP.BODY". The id stays over all attempts, so that a receiver
can tell a repetition. An address that a name leads to and that is a cloud's metadata service, or link-local, is not
called whatever is allowed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from bgproxy.rollout.gates.ask import AGENT, json_body
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rollout.health import words
from bgproxy.rules.action import Action
from bgproxy.rules.gate import Verdict
from bgproxy.rules.jury import PrometheusJudge, WebhookJudge
from bgproxy.rules.plan import WebhookGate

ANSWER_BYTES = 65_536
FIRST_PAUSE = 0.5  # seconds; doubled at each attempt
WHY_CHARACTERS: Final = 300  # of a reason that is given
VERDICTS: Final = ", ".join(f'"{one}"' for one in Verdict)

# Outside of the link-local range, where all the others are.
_METADATA = frozenset({ip_address("fd00:ec2::254"), ip_address("100.100.100.200"), ip_address("168.63.129.16")})


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a call. `status` is 0 where nobody answered, `trouble` says why."""

    status: int
    body: bytes
    trouble: str
    attempts: int

    @property
    def tries(self) -> str:
        """How often it was called, in words."""
        return "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"

    @property
    def fault(self) -> str:
        """Why it is no answer to go by, in words; empty where its status is one of 2xx."""
        return self.trouble or ("" if 200 <= self.status <= 299 else f"the status is {self.status}")

    def document(self) -> Mapping[str, Any]:
        """The JSON object that was answered; empty where it is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, Mapping) else {}

    def said(self) -> tuple[Verdict | None, str]:
        """The verdict in `{"verdict": "pass" | "fail" | "undecided", "why": "…"}`, None where it has none; and why."""
        document = self.document()
        if document.get("verdict") not in list(Verdict):
            return None, ""
        return Verdict(document["verdict"]), str(document.get("why", ""))[:WHY_CHARACTERS]


async def post(
    to: Action | WebhookGate | WebhookJudge, event: Mapping[str, Any], *, event_id: str, trial: Trial, attempts: int
) -> Told:
    """Tell it of an event, as JSON. Repeated where nobody answers, or the answer is 429 or 5xx.

    Raises `Unanswerable` where this host does not allow it, or a variable is not set.
    """
    _must_be_allowed(to.url, trial)
    body, secret, fields = json_body(event), trial.filled(to.secret), trial.fields(to.headers)
    pause, told = FIRST_PAUSE, Told(0, b"", "", 0)
    for attempt in range(1, attempts + 1):
        headers = {"Content-Type": "application/json", **fields, **_signed(body, event_id, secret)}
        status, answer, trouble = await _send("POST", URL(to.url, encoded=True), body, headers, to.timeout)
        told = Told(status, answer, trouble, attempt)
        if not (trouble or status == 429 or status >= 500) or attempt == attempts:
            break
        await asyncio.sleep(pause)
        pause *= 2
    return told


async def query(judge: PrometheusJudge, path: str, asked: Mapping[str, str], trial: Trial) -> Told:
    """GET, once, what stands below its address at `path`. Raises `Unanswerable` as `post` does."""
    _must_be_allowed(judge.url, trial)
    url = URL(judge.url.rstrip("/") + path, encoded=True).with_query(asked)
    status, body, trouble = await _send("GET", url, None, trial.fields(judge.headers), judge.timeout)
    return Told(status, body, trouble, 1)


def _must_be_allowed(url: str, trial: Trial) -> None:
    if not trial.options.allows_webhook(url):
        raise Unanswerable(f"{url} may not be called from this proxy's host: add it to rollout.webhooks")


def _signed(event: bytes, event_id: str, secret: str) -> dict[str, str]:
    at = str(int(time.time()))
    fields = {"webhook-id": event_id, "webhook-timestamp": at}
    if secret:
        signature = hmac.new(secret.encode(), b".".join((event_id.encode(), at.encode(), event)), hashlib.sha256)
        fields["webhook-signature"] = f"v1,{base64.b64encode(signature.digest()).decode()}"
    return fields


async def _send(
    method: str, url: URL, body: bytes | None, fields: Mapping[str, str], timeout: float
) -> tuple[int, bytes, str]:
    headers = {"User-Agent": AGENT, **fields}
    try:
        _check_literal(url.host or "")
        async with (
            asyncio.timeout(timeout),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=_Resolver())) as session,
            session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status, await _read(answer.content), ""
    except TimeoutError:
        return 0, b"", f"no answer within {timeout:g} s"
    except (OSError, aiohttp.ClientError, ValueError) as error:
        return 0, b"", words(error)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """All of it, in however many pieces it comes; of what is too long the beginning."""
    body = bytearray()
    while len(body) < ANSWER_BYTES and (piece := await content.read(ANSWER_BYTES - len(body))):
        body += piece
    return bytes(body)


def _check_literal(host: str) -> None:
    try:
        ip_address(host)
    except ValueError:
        return
    _check(host)


def _check(address: str) -> None:
    found = ip_address(address.partition("%")[0])
    plain = (found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain in _METADATA:
        raise OSError(f"{address} is no address that may be called")


class _Resolver(AbstractResolver):
    """Looks at what a name leads to, at the moment at which it is called."""

    def __init__(self) -> None:
        self._names = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._names.resolve(host, port, family)
        for one in found:
            _check(one["host"])
        return found

    async def close(self) -> None:
        await self._names.close()
