"""Who is asking: bearer tokens (RFC 6750), compared in constant time, and a limit on wrong ones.

A right token is never kept out by a neighbour's wrong ones: behind one address may stand a broken job and an operator
who needs a rollback now. The limit keeps failures cheap and the log short; 128 random bits keep guessing hopeless.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Sequence

from bgproxy.admin.options import ROLES, Role, Token
from bgproxy.admin.problems import TooManyFailures
from bgproxy.errors import Forbidden, Unauthorized

MAX_PEERS = 1_024  # remembered for their failures; the one that failed longest ago is forgotten first
MINUTE = 60.0


class Keyring:
    """The tokens, as SHA-256 digests only: what is compared tells nothing of a secret by its timing."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._digests = [(hashlib.sha256(token.secret.encode()).digest(), token.name, token.role) for token in tokens]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def find(self, secret: str) -> tuple[str, Role] | None:
        """Name and role of the token with this secret. Looks at all of them, however early one fits."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        found: tuple[str, Role] | None = None
        for known, name, role in self._digests:
            if hmac.compare_digest(known, digest):
                found = (name, role)
        return found


class Failures:
    """How many wrong tokens each peer has sent lately: `rate` a minute, in a row or spread out."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # peer → what it has left, when counted

    def __len__(self) -> int:
        return len(self._left)

    def count(self, peer: str, now: float) -> float:
        """Count one failure (`now`: monotonic seconds). 0, or the seconds after which the next one is listened to."""
        left, since = self._left.pop(peer, (float(self._rate), now))
        left = min(float(self._rate), left + (now - since) * self._rate / MINUTE)
        wait = 0.0 if left >= 1.0 else (1.0 - left) * MINUTE / self._rate
        self._left[peer] = (left if wait else left - 1.0, now)
        if len(self._left) > MAX_PEERS:
            self._left.popitem(last=False)
        return wait


def identify(keyring: Keyring, failures: Failures, fields: Sequence[str], peer: str, now: float) -> tuple[str, Role]:
    """Name and role of the caller with these `Authorization` fields. Raises Unauthorized or TooManyFailures."""
    if not fields:
        raise Unauthorized("this needs a token: send `Authorization: Bearer TOKEN`")
    scheme, _, secret = fields[0].partition(" ")
    # RFC 9110 §11.6.2 has one such field; of two, who knows which one a gateway before us has looked at.
    if len(fields) == 1 and scheme.lower() == "bearer" and (found := keyring.find(secret.strip())):
        return found
    if wait := failures.count(peer, now):
        raise TooManyFailures(
            "too many wrong tokens from this address; wait, then send the right one", retry_after=wait
        )
    raise Unauthorized("this token is not known here; a bearer token is sent as `Authorization: Bearer TOKEN`")


def demand(role: Role, name: str, has: Role, what: str) -> None:
    """Raise Forbidden where a caller's role does not reach for `what`."""
    if ROLES.index(has) < ROLES.index(role):
        raise Forbidden(f"{what} needs a token with the role {role}; the one named {name} is a {has}")


def peer_name(address: str | None) -> str:
    """What failures are counted by: the address, or the /64 of an IPv6 one, which one machine has whole."""
    if not address:
        return "unix"
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False).network_address)
    return str(ip)
