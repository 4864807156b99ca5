"""The command line: one file per verb group; every verb but `serve` and `demo` talks HTTP to the admin API."""
