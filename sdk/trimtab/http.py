"""Asks a server one question at a time, and expects the worst of the answer.

Plain `http.client`: it follows no redirect, reads no `.netrc`, obeys no proxy variable, unpacks nothing. What a status
or a body means is for those who ask to say.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from email.message import Message
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

Problem: TypeAlias = Literal["unreachable", "untrusted", "cut off", "too large", "not HTTP"]

CONNECT_S = 3.0


class NoResponse(Exception):
    """A server gave no whole answer. The message is what it does instead, a sentence without its subject."""

    def __init__(self, kind: Problem, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Response(NamedTuple):
    """A whole answer, of whatever status."""

    status: int
    headers: Message
    body: bytes


class Server:
    """One server, by its address. `token` goes into each question, and into nothing else.

    A question takes `CONNECT_S` until the server has taken the call and `answer_s` from there, however slowly it
    drips; an answer has `largest` bytes at most. `trust` is what its certificate is checked by, where it has TLS.
    """

    def __init__(
        self,
        address: str,
        token: bytes | None = None,
        *,
        trust: ssl.SSLContext | None = None,
        answer_s: float,
        largest: int,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        parts = urlsplit(address)
        self.address = address.rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)  # else it is looked for in an IPv6 address
        self._path = parts.path.rstrip("/")
        self._tls = (trust or ssl.create_default_context()) if parts.scheme == "https" else None
        self._answer_s, self._largest = answer_s, largest
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "trimtab", **(headers or {})}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token.decode('ascii')}"

    def get(self, path: str) -> Response:
        """The answer to `GET path`, which may have a query.

        Raises:
            NoResponse: none came, or not all of it.
        """
        with self._told_apart(), contextlib.closing(self._connection()) as connection:
            connection.sock = connected = self._connected()
            with self._cut_off(connected):
                if isinstance(connected, ssl.SSLSocket):
                    connected.do_handshake()
                connection.request("GET", (self._path + path) or "/", headers=self._headers)
                with connection.getresponse() as answer:
                    return self._whole(answer)

    def _connection(self) -> http.client.HTTPConnection:
        """Not connected: its own way has a limit for each read of a handshake, and none for all of it."""
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port)
        return http.client.HTTPSConnection(self._host, self._port, context=self._tls)

    def _connected(self) -> socket.socket:
        try:
            connected = socket.create_connection((self._host, self._port), CONNECT_S)
        except TimeoutError as error:
            raise NoResponse("unreachable", f"cannot be reached within {CONNECT_S:g} s") from error
        connected.settimeout(self._answer_s)
        if self._tls is None:
            return connected
        return self._tls.wrap_socket(connected, server_hostname=self._host, do_handshake_on_connect=False)

    def _whole(self, answer: http.client.HTTPResponse) -> Response:
        body = answer.read(self._largest + 1)
        if len(body) > self._largest:
            raise NoResponse("too large", f"answers with more than {self._largest:,} bytes")
        if answer.length:
            raise http.client.IncompleteRead(body, answer.length)
        return Response(answer.status, answer.headers, body)

    @contextlib.contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Translates what sockets and `http.client` raise."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise NoResponse("untrusted", f"is not trusted ({error.verify_message})") from error
        except ConnectionRefusedError as error:
            raise NoResponse("unreachable", f"cannot be reached ({error.strerror})") from error
        except (TimeoutError, http.client.IncompleteRead, ConnectionError) as error:
            raise NoResponse("cut off", f"does not answer within {self._answer_s:g} s, or in part only") from error
        except OSError as error:
            raise NoResponse("unreachable", f"cannot be reached ({error.strerror or error})") from error
        except (http.client.HTTPException, ValueError) as error:
            raise NoResponse("not HTTP", "does not speak HTTP") from error

    @contextlib.contextmanager
    def _cut_off(self, connected: socket.socket) -> Iterator[None]:
        """A time limit for each read alone would let a server drip for ever. Raises TimeoutError where it cut."""
        late = threading.Event()

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._answer_s, cut)
        timer.name, timer.daemon = "trimtab-deadline", True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if late.is_set():  # what was read by then looks like a short answer
                raise TimeoutError
