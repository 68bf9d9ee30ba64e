"""The one seam to Grafana's HTTP API, over the generic verbs of grafana-api.

That library follows redirects, obeys `.netrc` and proxy variables, lets exceptions of `requests` through, fails on an
empty answer (204) and pastes ids into paths as they are. Here a redirect is an error, nothing is read from the
environment, each part of a path is quoted, and whatever goes wrong is a `GrafanaError` without the token in it.
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import urllib3
from grafana_api.grafana_api import GrafanaAPI

from trimtab import tokens
from trimtab.errors import ConfigError, GrafanaError, printable

TIMEOUT_S = 10.0  # to connect, for each read, and for the whole answer
LARGEST_ANSWER = 32 * 1024 * 1024  # bytes
TOKEN_VARIABLE = "TRIMTAB_GRAFANA_TOKEN_FILE"


class Grafana:
    """A Grafana at `url`, such as `https://grafana.example.org` or `http://127.0.0.1:3000/grafana`.

    Every verb takes the parts of a path below `/api`, quotes them, and returns the decoded JSON, None for an empty
    answer. One request each, no retry. Not for several threads at once.

    Raises:
        ConfigError: the URL cannot be used.
        GrafanaError: from every verb, when Grafana cannot be reached, refuses, or answers what is no JSON.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = TIMEOUT_S, ca_file: Path | None = None) -> None:
        parts = _parsed(url)
        self.url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self._session = _Session(self.url, token, timeout_s)
        self._api = GrafanaAPI(
            token,
            host=parts.netloc,  # with its port, and the brackets of IPv6
            url_path_prefix=parts.path.strip("/") + "/" if parts.path.strip("/") else "",
            protocol=parts.scheme,
            verify=str(ca_file.absolute()) if ca_file is not None else True,  # is opened at each connection
            timeout=timeout_s,
        )
        self._api.s = self._session

    def get(self, *path: str, query: dict[str, str] | None = None) -> Any:
        return self._api.GET(_joined(path, query))

    def post(self, *path: str, body: Any) -> Any:
        return self._api.POST(_joined(path), json=body)

    def put(self, *path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        return self._api.PUT(_joined(path), json=body, headers=headers)

    def patch(self, *path: str, body: Any) -> Any:
        return self._api.PATCH(_joined(path), json=body)

    def find(self, *path: str) -> Any:
        """What is at a path, None where there is nothing (404)."""
        try:
            return self.get(*path)
        except GrafanaError as error:
            if error.status == 404:
                return None
            raise

    def close(self) -> None:
        self._session.close()


def read_token(path: Path | None) -> str:
    """The token of a service account, from a file that nobody else may read.

    Raises:
        ConfigError: no file is named, it cannot be read, is open to others, or holds no token.
    """
    if path is None:
        raise ConfigError(f"No token for Grafana. Write a service account's into a file and name it: {TOKEN_VARIABLE}.")
    return tokens.read("grafana_token_file", path).decode("ascii")


class _Session(requests.Session):
    """Sends one request, takes one bounded answer, and speaks of failures in our words."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        super().__init__()
        self.trust_env = False
        self._url = url
        self._token = token
        self._timeout_s = timeout_s

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        options.update(allow_redirects=False, stream=True)
        deadline = time.monotonic() + self._timeout_s
        try:
            with super().request(method, url, *args, **options) as response:
                body = self._read(response, deadline)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._error(f"cannot be reached ({_reason(error)}). Is the address right, and is it up?") from error
        self._refuse(response, body)
        # What `Response.json` reads; a 204 has no body, and null is the JSON for that.
        response._content = body or b"null"
        try:
            response.json()
        except (ValueError, RecursionError) as error:
            raise self._error("answered what is no JSON. Is this Grafana's address, and not a proxy's?") from error
        return response

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        for chunk in _as_it_comes(response):
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise self._error(f"answered more than {LARGEST_ANSWER} bytes.")
            if time.monotonic() > deadline:
                raise self._error(f"took longer than {self._timeout_s:g} s to answer.")
        return bytes(body)

    def _refuse(self, response: requests.Response, body: bytes) -> None:
        status = response.status_code
        if 300 <= status < 400:
            raise self._error("answered with a redirect, which is not followed. Give the address it leads to.", status)
        if status == 401:
            raise self._error("refuses the token (401). Does grafana_token_file name the right file?", status)
        if status == 403:
            raise self._error(f"forbids it (403){self._message(body)}. Give the service account that right.", status)
        if status >= 400:
            raise self._error(f"answered {status} to {_path(response.url)}{self._message(body)}.", status)

    def _message(self, body: bytes) -> str:
        """What Grafana says of an error: one line, not the page of a proxy."""
        try:
            found = json.loads(body)["message"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""
        text = printable(str(found))[:300].rstrip(". ")
        return f": {text}" if text else ""

    def _error(self, text: str, status: int | None = None) -> GrafanaError:
        return GrafanaError(f"Grafana at {self._url} {text}".replace(self._token, "[token]"), status)


def _as_it_comes(response: requests.Response) -> Iterator[bytes]:
    """The body in pieces. `iter_content` waits for a whole piece, however it drips; urllib3 1 has nothing else."""
    read1 = getattr(response.raw, "read1", None)
    if read1 is None:
        yield from response.iter_content(256)
    else:
        yield from iter(lambda: read1(64 * 1024, decode_content=True), b"")


def _parsed(url: str) -> urllib.parse.SplitResult:
    expected = "expected http:// or https://, a host and perhaps a port and a path, such as http://127.0.0.1:3000"
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if usable and (parts.username is not None or parts.password is not None):
        raise ConfigError(f"grafana: {expected}; no name and no password in it. The token is read from a file.")
    if not usable or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"grafana={url!r}: {expected}.")
    return parts


def _joined(path: tuple[str, ...], query: dict[str, str] | None = None) -> str:
    """`/dashboards/uid/a%2Fb?x=1`. A part that is nothing but dots would climb, quoted or not."""
    for part in path:
        if not part.strip("."):
            raise ConfigError(f"{part!r}: expected an identifier of Grafana, of letters, digits, - and _.")
    joined = "".join("/" + urllib.parse.quote(part, safe="") for part in path)
    return f"{joined}?{urllib.parse.urlencode(query)}" if query else joined


def _path(url: str) -> str:
    return urllib.parse.urlsplit(url).path


def _reason(error: BaseException) -> str:
    """The innermost cause in a word: the outer ones hold whole URLs and representations of objects."""
    if isinstance(error, requests.Timeout):
        return "timed out"
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or type(error).__name__
