"""Telemetry tells what happened and never steers: counters, the access log, the process's own log."""
