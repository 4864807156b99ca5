"""bgproxy: a reverse proxy for blue-green deployment of AI agents. A flip loses nothing."""

__version__ = "0.1.0"
