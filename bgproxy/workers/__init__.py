"""N worker processes on the same addresses, and their exchange for others without a gap.

Light to import: how a process was started is looked up before anything else is.
"""

from typing import Final

TRIAL: Final = "_BGPROXY_TRIAL"
"""The variable that tells a process started for an upgrade the descriptor of its line to the one that serves."""

RESUME: Final = "_BGPROXY_RESUME"
"""The variable that tells a supervisor which has exchanged its program the descriptor of what it knew."""
