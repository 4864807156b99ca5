"""Where tokens, the admin API's and those for previews, get their secrets from: the configuration, a file or an
environment variable.

A secret never appears in a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path as FilePath

from bgproxy.admin.options import Token, check_secret
from bgproxy.config.document import TokenSection
from bgproxy.config.keys import Path
from bgproxy.config.sources import REPEAT
from bgproxy.errors import ConfigError

MAX_SECRET_BYTES = 4_096  # of a secret file: more is some other file, named by mistake


def resolve(
    sections: Mapping[str, TokenSection], environ: Mapping[str, str]
) -> tuple[tuple[Token, ...], tuple[bytes, ...], list[tuple[Path, str]]]:
    """The admin API's tokens, the digests of those for previews, and what is wrong by key."""
    tokens: list[Token] = []
    previews: list[bytes] = []
    secrets: set[str] = set()
    faults: list[tuple[Path, str]] = []
    for key, section in sections.items():
        path = ("token", key)
        try:
            secret = _secret(section, environ)
            check_secret(name_of(key), secret)
            if section.role == "preview":
                previews.append(sha256(secret.encode()).digest())
            else:
                tokens.append(Token(name_of(key), section.role, secret))
        except ConfigError as error:
            faults.append((path, str(error).removeprefix(f"token {name_of(key)}: ")))
            continue
        if secret in secrets:
            faults.append((path, "its secret is another token's too, so nobody could tell whose it is; make a new one"))
        secrets.add(secret)
    return tuple(tokens), tuple(previews), faults


def name_of(key: str) -> str:
    """The name of a token section: without the number that tells two of one name apart."""
    return key.partition(REPEAT)[0]


def _secret(section: TokenSection, environ: Mapping[str, str]) -> str:
    given = [name for name in ("secret", "secret_file", "secret_env") if getattr(section, name)]
    if len(given) != 1:
        named = f"there are {' and '.join(given)}" if given else "there is no secret"
        raise ConfigError(f"{named}; write exactly one of secret, secret_file and secret_env")
    if section.secret_file:
        return from_file("secret_file", FilePath(section.secret_file))
    if not section.secret_env:
        return section.secret
    secret = environ.get(section.secret_env, "").strip()
    if not secret:
        raise ConfigError(f"secret_env: the environment variable {section.secret_env} is empty or not set; set it")
    return secret


def from_file(key: str, path: FilePath) -> str:
    """The secret that a file holds; `key` says what names it. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}; correct the path or its mode") from None
    if len(data) > MAX_SECRET_BYTES:
        raise ConfigError(f"{key}: {path} is longer than {MAX_SECRET_BYTES} bytes; name the file of one secret")
    return data.decode("utf-8", "replace").strip()
