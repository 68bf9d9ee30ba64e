"""Who may read `/metrics`, and over what: a bearer token from a file, TLS from a certificate and its key.

What is configured and cannot be used raises. Nothing falls back to plain text or to no token.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from trimtab import tokens
from trimtab.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from trimtab.types import Config


def read_token(config: Config) -> bytes | None:
    """The token that `metrics_token_file` holds, None where no file is configured.

    Raises:
        BackendError: the file cannot be read, is empty, or is open to other users of the machine.
    """
    path = config.metrics_token_file
    if path is None:
        return None
    try:
        return tokens.read("metrics_token_file", path)
    except ConfigError as error:
        raise BackendError(str(error)) from error


def may_read(authorization: str, token: bytes | None) -> bool:
    """Whether an `Authorization` header, in Latin-1 as WSGI has it, carries the token. Its time tells nothing."""
    return token is None or tokens.carries(authorization, token)


def tls_context(config: Config) -> ssl.SSLContext | None:
    """What to serve TLS with (1.2 or later), None where no certificate is configured.

    Raises:
        BackendError: one of certificate and key is missing, unreadable, encrypted, or not the other's.
    """
    certificate, key = config.tls_certificate_file, config.tls_key_file
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = ("tls_key_file", "tls_certificate_file") if key else ("tls_certificate_file", "tls_key_file")
        raise BackendError(f"{given} is given without {missing}. Give both, or none to serve without TLS.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except OSError as error:
        raise BackendError(
            f"tls_certificate_file={str(certificate)!r}, tls_key_file={str(key)!r}: cannot be used ({_reason(error)}). "
            "Give a certificate and its own key, both PEM, the key without a passphrase."
        ) from error
    return context


def _no_passphrase() -> bytes:
    """Without this, OpenSSL asks on the terminal and the training waits for an answer."""
    return b""


def _reason(error: OSError) -> str:
    return getattr(error, "reason", "") or error.strerror or str(error)
