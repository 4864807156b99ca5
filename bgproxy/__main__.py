"""`python -m bgproxy` is the command line."""

from bgproxy.cli.main import main

main()
