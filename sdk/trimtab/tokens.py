"""Secrets from files, one for each purpose. No message holds any of their content."""

from __future__ import annotations

import errno
import hmac
import os
import select
import stat
import time
from pathlib import Path
from urllib.parse import urlsplit

from trimtab import files
from trimtab.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_BYTES = 8_192  # half of what a server of ours takes as the head of a request
PIPE_S = 10.0  # that a pipe is waited for


def read(setting: str, path: Path) -> bytes:
    """The token in the file that `setting` names.

    Raises:
        ConfigError: the file cannot be read, is empty or no token, or is open to other users of the machine.
    """
    said = f"{setting}={str(path)!r}"
    try:
        with files.opened(path, follows_link=True) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = _of_pipe(file.fileno()) if stat.S_ISFIFO(mode) else file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{said}: cannot be read ({error.strerror}). Give the path of a file.") from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{said}: others than its owner may use it. Run: chmod 600 {path}")
    token = content.strip()
    if not token:
        raise ConfigError(f"{said}: empty. Write the token into it, on one line.")
    if len(content) > MAX_BYTES or any(not 32 < byte < 127 for byte in token):
        raise ConfigError(
            f"{said}: expected one line without spaces, in ASCII, of {MAX_BYTES:,} bytes at most. "
            "Write the token alone into it."
        )
    return token


def _of_pipe(descriptor: int) -> bytes:
    """What a pipe gives until it ends, or is too much. Raises OSError where that takes too long."""
    content, until = b"", time.monotonic() + PIPE_S
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    while len(content) <= MAX_BYTES:
        if not readable.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"a pipe that nobody wrote to the end in {PIPE_S:.0f} s")
        piece = os.read(descriptor, MAX_BYTES)
        if not piece:
            break
        content += piece
    return content


def warning(setting: str, address: str) -> str | None:
    """What to tell a user whose token goes to the `address` of `setting` so that it can be read on the way."""
    parts = urlsplit(address)
    if parts.scheme != "http" or parts.hostname in LOOPBACK:
        return None
    return f"{setting}={address!r}: the token is sent in plain text. Use https."


def warning_of_served(setting: str, host: str) -> str | None:
    """The same of a token that is asked for by whoever serves on `host` without TLS."""
    if host in LOOPBACK:
        return None
    return (
        f"{setting} with host={host!r}: the token comes in plain text, unless a proxy adds TLS. "
        "Set tls_certificate_file and tls_key_file."
    )


def warning_of_open(host: str) -> str | None:
    """What to tell a user whose `/metrics` on `host` asks for no token."""
    if host in LOOPBACK:
        return None
    return f"host={host!r}: /metrics is open to everybody who reaches it. Set metrics_token_file."


def carries(authorization: str, token: bytes) -> bool:
    """Whether an `Authorization` header, in Latin-1 as WSGI has it, carries the token. Its time tells nothing."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
