"""Serves the run's metrics to Prometheus: `GET /metrics`, and `GET /healthz` for whoever asks whether it is up."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from trimtab import discovery
from trimtab.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trimtab.types import Event, RunInfo
    from trimtab_backends.exposition import Exposition
    from trimtab_backends.scrapers import Scrapers
    from trimtab_backends.series import SeriesTable
    from trimtab_backends.server import Server

PATHS = ("/metrics", "/healthz")
WILDCARDS = ("", "0.0.0.0", "::")


class PrometheusBackend:
    """Serves on `config.host` and `config.port`, or on those given here. A rank adds its local rank to the port.

    A port that was asked for and is taken raises; otherwise the next free one is used, and `address` says which. A
    scrape of 1,000 series costs about 1.5 ms of Python, the first one 30 ms in pieces, between which training goes on.
    It shares no lock with training. While it serves, a file tells Prometheus where; see `trimtab.discovery`.
    """

    def __init__(self, *, host: str | None = None, port: int | None = None) -> None:
        self.address: str | None = None
        self.busy_seconds = 0.0  # of answering, in the server's threads
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._series: SeriesTable
        self._scrapers: Scrapers | None = None
        self._file: discovery.TargetFile | None = None
        self._linger_s: float | None = None
        self._written_at = 0.0
        self._mounted: dict[str, Callable[..., Iterable[bytes]]] = {}
        self._body_bytes = 0

    def mount(self, path: str, application: Callable[..., Iterable[bytes]], body_bytes: int) -> None:
        """Serve another WSGI application under `path` from `start` on. It checks access itself."""
        self._mounted[path] = application
        self._body_bytes = max(self._body_bytes, body_bytes)

    def start(self, run: RunInfo) -> None:
        """Bind the port and serve.

        Raises:
            BackendError: the port is taken, the host is not ours, the token file or TLS files cannot be used, or the
                file for discovery cannot be written.
        """
        from trimtab_backends.access import read_token, tls_context
        from trimtab_backends.exposition import Exposition
        from trimtab_backends.scrapers import Scrapers
        from trimtab_backends.series import SeriesTable
        from trimtab_backends.server import BODY_BYTES, Server, listen

        token, tls = read_token(run.config), tls_context(run.config)
        self._series = SeriesTable(run)
        self._scrapers, self._linger_s = Scrapers(), run.config.linger
        app = self._timed(self._routed(_application(Exposition(self._series), token, self._visited)))
        host = run.config.host if self._host is None else self._host
        self._server = Server(
            listen(host, self._port_of(run), exact=self._is_exact(run)), app, tls, max(BODY_BYTES, self._body_bytes)
        )
        self.address = _address(host, self._server.port, "https" if tls else "http")
        self._announce(run, self.address)

    def write(self, events: Sequence[Event]) -> None:
        self._series.take(events)
        self._written_at = time.monotonic()
        if self._file is not None:
            self._file.touch()

    def linger(self) -> None:
        """Wait until Prometheus has scraped the last state: for one scrape interval, or for the setting `linger`."""
        if self._server is not None and self._scrapers is not None:
            self._scrapers.wait(self._written_at, self._linger_s)

    def close(self) -> None:
        if self._file is not None:
            self._file.remove()
            self._file = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def _announce(self, run: RunInfo, address: str) -> None:
        directory = discovery.folder(run.config.targets, run.config.directory)
        try:
            self._file = discovery.TargetFile(directory, discovery.Target.of(run, address))
        except OSError as error:
            self.close()
            raise BackendError(
                f"targets={str(directory)!r}: cannot write a file there for Prometheus to find this run by "
                f"({error.strerror}). Give another directory: targets=..., or TRIMTAB_TARGETS_DIR."
            ) from error

    def _visited(self, client: str, at: float) -> None:
        if self._scrapers is not None:
            self._scrapers.visited(client, at)
        if self._file is not None:
            self._file.touch()

    def _routed(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        return lambda environ, start: self._mounted.get(environ["PATH_INFO"], app)(environ, start)

    def _timed(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def application(*args: Any) -> Iterable[bytes]:
            started = time.thread_time()
            try:
                return app(*args)
            finally:
                self.busy_seconds += time.thread_time() - started

        return application

    def _is_exact(self, run: RunInfo) -> bool:
        return self._port is not None or run.config.port_requested

    def _port_of(self, run: RunInfo) -> int:
        first = run.config.port if self._port is None else self._port
        port = first + run.local_rank if first else 0
        if port > 65535:
            raise BackendError(
                f"port={first}: rank {run.local_rank} of this machine would serve on {port}, and ports end at 65535. "
                f"Give at most {65535 - run.local_rank}, or 0 for any free one."
            )
        return port


def _address(host: str, port: int, scheme: str) -> str:
    name = socket.gethostname() if host in WILDCARDS else host
    return f"{scheme}://[{name}]:{port}/metrics" if ":" in name else f"{scheme}://{name}:{port}/metrics"


def _application(
    exposition: Exposition, token: bytes | None, visited: Callable[[str, float], None]
) -> Callable[..., Iterable[bytes]]:
    """The WSGI application. `visited` is told of every page given: to whom, and when it was made."""
    from trimtab_backends.access import may_read

    def respond(environ: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path not in PATHS:
            return "404 Not Found", {}, b"Try /metrics or /healthz.\n"
        if method != "GET":
            return "405 Method Not Allowed", {"Allow": "GET"}, b"Only GET is served.\n"
        if path == "/healthz":
            return "200 OK", {}, b"ok"
        if not may_read(environ.get("HTTP_AUTHORIZATION", ""), token):
            return "401 Unauthorized", {"WWW-Authenticate": 'Bearer realm="trimtab"'}, b"A bearer token is needed.\n"
        asked_at = time.monotonic()
        content_type, page = exposition.page(environ.get("HTTP_ACCEPT", ""))
        visited(f"{environ.get('REMOTE_ADDR', '')} {environ.get('HTTP_USER_AGENT', '')}", asked_at)
        return "200 OK", {"Content-Type": content_type}, page

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, headers, body = respond(environ)
        plain = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
        start_response(status, list({**plain, **headers}.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application
