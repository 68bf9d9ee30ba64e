"""Serves one WSGI application inside a process that has better things to do: cheroot, made a good guest.

Everything runs in daemon threads. A connection gets a worker only once its client has sent something, so idle clients
cost a descriptor and no worker; a request that takes longer than `REQUEST_S` is cut off, so slow ones do not keep it.
Nothing is written to stderr. A forked child lets go of the listening socket.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from cheroot import wsgi
from cheroot.makefile import MakeFile
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.ssl import Adapter

from trimtab.errors import BackendError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

WORKERS = 6
BACKLOG = 64
IDLE_S = 10  # after which an idle connection is closed
EXPIRY_S = 2.0  # how often one looks for those; each time wakes a thread
REQUEST_S = 5.0  # from a request's first byte to the end of its answer, TLS handshake included
CONNECTIONS = 64  # that are kept waiting; more go to a worker at once, and lose it after REQUEST_S
HEADER_BYTES = 16_384
BODY_BYTES = 4_096  # unless the application takes more
UNREAD_BYTES = 4 * 1024 * 1024  # of a request that was refused, which are read so that its client sees why
NEXT_PORTS = 100

_log = logging.getLogger("trimtab.http")


class Server:
    """A running server. `close` ends its threads and frees its port."""

    def __init__(
        self,
        listening: socket.socket,
        app: Callable[..., Any],
        tls: ssl.SSLContext | None = None,
        body_bytes: int = BODY_BYTES,
    ) -> None:
        self._address = listening.getsockname()[:2]
        self.port: int = self._address[1]
        self._server = _Cheroot(listening, app)
        self._server.max_request_body_size = body_bytes
        self._server.ssl_adapter = _Tls(tls) if tls else None
        _listening.add(listening)
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=_serve, args=(self._server, ready), name="trimtab-http", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except (OSError, RuntimeError):
            listening.close()
            raise

    def close(self) -> None:
        """May take a second: a request that is being answered is waited for."""
        stopping = threading.Thread(target=self._server.stop, name="trimtab-http-stop", daemon=True)
        stopping.start()
        while stopping.is_alive():
            # cheroot notices only when its selector wakes: with the next connection, or after EXPIRY_S.
            with contextlib.suppress(OSError):
                socket.create_connection(self._address, timeout=0.1).close()
            stopping.join(0.02)
        self._thread.join()
        # cheroot keeps every server that ever was, with all it refers to.
        getattr(logging, "statistics", {}).pop(f"Cheroot HTTPServer {id(self._server)}", None)


def listen(host: str, port: int, *, exact: bool) -> socket.socket:
    """A listening socket on `port`, or unless `exact` on one of the next hundred that is free, or on any.

    Raises:
        BackendError: `exact` and the port is taken, or `host` is not an address of this machine.
    """
    following = range(port + 1, min(port + NEXT_PORTS, 65536))
    candidates = [port] if exact or port == 0 else [port, *following, 0]
    for candidate in candidates:
        try:
            return _listening_on(host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise BackendError(f"host={host!r}, port={port}: cannot listen there ({error.strerror}).") from error
    raise BackendError(
        f"port={port}: already in use on {host}. Give another with port= or TRIMTAB_PORT, 0 for any free one, "
        "or leave it out and the next free one is taken."
    )


def _listening_on(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix" and port:  # elsewhere it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Taken over by its connections: an answer is written in two pieces, of which the second would wait 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _serve(server: _Cheroot, ready: Future[None]) -> None:
    """Workers inherit from the thread that starts them that they are daemons: hence not in the caller's thread."""
    try:
        server.prepare()
    except (OSError, RuntimeError) as error:
        ready.set_exception(error)
        return
    ready.set_result(None)
    server.serve()


class _Request(HTTPRequest):
    def simple_response(self, status: str, msg: str = "") -> None:
        """cheroot's own answer to what it does not read to the end."""
        super().simple_response(status, msg)
        self.conn.refused = True


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request
    refused = False

    def communicate(self) -> bool:
        """Reads a request and answers it, within `REQUEST_S`; cheroot's own timeout starts again with every byte."""
        cut = threading.Timer(REQUEST_S, self._cut)
        cut.name, cut.daemon = "trimtab-http-deadline", True
        cut.start()
        try:
            kept = bool(super().communicate())  # type: ignore[no-untyped-call]
            if self.refused and not kept:
                self._read_the_rest()
            return kept
        finally:
            cut.cancel()

    def _read_the_rest(self) -> None:
        """A connection that is closed with something unread takes the answer back from a client that still sends."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            unread = UNREAD_BYTES
            while unread > 0 and (piece := self.socket.recv(65_536)):
                unread -= len(piece)

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class _Cheroot(wsgi.Server):
    ConnectionClass = _Connection
    max_request_header_size = HEADER_BYTES
    max_request_body_size = BODY_BYTES
    keep_alive_conn_limit = CONNECTIONS
    expiration_interval = EXPIRY_S

    def __init__(self, listening: socket.socket, app: Callable[..., Any]) -> None:
        super().__init__(
            listening.getsockname()[:2],
            app,
            numthreads=WORKERS,
            server_name="trimtab",
            request_queue_size=BACKLOG,
            timeout=IDLE_S,
            shutdown_timeout=1,
            accepted_queue_size=CONNECTIONS,
            accepted_queue_timeout=1,
        )
        self._bound = listening

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        self.socket = self._bound
        return self._bound

    def process_conn(self, conn: HTTPConnection) -> None:
        """cheroot gives a new connection to a worker at once, which then waits for the first byte of its request."""
        new = conn.last_used is None
        if new and self.can_add_keepalive_connection:
            self.put_conn(conn)
        else:
            super().process_conn(conn)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        _log.debug("%s", msg, exc_info=traceback)


class _Tls(Adapter):
    """Leaves the handshake to the worker that reads first: in `accept`, one silent client would stop everybody."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def bind(self, sock: socket.socket) -> socket.socket:
        return sock

    def wrap(self, sock: socket.socket) -> tuple[socket.socket, dict[str, str]]:
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), {}

    def get_environ(self) -> dict[str, str]:
        return {}

    def makefile(self, sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
        return MakeFile(sock, mode, bufsize)


_listening: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked child: the port must be free once the parent has closed it, however long the child lives."""
    for listening in list(_listening):
        with contextlib.suppress(OSError):
            os.close(listening.detach())
    _listening.clear()


os.register_at_fork(after_in_child=_let_go)
