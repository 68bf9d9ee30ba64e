"""What a server answers the doctor: text, JSON, or why not."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from trimtab.errors import ConfigError, TrimtabError
from trimtab.http import NoResponse, Server

ANSWER_S = 5.0
LARGEST_ANSWER = 32 * 1024 * 1024  # bytes: the rules and targets of a large Prometheus


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
        self, url: str, token: str | None = None, *, certificates: Path | None = None, answer_s: float = ANSWER_S
    ) -> None:
        self.url = checked(url)
        self._server = Server(
            self.url,
            None if token is None else token.encode(),
            trust=trusting(certificates),
            answer_s=answer_s,
            largest=LARGEST_ANSWER,
        )

    def text(self, path: str = "", **query: str) -> str:
        """The body of an answer of 200. Raises Unanswered."""
        try:
            answer = self._server.get(f"{path}?{urlencode(query)}" if query else path)
        except NoResponse as problem:
            raise Unanswered(f"{self.url} {problem}", untrusted=problem.kind == "untrusted") from problem
        if 300 <= answer.status < 400:
            raise Unanswered(f"{self.url} answers with a redirect, which is not followed", answer.status)
        if answer.status != 200:
            raise Unanswered(f"{self.url}{path} answers {answer.status}", answer.status)
        return answer.body.decode("utf-8", "replace")

    def json(self, path: str, **query: str) -> Any:
        """The decoded body of an answer of 200. Raises Unanswered."""
        try:
            return json.loads(self.text(path, **query))
        except (ValueError, RecursionError) as error:
            raise Unanswered(f"{self.url}{path} answers what is no JSON: is it the right address?") from error


def trusting(certificates: Path | None) -> ssl.SSLContext:
    """What TLS is made with. A certificate in the file is believed itself, so that of a run on this machine will do.

    Raises OSError where the file is none of certificates.
    """
    context = ssl.create_default_context(cafile=certificates)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def checked(url: str) -> str:
    """An address of a server, without a slash at its end. Raises ConfigError for what is none."""
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
