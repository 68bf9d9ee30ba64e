"""Serves one WSGI application inside a process that has better things to do: cheroot, made a good guest.

Everything runs in daemon threads. A connection gets a worker only once the head of its request is there, so idle and
slow clients cost a descriptor and no worker; a request that takes longer than `REQUEST_S` is cut off. Requests beyond
`RATE` are made to wait, since what answers them takes turns with training.
Nothing is written to stderr. A forked child lets go of the listening socket.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
import threading
import time
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from cheroot import wsgi
from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.ssl import Adapter

from trimtab.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 6
BACKLOG = 64
IDLE_S = 10  # after which an idle connection is closed
EXPIRY_S = 2.0  # how often one looks for those; each time wakes a thread
REQUEST_S = 5.0  # from a request's first byte to the end of its answer, TLS handshake included
CONNECTIONS = 64  # that are kept waiting; for one more, that which has waited longest is closed
RATE = 200.0  # requests a second in the long run: each holds the interpreter for about 0.5 ms
BURST = 400  # at once
HEADER_BYTES = 16_384
BODY_BYTES = 4_096  # unless the application takes more
UNREAD_BYTES = 4 * 1024 * 1024  # of a request that was refused, which are read so that its client sees why
UNREAD_S = 0.5  # for them, and more for who sends at this rate
UNREAD_RATE = 1024 * 1024  # bytes a second
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
    following = range(port + 1, min(port + NEXT_PORTS + 1, 65536))
    candidates = [port] if exact or port == 0 else [port, *following, 0]
    for candidate in candidates:
        try:
            return _listening_on(host, candidate)
        except UnicodeError as error:  # an empty part, or one that is too long
            raise _cannot_listen(host, port, "not a name of a host") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _cannot_listen(host, port, error.strerror) from error
    raise BackendError(
        f"port={port}: already in use on {host}. Give another with port= or TRIMTAB_PORT, 0 for any free one, "
        "or leave it out and the next free one is taken."
    )


def _cannot_listen(host: str, port: int, why: str | None) -> BackendError:
    return BackendError(
        f"host={host!r}, port={port}: cannot listen there ({why}). Give an address of this machine with host= or "
        "TRIMTAB_HOST, and a port that you may use."
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
        if os.name == "posix":  # taken over too: what is left of them must not keep the next server from this port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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

    def send_headers(self) -> None:
        """cheroot would wait for the body of a request that the application has answered without it."""
        if getattr(self.rfile, "remaining", 0) > 0 or self.chunked_read:
            self.close_connection = self.conn.refused = True
        super().send_headers()


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request
    refused = False
    has_begun = False  # to send a head, or to agree on TLS
    begun_at = 0.0  # when that was seen first
    shaken = False  # whether TLS is agreed on

    def __init__(self, server: Any, sock: socket.socket, _: object) -> None:
        super().__init__(server, sock, _makefile)  # without TLS cheroot gives one that cannot keep anything

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

    def close(self) -> None:
        """Lets go of an answer that nobody took, too: Python 3.13 would say aloud that it cannot be sent any more."""
        super().close()
        if not self.linger:
            with contextlib.suppress(OSError):
                self.wfile.close()

    def _read_the_rest(self) -> None:
        """A connection that is closed with something unread takes the answer back from a client that still sends."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            read, until = 0, time.monotonic() + UNREAD_S
            while read < UNREAD_BYTES and (left_s := until + read / UNREAD_RATE - time.monotonic()) > 0:
                self.socket.settimeout(left_s)
                piece = self.socket.recv(65_536)
                if not piece:
                    return
                read += len(piece)

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Turnstile:
    """Lets `burst` pass at once, and `rate` a second in the long run."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / rate
        self._ahead_s = (burst - 1) / rate
        self._clock = clock
        self._free_at = clock()  # when everything that passed would have passed at the rate
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """Take one's turn. Returns for how long to wait for it."""
        with self._lock:
            now = self._clock()
            wait_s = self._free_at - self._ahead_s - now
            self._free_at = max(self._free_at, now) + self._interval_s
            return max(wait_s, 0.0)


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
        self._turnstile = Turnstile(RATE, BURST)

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        self.socket = self._bound
        return self._bound

    def process_conn(self, conn: _Connection) -> None:
        """cheroot gives a connection to a worker at once, which then waits for its request to come."""
        if self._must_wait(conn):
            if not self.can_add_keepalive_connection:
                self._close_oldest()
            self.put_conn(conn)
            if conn.has_begun:  # it is closed as idle when the head is not there REQUEST_S after it began
                conn.last_used = conn.begun_at - (IDLE_S - REQUEST_S)
        else:
            conn.has_begun = False
            time.sleep(self._turnstile.wait_s())  # while it does, nobody new is taken
            super().process_conn(conn)

    def _must_wait(self, conn: _Connection) -> bool:
        """Whether no worker is needed yet. A handshake is made as far as it goes; of a head, what is there is kept."""
        connected = conn.socket
        try:
            connected.settimeout(0)  # this is the thread that takes connections: it waits for nobody
            if isinstance(connected, ssl.SSLSocket) and not conn.shaken:
                connected.do_handshake()
                conn.shaken = True
                time.sleep(self._turnstile.wait_s())  # it costs as much as a request
            while not conn.rfile.has_data():
                piece = connected.recv(HEADER_BYTES)
                if not piece:
                    return False
                conn.rfile.keep(piece)
            return False
        except (BlockingIOError, ssl.SSLWantReadError):
            is_shaking = isinstance(connected, ssl.SSLSocket) and not conn.shaken
            conn.begun_at = conn.begun_at if conn.has_begun else time.time()
            conn.has_begun = is_shaking or conn.rfile.has_begun()
            return True
        except OSError:  # gone; or no TLS, or none that we speak: a worker finds that out, too
            return False
        finally:
            connected.settimeout(self.timeout)

    def _close_oldest(self) -> None:
        """On the thread of the selector, as all that takes connections from it must be."""
        selector = self._connections._selector  # type: ignore[attr-defined]
        waiting = [(each.last_used, fd, each) for fd, each in selector.connections if each is not self]
        if waiting:
            _, fd, oldest = min(waiting, key=lambda found: found[:2])
            selector.unregister(fd)
            oldest.close()

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        _log.debug("%s", msg, exc_info=traceback)


