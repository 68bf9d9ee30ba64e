"""Asks one server one question at a time, and expects the worst of the answer.

Plain `http.client`: it follows no redirect, reads no `.netrc`, obeys no proxy variable, unpacks nothing. A question
takes `DEADLINE_S` at most, however slowly the answer drips, and an answer has `MAX_BYTES` at most.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from trimtab.errors import ConfigError

CONNECT_S = 3.0
DEADLINE_S = 8.0
MAX_BYTES = 4 * 1024 * 1024
_CROWDED = b"concurrent GET requests"  # in what Alertmanager says beside 503, which others say when nobody is there


class Unanswered(Exception):
    """A server did not answer as it should. `kind` is a word for it, the message a sentence without secrets."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class NotThere(Unanswered):
    """The server answers, and has nothing under that path."""


class Busy(Unanswered):
    """The server has others to answer just now: an Alertmanager does eight at a time, or `--web.get-concurrency`."""


class Client:
    """One server, by its address. `token` goes into each question, and into nothing else.

    Raises:
        ConfigError: the file of certificates cannot be used.
    """

    def __init__(self, address: str, token: bytes | None = None, certificates: Path | None = None) -> None:
        parts = urlsplit(address)
        self.address = address.rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)  # else it is looked for in an IPv6 address
        self._path = parts.path.rstrip("/")
        self._tls = _trusting(certificates) if parts.scheme == "https" else None
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "trimtab"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token.decode('latin-1')}"

    def get(self, path: str) -> bytes:
        """The body of the answer to `GET path`. Takes `CONNECT_S` and `DEADLINE_S` at most.

        Raises:
            Unanswered: no answer, or not one that may be read as JSON.
        """
        connection = self._connection()
        with _told_apart(self.address), contextlib.closing(connection):
            connection.connect()
            with _cut_off(connection.sock):
                connection.request("GET", self._path + path, headers=self._headers)
                return self._body(connection.getresponse())

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_S)
        return http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_S, context=self._tls)

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        status, kind = answer.status, answer.headers.get_content_type()
        if status in (401, 403):
            raise Unanswered("refused", f"{self.address} refuses the token ({status}). See alerts_token_file.")
        if 300 <= status < 400:
            raise Unanswered(
                "redirect", f"{self.address} redirects ({status}), which is not followed. Give the target."
            )
        if status == 404:
            raise NotThere("not there", f"{self.address} is neither an Alertmanager nor a Grafana (404).")
        if status == 429 or (status == 503 and _CROWDED in answer.read(256)):
            raise Busy("busy", f"{self.address} has too many to answer ({status}).")
        if status != 200:
            raise Unanswered("status", f"{self.address} answers {status}.")
        if kind != "application/json" or answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Unanswered("not JSON", f"{self.address} answers with something else than JSON. Is the address right?")
        body = answer.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise Unanswered("too large", f"{self.address} answers with more than {MAX_BYTES >> 20} MiB.")
        if answer.length:
            raise http.client.IncompleteRead(body, answer.length)
        return body


def _trusting(certificates: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificates)
    except OSError as error:
        raise ConfigError(
            f"alerts_ca_file={str(certificates)!r}: cannot be used ({error.strerror or error}). "
            "Give a file of certificates in PEM."
        ) from error


@contextlib.contextmanager
def _told_apart(address: str) -> Iterator[None]:
    """Translates what sockets and `http.client` raise."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message
        raise Unanswered("TLS", f"{address} is not trusted ({reason}). See alerts_ca_file.") from error
    except (TimeoutError, http.client.IncompleteRead, ConnectionError) as error:
        refused = isinstance(error, ConnectionRefusedError)
        text = "does not answer" if refused else f"does not answer within {DEADLINE_S:g} s, or in part only"
        raise Unanswered("unreachable" if refused else "cut off", f"{address} {text}.") from error
    except OSError as error:
        raise Unanswered("unreachable", f"{address} cannot be reached ({error.strerror or error}).") from error
    except (http.client.HTTPException, ValueError) as error:
        raise Unanswered("not HTTP", f"{address} does not speak HTTP.") from error


@contextlib.contextmanager
def _cut_off(connected: socket.socket) -> Iterator[None]:
    """A time limit for each read alone would let a server drip for ever. Raises TimeoutError where it had to cut."""
    connected.settimeout(DEADLINE_S)
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(DEADLINE_S, cut)
    timer.name, timer.daemon = "trimtab-alerts-deadline", True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():  # what was read by then looks like a short answer
            raise TimeoutError
