"""`${GATE_…}` in a text of a plan stands for a variable of the proxy's environment, where secrets are: a plan is kept
and shown. Only names of this form, so that no plan can read what was not meant for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

VARIABLE: Final = re.compile(r"\$\{(GATE_[A-Z0-9_]{1,64})\}")


def unset(text: str, environ: Mapping[str, str]) -> str:
    """Why a text cannot be filled, by the first variable that is not there; nothing where it can."""
    gone = next((name for name in VARIABLE.findall(text) if name not in environ), "")
    return gone and f"the variable {gone} is not set in this proxy's environment: set it, and start the proxy anew"


def filled(text: str, environ: Mapping[str, str]) -> str:
    """The text with the variables' values in their places. All of them are set."""
    return VARIABLE.sub(lambda match: environ[match[1]], text)