class _Reader(StreamReader):
    """Of a connection, which may be given what was read of it before."""

    _read_buf: bytes
    _read_pos: int

    def keep(self, piece: bytes) -> None:
        """Have `piece` read next, after what was kept before."""
        self._read_buf += piece

    def has_begun(self) -> bool:
        """Whether something is there."""
        return len(self._read_buf) > self._read_pos

    def has_data(self) -> bool:
        """Whether a worker has something to do: a whole head, or more than one may be."""
        kept = self._read_buf[self._read_pos :]
        return b"\r\n\r\n" in kept or len(kept) >= HEADER_BYTES


def _makefile(sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
    return _Reader(sock, mode, bufsize) if "r" in mode else StreamWriter(sock, mode, bufsize)


class _Tls(Adapter):
    """Leaves the handshake to `_Cheroot`: in `accept`, one silent client would stop everybody."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def bind(self, sock: socket.socket) -> socket.socket:
        return sock

    def wrap(self, sock: socket.socket) -> tuple[socket.socket, dict[str, str]]:
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), {}

    def get_environ(self) -> dict[str, str]:
        return {}

    makefile = staticmethod(_makefile)


_listening: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked child: the port must be free once the parent has closed it, however long the child lives."""
    for listening in list(_listening):
        with contextlib.suppress(OSError):
            os.close(listening.detach())
    _listening.clear()


os.register_at_fork(after_in_child=_let_go)
