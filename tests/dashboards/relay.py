"""Stands between Prometheus and one run after another, under one address, and can fail."""

import http.client
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler

from loopback import LoopbackServer


class Relay(LoopbackServer):
    """Serves `url`. `target` is what a scrape is answered with; without one, or while `broken`, a scrape fails."""

    def __init__(self):
        self.target = None
        self.broken = False
        self.failed = 0  # scrapes
        super().__init__(self._handler(), "/metrics")

    def _answer(self, accept):
        if self.broken or self.target is None:
            raise ConnectionRefusedError
        request = urllib.request.Request(self.target, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.headers["Content-Type"], response.read()

    def _handler(relay):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                try:
                    kind, page = relay._answer(self.headers.get("Accept", ""))
                except (OSError, http.client.HTTPException):
                    relay.failed += 1
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_):
                pass

        return Handler
