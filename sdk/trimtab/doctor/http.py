"""Asks a server one question. It follows no redirect, obeys no proxy variables and no `.netrc`, and has limits."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from trimtab.errors import ConfigError, TrimtabError

TIMEOUT_S = 5.0  # to connect, for each read, and for the whole answer
LARGEST_ANSWER = 32 * 1024 * 1024  # bytes: the rules and targets of a large Prometheus
_CHUNK = 65536


class Unanswered(TrimtabError):
    """A server that cannot be reached, refuses, or answers what is no answer.

    `status` is None where no answer came, `untrusted` says that it was for the server's certificate.
    """

    def __init__(self, text: str, status: int | None = None, *, untrusted: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.untrusted = untrusted


class Http:
    """A server at `url`, asked with a bearer token where one is given.

    A server with TLS is believed for a certificate of `certificates`, or of an authority there, where a file is given,
    and else as the system has it. Raises ConfigError for what is no address, OSError for what is no such file.
    """

    def __init__(
        self, url: str, token: str | None = None, *, certificates: Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = _checked(url)
        self._timeout_s = timeout_s
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        tls = urllib.request.HTTPSHandler(context=trusting(certificates))
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects, tls)

    def text(self, path: str = "", **query: str) -> str:
        """The body of an answer of 200. Raises Unanswered."""
        address = f"{self.url}{path}?{urlencode(query)}" if query else self.url + path
        deadline = time.monotonic() + self._timeout_s
        try:
            request = urllib.request.Request(address, headers=self._headers)
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return self._read(response, deadline).decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            error.close()
            if 300 <= error.code < 400:
                raise Unanswered(f"{self.url} answers with a redirect, which is not followed", error.code) from error
            raise Unanswered(f"{self.url}{path} answers {error.code}", error.code) from error
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise Unanswered(f"{self.url} is not trusted ({cause.verify_message})", untrusted=True) from error
            raise Unanswered(f"{self.url} cannot be reached ({_reason(error)})") from error

    def json(self, path: str, **query: str) -> Any:
        """The decoded body of an answer of 200. Raises Unanswered."""
        try:
            return json.loads(self.text(path, **query))
        except (ValueError, RecursionError) as error:
            raise Unanswered(f"{self.url}{path} answers what is no JSON: is it the right address?") from error

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        body = bytearray()
        while chunk := response.read1(_CHUNK):  # what has come so far: `read` would wait for all of it
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise Unanswered(f"{self.url} answers more than {LARGEST_ANSWER} bytes")
            if time.monotonic() > deadline:
                raise Unanswered(f"{self.url} took longer than {self._timeout_s:g} s to answer")
        return bytes(body)


def trusting(certificates: Path | None) -> ssl.SSLContext:
    """What TLS is made with. A certificate in the file is believed itself, so that of a run on this machine will do.

    Raises OSError where the file is none of certificates.
    """
    context = ssl.create_default_context(cafile=certificates)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """None leaves the answer as the error that it is."""


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable, parts = False, urlsplit("")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("expected an address without name and password. Tokens are read from files.")
    if not usable or parts.query or parts.fragment:
        raise ConfigError(f"{url!r}: expected an address such as http://127.0.0.1:9090.")
    return url.rstrip("/")


def _reason(error: BaseException) -> str:
    """The cause in a word."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "timed out"
    return getattr(cause, "strerror", None) or (cause if isinstance(cause, str) else type(cause).__name__)
