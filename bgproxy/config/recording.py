"""[recording]: what may not be said there, and where its key comes from: a file or an environment variable.

A recording without a key is refused: nothing of what clients say is kept in the clear. The key never appears in a
message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Final

from bgproxy.config.keys import Path
from bgproxy.config.mirror_checks import pointers_faults
from bgproxy.config.secrets import from_file
from bgproxy.errors import ConfigError
from bgproxy.rollout.options import RecordingOptions
from bgproxy.rollout.records import Seal
from bgproxy.rules.redaction import pattern_fault

Found = Iterator[tuple[Path, str]]

_HERE: Final = "recording"


def resolve(options: RecordingOptions, environ: Mapping[str, str]) -> tuple[RecordingOptions, list[tuple[Path, str]]]:
    """The options with their key, and what is wrong by key."""
    found = list(_faults(options))
    if found or not options.directory:
        return options, found
    try:
        key = _key(options, environ)
        Seal(key)
    except ConfigError as error:
        name = "key_file" if options.key_file else "key_env"
        return options, [((_HERE, name), str(error).removeprefix(f"{name}: "))]
    return replace(options, key=key), []


def _key(options: RecordingOptions, environ: Mapping[str, str]) -> str:
    if options.key_file and options.key_env:
        raise ConfigError("key_env is given too; write one of them")
    if options.key_file:
        return from_file("key_file", FilePath(options.key_file))
    if not options.key_env:
        raise ConfigError(
            "recordings are sealed, and there is no key; make one by `openssl rand -base64 32` and name the variable "
            "or the file that holds it by key_env or key_file"
        )
    if not (key := environ.get(options.key_env, "").strip()):
        raise ConfigError(f"the environment variable {options.key_env} is empty or not set; set it")
    return key


def _faults(options: RecordingOptions) -> Found:
    if options.directory and not options.directory.startswith("/"):
        yield (
            (_HERE, "directory"),
            f'"{options.directory}" is no absolute path; write for example "/var/lib/bgproxy/rec"',
        )
    if not options.directory and (options.key_file or options.key_env):
        yield (_HERE, "directory"), "there is a key and no directory; write where recordings are to be kept"
    if not 0 < options.share <= 1:
        yield (_HERE, "share"), f"{options.share:g} is no share of sessions; write more than 0, and 1.0 for all"
    for pattern in options.redact_patterns:
        if fault := pattern_fault(pattern):
            yield (_HERE, "redact_patterns"), f'"{pattern}": {fault}'
    yield from pointers_faults((_HERE, "redact_pointers"), options.redact_pointers)
