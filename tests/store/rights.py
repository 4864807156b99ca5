"""The rights that `store/base.py` documents, given to a user on a real server."""

from __future__ import annotations

import re

from bgproxy.store import base
from tests.redis_servers import RedisServer

SECRET = "p@ss/w#rd?:%"
QUOTED = "p%40ss%2Fw%23rd%3F%3A%25"
USER = "bg"


def documented(where: str = "An ACL user needs") -> list[str]:
    """What stands between the next two backticks, word by word, so that the text cannot go stale."""
    text = (base.__doc__ or "").replace("\n", " ")
    found = re.search(rf"{where}[^`]*`([^`]*)`", text)
    assert found, where
    return found[1].split()


def give(server: RedisServer, fleet: str, rights: list[str] | None = None, user: str = USER) -> None:
    """A user of that fleet who may do this (or what is documented) and nothing else, with the password `SECRET`."""
    wanted = [one.replace("FLEET", fleet) for one in (documented() if rights is None else rights)]
    answer = server.command("ACL", "SETUSER", user, "reset", "on", f">{SECRET}", "resetchannels", "-@all", *wanted)
    assert answer.startswith(b"+OK"), answer


def with_user(url: str, user: str = USER) -> str:
    return url.replace("://", f"://{user}:{QUOTED}@")
