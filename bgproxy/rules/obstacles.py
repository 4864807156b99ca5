"""Why a release is not staged over what stands, for all that its phase allows: what would be lost or is gone.

Decides purely; that `force` overrides these is the business of who stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bgproxy.rules.release import Release


def obstacles(releases: Mapping[str, Release], color: str, label: str) -> Iterator[tuple[str, str]]:
    """What stands in the way of staging that label on a color, each with its remedy."""
    old = releases.get(color)
    if old is not None and old.is_tried:
        yield (
            f"sessions of a canary may live on {old.label} on {color}, and would move in the middle of their turns",
            f"release or flip to {old.label}, or force this once `bgproxy drain {color}` tells of none",
        )
    if old is not None and old.is_taken_down:
        yield f"{old.label} on {color} is being taken down", "wait until it is retired"
    elif old is not None and old.owes_contract:
        yield (
            f"the contract step for {old.label} on {color} is still to be done",
            f"`bgproxy retire {color}` does it, staging over it leaves it out",
        )
    for release in releases.values():
        if label in release.outdated:
            yield f"{removed(release, label)} what {label} needs", "stage a release that works without it"


def removed(release: Release, label: str) -> str:
    """What the contract step behind that label has done: one that is owed may have done all, some or nothing."""
    is_owed = release.owes_contract and release.label == label
    done = ", begun or still to be done, may have removed" if is_owed else " has removed"
    return f"{release.outdated[label]}'s contract step{done}"
