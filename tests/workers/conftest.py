"""What tests of the supervisor share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short one: a Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bgp-") as name:
        yield Path(name)
