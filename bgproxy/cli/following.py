"""Following what the fleet does, from a command line that may outlive a restart of the proxy it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bgproxy.cli.client import RefusedByApi, Unreachable

INTERVAL = 0.25  # s between two looks
PATIENCE = 120.0  # s for which nothing may answer, once something has: the proxy may be restarted meanwhile

Document = dict[str, Any]


def answers(
    first: Document, ask: Callable[[], Document], now: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[Document]:
    """`first`, and what `ask` answers after it, for as long as somebody wants to know.

    Raises what `ask` does; where the proxy, or its store, is away, only once that has been so for `PATIENCE`.
    """
    heard = now()
    yield first
    while True:
        sleep(INTERVAL)
        try:
            document = ask()
        except (Unreachable, RefusedByApi) as error:
            if not _is_away(error) or now() > heard + PATIENCE:
                raise
        else:
            heard = now()
            yield document


def _is_away(error: Unreachable | RefusedByApi) -> bool:
    return isinstance(error, Unreachable) or error.problem.get("code") == "store_unavailable"
