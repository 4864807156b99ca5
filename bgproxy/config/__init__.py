"""The configuration: flags, environment and file become one checked `Settings`, and that each package's own options."""

from bgproxy.config.addresses import Address, parse_address
from bgproxy.config.reloading import reload_diff
from bgproxy.config.settings import NEEDS_RESTART, Settings

__all__ = ["NEEDS_RESTART", "Address", "Settings", "parse_address", "reload_diff"]
